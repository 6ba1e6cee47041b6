"""AlexNet §5 biases: biases of 1 accelerate the early stages of learning.

Trains `alexnet-small` with the paper's biases (1 in conv2, conv4, conv5, fc6 and fc7)
and with biases of 0. Early means the training error during the second epoch, with all
noise, as batches come. The difference in each of the first five epochs is shown too.

Verdict: by the rule in `alexvgg_jax/results.py`, on that error with biases
of 0 minus that with biases of 1. The paper gives no figure.

    python experiments/alexnet_init.py                  # digits
    python experiments/alexnet_init.py --data cifar10
"""

from dataclasses import replace

from _ablation import Experiment, curves
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax import results
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding, Verdict

FIRST, DECIDES = 5, 2  # epochs shown; the one that decides
PAPER, ZERO = "biases of 1 (paper)", "biases of 0"


def early(epoch: int) -> str:
    return f"training error during epoch {epoch}"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above, to errors read off the curves."""
    epochs = min(FIRST, arms[PAPER][0].epochs)

    def with_early(record):
        errors = record.curves[TRAINING][:epochs]
        named = {early(i): error for i, error in enumerate(errors, start=1)}
        return replace(record, figures=record.figures | named)

    arms = {arm: [with_early(r) for r in records] for arm, records in arms.items()}
    if epochs < DECIDES:
        short = Verdict("not tested", f"epoch {DECIDES} decides")
        return {"AlexNet §5 biases": Finding({}, short)}
    order = [DECIDES, *(epoch for epoch in range(1, epochs + 1) if epoch != DECIDES)]
    ours = {early(i): results.difference(arms, PAPER, ZERO, early(i)) for i in order}
    ours |= results.each(arms, early(DECIDES)) | results.each(arms, TEST)
    effect = results.difference(arms, ZERO, PAPER, early(DECIDES))
    return {"AlexNet §5 biases": Finding(ours, results.verdict(effect))}


EXPERIMENT = Experiment(
    "alexnet_init",
    __doc__,
    arms={PAPER: SMALL, ZERO: with_net(SMALL, bias_init=0.0)},
    judge=judge,
    draw=curves(TRAINING),
)

if __name__ == "__main__":
    main(EXPERIMENT)
