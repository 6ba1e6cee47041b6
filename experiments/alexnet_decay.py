"""AlexNet §5 decay: weight decay of 0.0005 lowers the training error itself.

Trains `alexnet-small` on 10,000 images of CIFAR-10 for 90 epochs, where it overfits,
and tests it on all others. One arm has no weight decay. The training error is measured
at the end on all training images, without noise: with all units and centre crops.

Planned before the run: the paper gives no figure. In three earlier pairs on all images,
the difference of the training errors had a standard deviation of 0.07 points. On the
subset it is unknown. If it is 0.57 points there, four pairs of seeds detect a
difference of 1.2 points with 80% power. A pilot of the first arm had 13.4% training and
31.1% test error on the subset. Each arm's rate is 0.005 or 0.01; a seed that is not
counted chooses it.

Verdict: by the rule in `alexvgg_jax/results.py`, on the training error
without decay minus that with it. The paper gives no figure.

    python experiments/alexnet_decay.py                 # digits
    python experiments/alexnet_decay.py --data cifar10
"""

from dataclasses import replace

from _ablation import ablation
from _runs import SUBSET
from _session import main

from alexvgg_jax.results import TEST, TRAINING

PAPER, WITHOUT = "0.0005 (paper)", "no decay"

EXPERIMENT = ablation(
    "alexnet_decay",
    __doc__,
    tag="AlexNet §5 decay",
    arms={
        PAPER: SUBSET,
        WITHOUT: replace(SUBSET, optim=replace(SUBSET.optim, weight_decay=0.0)),
    },
    better=PAPER,
    worse=WITHOUT,
    figure=TRAINING,
    also_shown=(TRAINING, TEST),
    picture=(TEST, TRAINING),
    seeds=4,
    first_seed=10,
    rates=(0.005, 0.01),
)

if __name__ == "__main__":
    main(EXPERIMENT)
