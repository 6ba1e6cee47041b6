"""AlexNet §4.2: dropout prevents overfitting and doubles the iterations to converge.

`alexnet-small` with dropout 0.5 on fc6 and fc7, and without: once with its schedule, of
which the gap between test and training error counts, both without noise; and once at a
constant rate for three times as long, for a schedule's drops would make both converge
at one time. A pair of nets of one seed converges to the higher one of their lowest test
errors plus one point; the figure is the ratio of the epochs until each first comes
below that.

Verdict: reproduced if the gap without dropout is larger, and the ratio is above 1.5,
half-way to the published 2, both by more than two standard errors; not reproduced if
either is smaller by as much; undecided between. The ratio is undecided if a net at the
constant rate diverges, or if its lowest error falls by more than half a point in the
last quarter of its epochs, for it has not converged; the gap, if a net with its
schedule diverges. (Three times as long, and the last quarter, since a first pair had
not converged in 18 epochs.)

    python experiments/alexnet_dropout.py               # digits
    python experiments/alexnet_dropout.py --data cifar10
"""

import math
from dataclasses import replace

from _arms import SMALL, Experiment, Options, options, switched
from _figures import TEST, TRAINING, curves, each, overfitting, worst

from alexvgg_jax.errors import one_line
from alexvgg_jax.report import diverged, estimate, verdict

FIGURE = "iterations to converge, times"
CONSTANT = replace(
    SMALL, optim=replace(SMALL.optim, drop_epochs=()), epochs=3 * SMALL.epochs
)
UNEVEN = 0.5  # points, by which the error of a net that has converged may still fall
PAPER, WITHOUT = "dropout (paper)", "no dropout"
STEADY, STEADY_WITHOUT = "dropout, constant rate", "no dropout, constant rate"
ARMS = {
    PAPER: SMALL,
    WITHOUT: switched(SMALL, dropout=0.0),
    STEADY: CONSTANT,
    STEADY_WITHOUT: switched(CONSTANT, dropout=0.0),
}


def epochs_below(curve: list[list[float]], level: float) -> float:
    """The first epoch whose test error is at most `level`."""
    return next(epoch for epoch, error in curve if error <= level)


def ratio(curve: list[list[float]], other: list[list[float]]) -> float:
    """How many times the epochs of `other` does `curve` take to converge?"""
    level = max(min(error for _, error in each) for each in (curve, other)) + 1.0
    return epochs_below(curve, level) / epochs_below(other, level)


def has_converged(curve: list[list[float]]) -> bool:
    """Does the lowest error fall by no more than UNEVEN in the last quarter?"""
    errors = [error for _, error in curve]
    last = math.ceil(0.75 * len(errors))
    return min(errors[:last]) - min(errors) <= UNEVEN


def main() -> None:
    experiment = Experiment("alexnet_dropout", options(__doc__, Options()))
    arms = experiment.arms(ARMS)
    pairs = zip(arms[STEADY], arms[STEADY_WITHOUT], strict=True)
    times = estimate([ratio(one["curve"], other["curve"]) for one, other in pairs])
    scheduled = {arm: arms[arm] for arm in (PAPER, WITHOUT)}
    overfits = overfitting(scheduled, WITHOUT, PAPER)
    ours = {
        FIGURE: times,
        "gap to the training error without dropout, points": overfits,
        **each(scheduled, TEST),
        **each(scheduled, TRAINING),
    }
    steady = arms[STEADY] + arms[STEADY_WITHOUT]
    slow = sum(diverged(net) or not has_converged(net["curve"]) for net in steady)
    found = worst(
        verdict(overfits),
        f"undecided: {slow} of {len(steady)} nets have not converged"
        if slow
        else verdict(times, above=1.5),
    )
    experiment.finish(
        {"AlexNet §4.2": (ours, found)}, arms, curves(dashed=(STEADY, STEADY_WITHOUT))
    )


if __name__ == "__main__":
    with one_line():
        main()
