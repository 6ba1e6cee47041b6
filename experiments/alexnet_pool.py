"""AlexNet §3.4: overlapping pooling, 3/2, has lower errors than 2/2 and overfits less.

Trains `alexnet-small` on 10,000 images for 45 epochs, with a 5x5/1 conv1, so that the
pooled maps are 14, 7 and 3 pixels wide with either pooling. It is tested on all other
images. The published points are the overlapping net minus the other. The errors on the
training set, without noise, show how much each overfits; they do not decide.

Planned before the run: 0.4 points. In a pilot of 20 nets with a 5x5/2 conv1 on all
images, test errors had a standard deviation of 0.40 points over seeds. Given this
deviation, 17 pairs of seeds detect a difference of 0.4 points with 80% power. These
nets have no pilot of their own: the results page has the training and test error of the
first arm.

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error of 2/2 minus that of
3/2.

    python experiments/alexnet_pool.py                  # digits
    python experiments/alexnet_pool.py --data cifar10
"""

from _ablation import ablation
from _runs import SUBSET, scaled, with_net
from _session import main

from alexvgg_jax.results import GAP, TEST, TOP5, TRAINING

LARGE = with_net(scaled(SUBSET, 45), conv1=(5, 1))
PAPER, OTHER = "3/2 (paper)", "2/2"

EXPERIMENT = ablation(
    "alexnet_pool",
    __doc__,
    tag="AlexNet §3.4",
    arms={PAPER: LARGE, OTHER: with_net(LARGE, pooling=(2, 2))},
    better=PAPER,
    worse=OTHER,
    compared={"top-1 error": TEST, "top-5 error": TOP5, GAP: GAP},
    also_shown=(TEST, TRAINING),
    picture=(TEST, TRAINING),
    seeds=17,
)

if __name__ == "__main__":
    main(EXPERIMENT)
