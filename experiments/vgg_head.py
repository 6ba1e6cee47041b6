"""VGG's head: fully-connected layers against global average pooling. (No claim.)

The fully-connected layers have nine tenths of the parameters of net A. GoogLeNet
averages the last maps instead. Trains net A, an eighth as wide, on all images of
CIFAR-10 by one schedule with either head. Both start from Glorot's weights. Without
hidden layers there is no dropout.

Planned before the run: no figure is published. In a pilot of 20 nets of
`alexnet-small`, test errors had a standard deviation of 0.40 points over seeds. The
difference of two such nets then has a deviation of at most 0.57 points. Given this
deviation, four pairs of seeds detect a difference of 1.2 points with 80% power. The
results page has the errors, the parameters, and the memory of a training step on 128
images as the compiler reports it. (`benchmarks/vgg_memory.py` has the memory of the
complete net D.)

Verdict: none, for no claim is tested.

    python experiments/vgg_head.py                      # digits
    python experiments/vgg_head.py --data cifar10
"""

import jax
from _ablation import Experiment, dots
from _runs import Measured, Trained, small_vgg
from _session import main

from alexvgg_jax import memory
from alexvgg_jax.results import TEST, TRAINING

PARAMETERS, MEMORY = "thousands of parameters", "MiB of a training step"


def measure(trained: Trained) -> Measured:
    """Return what a net takes of memory, for its parameters and to train."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    needed = memory.of_training(trained.work.net, trained.work.run.batch).total
    return Measured({PARAMETERS: parameters / 1000, MEMORY: needed / 2**20})


EXPERIMENT = Experiment(
    "vgg_head",
    __doc__,
    arms={
        "fully connected (paper)": small_vgg("vgg-a"),
        "global average": small_vgg("vgg-a", head="gap"),
    },
    judge=lambda _: {},
    draw=dots(TEST, TRAINING),
    seeds=4,
    first_seed=30,
    measure=measure,
    measures=(PARAMETERS, MEMORY),
)

if __name__ == "__main__":
    main(EXPERIMENT)
