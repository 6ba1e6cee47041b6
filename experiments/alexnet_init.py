"""AlexNet §5 biases: biases of 1 accelerate the early stages of learning.

Trains `alexnet-small` for two epochs at one rate, with the paper's biases (1 in conv2,
conv4, conv5, fc6 and fc7) and with biases of 0. Early means the mean training error
over both epochs, with all noise, as batches come. Each epoch is shown too.

Planned before the run: the paper gives no figure. In three earlier pairs the difference
had a standard deviation of 0.95 points. Given this deviation, six pairs of seeds detect
a difference of 1.4 points with 80% power. (These two epochs were chosen after the
earlier pairs had been seen.) After 18 epochs, those nets had about 25% training and 28%
test error.

Verdict: by the rule in `alexvgg_jax/results.py`, on that error with biases of 0 minus
that with biases of 1.

    python experiments/alexnet_init.py                  # digits
    python experiments/alexnet_init.py --data cifar10
"""

from dataclasses import replace
from statistics import fmean

from _ablation import Experiment, curves
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax import results
from alexvgg_jax.results import TRAINING, Arms, Finding, Record, Verdict

EARLY, EPOCHS = "training error during the first two epochs", 2
SHORT = replace(SMALL, epochs=EPOCHS, optim=replace(SMALL.optim, drop_epochs=()))
TAG = "AlexNet §5 biases"
PAPER, ZERO = "biases of 1 (paper)", "biases of 0"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above, to errors read off the curves."""
    names = [f"training error during epoch {i}" for i in range(1, EPOCHS + 1)]

    def with_early(record: Record) -> Record:
        errors = record.curves[TRAINING][:EPOCHS]
        named = dict(zip(names, errors, strict=False)) | {EARLY: fmean(errors)}
        return replace(record, figures=record.figures | named)

    arms = {arm: [with_early(r) for r in records] for arm, records in arms.items()}
    if arms[PAPER][0].epochs < EPOCHS:
        return {TAG: Finding({}, Verdict("not tested", "fewer than two epochs"))}
    shown = (EARLY, *names)
    ours = {name: results.difference(arms, PAPER, ZERO, name) for name in shown}
    ours |= results.each(arms, EARLY)
    effect = results.difference(arms, ZERO, PAPER, EARLY)
    return {TAG: Finding(ours, results.verdict(effect))}


EXPERIMENT = Experiment(
    "alexnet_init",
    __doc__,
    arms={PAPER: SHORT, ZERO: with_net(SHORT, bias_init=0.0)},
    judge=judge,
    draw=curves(TRAINING),
    seeds=6,
)

if __name__ == "__main__":
    main(EXPERIMENT)
