"""AlexNet §4.2: dropout prevents overfitting and doubles the iterations to converge.

Trains `alexnet-small` with dropout 0.5 on fc6 and fc7, and without. With its schedule,
the gap between test and training error counts, both without noise. At a constant rate
and for three times as long, the epochs to converge count: a schedule's drops would make
both nets converge at one time. A pair of nets of one seed converges to the higher of
their two lowest test errors plus one point. The figure is the ratio of the epochs until
each first reaches that.

Verdict: by the rule in `alexvgg_jax/results.py`, the weaker of two: the gap without
dropout minus that with it, and the ratio against no effect at 1. The ratio is undecided
if a net at the constant rate diverges, or if its lowest error falls by more than half a
point in the last quarter of its epochs: it has not converged. The gap is undecided if a
net with its schedule diverges. (A first pair had not converged in 18 epochs, hence
three times as long.)

    python experiments/alexnet_dropout.py               # digits
    python experiments/alexnet_dropout.py --data cifar10
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from _ablation import Experiment, curves
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding, Verdict

CONSTANT = replace(
    SMALL, optim=replace(SMALL.optim, drop_epochs=()), epochs=3 * SMALL.epochs
)
MOST_FALL = 0.5  # points by which the error of a converged net may still fall
TAG = "AlexNet §4.2"
PAPER, WITHOUT = "dropout (paper)", "no dropout"
STEADY, STEADY_WITHOUT = "dropout, constant rate", "no dropout, constant rate"


def ratio(errors: Sequence[float], others: Sequence[float]) -> float:
    """Return how many times the other's epochs a net takes to converge."""
    level = max(min(errors), min(others)) + 1.0

    def epochs(curve: Sequence[float]) -> int:
        return next(i for i, error in enumerate(curve, start=1) if error <= level)

    return epochs(errors) / epochs(others)


def has_converged(errors: Sequence[float]) -> bool:
    """Whether the lowest error falls by at most MOST_FALL in the last quarter."""
    before = math.ceil(0.75 * len(errors))
    return min(errors[:before]) - min(errors) <= MOST_FALL


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    pairs = zip(arms[STEADY], arms[STEADY_WITHOUT], strict=True)
    ratios = [ratio(with_.curves[TEST], no.curves[TEST]) for with_, no in pairs]
    times = results.estimate(ratios, "times")
    published = paper.claim(TAG).published["iterations to converge"].value
    scheduled = {arm: arms[arm] for arm in (PAPER, WITHOUT)}
    gap = results.overfitting(scheduled, WITHOUT, PAPER)
    ours = {
        "iterations to converge": times,
        "gap, without dropout minus with": gap,
        **results.each(scheduled, TEST),
        **results.each(scheduled, TRAINING),
    }
    steady = [*arms[STEADY], *arms[STEADY_WITHOUT]]
    slow = sum(net.diverged or not has_converged(net.curves[TEST]) for net in steady)
    late = Verdict("undecided", f"{slow} of {len(steady)} nets have not converged")
    doubled = late if slow else results.verdict(times, published, null=1.0)
    decided = results.worst(results.verdict(gap), doubled)
    return {TAG: Finding(ours, decided)}


EXPERIMENT = Experiment(
    "alexnet_dropout",
    __doc__,
    arms={
        PAPER: SMALL,
        WITHOUT: with_net(SMALL, dropout=0.0),
        STEADY: CONSTANT,
        STEADY_WITHOUT: with_net(CONSTANT, dropout=0.0),
    },
    judge=judge,
    draw=curves(TEST, dashed=(STEADY, STEADY_WITHOUT)),
)

if __name__ == "__main__":
    main(EXPERIMENT)
