"""AlexNet §5 biases: biases of 1 accelerate the early stages of learning.

`alexnet-small` with the paper's biases, 1 in conv2, conv4, conv5, fc6 and fc7, and with
0 everywhere. Early is the training error during the second epoch, with all noise, as
batches come; how far the biases lead in each of the first five is shown too.

Verdict: reproduced if that error is higher with biases of 0 by more than two standard
errors, not reproduced if lower by as much, undecided between.

    python experiments/alexnet_init.py                  # digits
    python experiments/alexnet_init.py --data cifar10
"""

from _arms import SMALL, Experiment, Options, options, switched
from _figures import TEST, TRAINING, curves, each

from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.report import difference, verdict

EPOCH = 2  # that decides
FIRST = [f"training error during epoch {epoch}, %" for epoch in range(1, 6)]
EARLY = FIRST[EPOCH - 1]
PAPER, ZERO = "biases of 1 (paper)", "biases of 0"
ARMS = {PAPER: SMALL, ZERO: switched(SMALL, one=0.0)}


def main() -> None:
    given = options(__doc__, Options())
    if given.epochs == 1:
        raise InputError(f"--epochs 1: the claim is about epoch {EPOCH}")
    experiment = Experiment("alexnet_init", given)
    arms = experiment.arms(ARMS)
    seeds = [seed for of_arm in arms.values() for seed in of_arm]
    for seed in seeds:
        errors = (error for _, error in seed["training curve"])
        seed.update(zip(FIRST, errors, strict=False))  # a short run has fewer
    ours = {"early training error, points": difference(arms, PAPER, ZERO, EARLY)}
    for figure in (name for name in FIRST if name in seeds[0]):
        ours[f"{figure[:-3]}, points"] = difference(arms, PAPER, ZERO, figure)
    ours |= each(arms, EARLY) | each(arms, TEST)
    found = verdict(difference(arms, ZERO, PAPER, EARLY))
    drawn = curves(TRAINING, of="training curve")
    experiment.finish({"AlexNet §5 biases": (ours, found)}, arms, drawn)


if __name__ == "__main__":
    with one_line():
        main()
