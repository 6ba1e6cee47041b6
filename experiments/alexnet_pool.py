"""AlexNet §3.4: overlapping pooling, 3/2, has lower errors than 2/2 and overfits less.

`alexnet-small` with either; their maps have the same sizes. The published points are
the overlapping net minus the other. The gap is the test error above the training error,
both without noise; "slightly more difficult to overfit", it shows, and decides nothing.

Verdict: reproduced if the test error of 2/2 is higher by more than two standard errors,
not reproduced if lower by as much, undecided between.

    python experiments/alexnet_pool.py                  # digits
    python experiments/alexnet_pool.py --data cifar10
"""

from _arms import SMALL, Experiment, Options, options, switched
from _figures import TEST, TOP5, TRAINING, bars, each, overfitting

from alexvgg_jax.errors import one_line
from alexvgg_jax.report import difference, verdict

PAPER, OTHER = "3/2 (paper)", "2/2"
ARMS = {PAPER: SMALL, OTHER: switched(SMALL, pooling="2/2")}


def main() -> None:
    experiment = Experiment("alexnet_pool", options(__doc__, Options()))
    arms = experiment.arms(ARMS)
    ours = {
        "top-1 error points": difference(arms, PAPER, OTHER, TEST),
        "top-5 error points": difference(arms, PAPER, OTHER, TOP5),
        "gap to the training error, points": overfitting(arms, PAPER, OTHER),
        **each(arms, TEST),
        **each(arms, TRAINING),
    }
    found = verdict(difference(arms, OTHER, PAPER, TEST))
    experiment.finish({"AlexNet §3.4": (ours, found)}, arms, bars(TEST, TRAINING))


if __name__ == "__main__":
    with one_line():
        main()
