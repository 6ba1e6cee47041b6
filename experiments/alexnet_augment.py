"""AlexNet §4.1 crops: without shifted and mirrored images the net overfits.

AlexNet §4.1 colour: PCA colour noise lowers the error.
AlexNet §6 ten crops: averaging ten views lowers the error of the centre alone.

`alexnet-small` on 28 of the 32 pixels: always the centre; random places; mirrored too;
with the colour noise as well (as much as the program's, see `augment.py`). Each is
tested with its centre crop and with ten views.

Verdicts: crops, reproduced if the test error lies further above the training error
(both without noise) for centre crops alone than for shifted and mirrored ones; colour,
if the test error without it is higher (by how much, the paper's images decide); ten
crops, if the mean over the paper's nets of their centre's error minus that of ten views
is above 0: each by more than two standard errors, not reproduced if below by as much,
undecided between. Grey images cannot test colour, and a net that diverges has no gap.

    python experiments/alexnet_augment.py               # digits
    python experiments/alexnet_augment.py --data cifar10
"""

from dataclasses import replace

from _arms import SMALL, Experiment, Options, no_colour, options
from _figures import MORE_VIEWS, TEST, TRAINING, bars, each, overfitting

from alexvgg_jax.config import Augment, Run
from alexvgg_jax.errors import one_line
from alexvgg_jax.report import difference, estimate, verdict

CROP = SMALL.augment.crop
TEN = MORE_VIEWS["ten"]


def augmented(config: Augment) -> Run:
    return replace(SMALL, augment=config)


CENTRE, MIRRORED, PAPER = "centre crops", "crops, mirrored", "+ colour (paper)"
ARMS = {
    CENTRE: augmented(Augment(CROP, shift=False)),
    "random crops": augmented(Augment(CROP)),
    MIRRORED: augmented(Augment(CROP, mirror=True)),
    PAPER: SMALL,
}


def main() -> None:
    experiment = Experiment("alexnet_augment", options(__doc__, Options()))
    arms = experiment.arms(ARMS, views=("ten",))
    overfits = overfitting(arms, CENTRE, MIRRORED)
    crops = {
        "gap to the training error, points": overfits,
        "test error, points": difference(arms, CENTRE, MIRRORED, TEST),
        **each(arms, TEST),
        **each(arms, TRAINING),
    }
    colour = {"top-1 error points, or lower": difference(arms, PAPER, MIRRORED, TEST)}
    gained = [seed[TEST] - seed[TEN] for seed in arms[PAPER]]
    views = {
        "top-1 error points, ten crops": estimate([-points for points in gained]),
        **each(arms, TEN),
    }
    findings = {
        "AlexNet §4.1 crops": (crops, verdict(overfits)),
        "AlexNet §4.1 colour": (
            colour,
            no_colour(experiment) or verdict(difference(arms, MIRRORED, PAPER, TEST)),
        ),
        "AlexNet §6 ten crops": (views, verdict(estimate(gained))),
    }
    experiment.finish(findings, arms, bars(TEST, TRAINING))


if __name__ == "__main__":
    with one_line():
        main()
