"""AlexNet §3.4: overlapping pooling, 3/2, has lower errors than 2/2 and overfits less.

Trains `alexnet-small` with each. Their maps have the same sizes. The published points
are the overlapping net minus the other. The errors on the training set, without noise,
show how much each overfits; they do not decide.

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error of
2/2 minus that of 3/2.

    python experiments/alexnet_pool.py                  # digits
    python experiments/alexnet_pool.py --data cifar10
"""

from _ablation import ablation
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax.results import GAP, TEST, TOP5, TRAINING

PAPER, OTHER = "3/2 (paper)", "2/2"

EXPERIMENT = ablation(
    "alexnet_pool",
    __doc__,
    tag="AlexNet §3.4",
    arms={PAPER: SMALL, OTHER: with_net(SMALL, pooling=(2, 2))},
    better=PAPER,
    worse=OTHER,
    compared={"top-1 error": TEST, "top-5 error": TOP5, GAP: GAP},
    also_shown=(TEST, TRAINING),
    picture=(TEST, TRAINING),
)

if __name__ == "__main__":
    main(EXPERIMENT)
