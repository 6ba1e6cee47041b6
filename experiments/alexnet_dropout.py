"""AlexNet §4.2: dropout prevents overfitting and doubles the iterations to converge.

Trains `alexnet-small` on 10,000 images of CIFAR-10 for 90 epochs, where it overfits,
and tests it on all others. One arm has no dropout on fc6 and fc7. The gap between test
and training error counts, both without noise.

Two more arms, with and without, train for 150 epochs, and divide their rate when ten
epochs brought no lower test error. Each net converges in its own time then. It has
converged at the first epoch whose test error is at most a point above its lowest. The
figure is the ratio of a pair's epochs.

Planned before the run: twice the iterations; the paper gives no figure for the gap. In
three earlier pairs on all images, the difference of the gaps had a standard deviation
of 0.61 points. Given this deviation, four pairs of seeds detect a difference of 1.3
points with 80% power. A pilot on the subset had 13.4% training and 31.1% test error
with dropout, 12.4 and 33.4% without. Each arm's rate is 0.005 or 0.01; a seed that is
not counted chooses it.

Verdict: by the rule in `alexvgg_jax/results.py`, the weaker of two: the gap without
dropout minus that with it, and the ratio against no effect at 1. The ratio is undecided
if a net of its arms diverges, or if its lowest error falls by more than half a point in
the last quarter of its epochs: it has not converged.

    python experiments/alexnet_dropout.py               # digits
    python experiments/alexnet_dropout.py --data cifar10
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from _ablation import Experiment, curves
from _runs import SUBSET, with_net
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding, Verdict

PLATEAU = replace(
    SUBSET,
    augment=replace(SUBSET.augment, colour_epochs=0.0),
    optim=replace(SUBSET.optim, drop_epochs=(), plateau=10, drops=2),
    epochs=150,
)
MOST_FALL = 0.5  # points by which the error of a converged net may still fall
TAG = "AlexNet §4.2"
PAPER, WITHOUT = "dropout (paper)", "no dropout"
FREE, FREE_WITHOUT = "dropout, plateau schedule", "no dropout, plateau schedule"


def epochs_to_converge(errors: Sequence[float]) -> int:
    """Return the first epoch whose error is at most a point above the lowest."""
    level = min(errors) + 1.0
    return next(i for i, error in enumerate(errors, start=1) if error <= level)


def has_converged(errors: Sequence[float]) -> bool:
    """Whether the lowest error falls by at most MOST_FALL in the last quarter."""
    before = math.ceil(0.75 * len(errors))
    return min(errors[:before]) - min(errors) <= MOST_FALL


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    with_, no = (
        [epochs_to_converge(record.curves[TEST]) for record in arms[arm]]
        for arm in (FREE, FREE_WITHOUT)
    )
    ratios = [slow / fast for slow, fast in zip(with_, no, strict=True)]
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
    free = [*arms[FREE], *arms[FREE_WITHOUT]]
    slow = sum(net.diverged or not has_converged(net.curves[TEST]) for net in free)
    late = Verdict("undecided", f"{slow} of {len(free)} nets have not converged")
    doubled = late if slow else results.verdict(times, published, null=1.0)
    decided = results.worst(results.verdict(gap), doubled)
    return {TAG: Finding(ours, decided)}


EXPERIMENT = Experiment(
    "alexnet_dropout",
    __doc__,
    arms={
        PAPER: SUBSET,
        WITHOUT: with_net(SUBSET, dropout=0.0),
        FREE: PLATEAU,
        FREE_WITHOUT: with_net(PLATEAU, dropout=0.0),
    },
    judge=judge,
    draw=curves(TEST, dashed=(FREE, FREE_WITHOUT)),
    seeds=4,
    first_seed=20,
    rates=(0.005, 0.01),
)

if __name__ == "__main__":
    main(EXPERIMENT)
