"""AlexNet §4.1 crops: without shifted and mirrored images the net overfits.

AlexNet §4.1 colour: PCA colour noise lowers the error.
AlexNet §6 ten crops: averaging ten views lowers the error of the centre alone.

Trains `alexnet-small` on 10,000 images of CIFAR-10 for 90 epochs, where it overfits,
and tests it on all others. The nets see 28 of the 32 pixels: always the centre; random
places; random places, mirrored; and with colour noise too, as strong as the original
program's (see `augment.py`), except in the last ten epochs. Each net is tested on its
centre crop and on ten views.

Planned before the run: the paper gives no figure for crops, 1 point for colour and 1.5
points for ten crops. In a pilot of 20 nets on all images, test errors had a standard
deviation of 0.40 points over seeds. Given this deviation, five pairs of seeds detect a
difference of 1 point with 80% power. A pilot of the last arm had 13.4% training and
31.1% test error on the subset. Each arm's rate is 0.005 or 0.01; a seed that is not
counted chooses it.

Verdicts, by the rule in `alexvgg_jax/results.py`:
- crops: how much further the test error is above the training error (both without
  noise) for centre crops than for shifted and mirrored ones. No figure is published;
- colour: the test error without the noise minus that with it. Greyscale images cannot
  test the claim;
- ten crops: by how much ten views lower the error of the paper's nets.

    python experiments/alexnet_augment.py               # digits
    python experiments/alexnet_augment.py --data cifar10
"""

from dataclasses import replace

from _ablation import Experiment, dots
from _runs import SUBSET, TEN
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.config import Augment
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding

CROP = SUBSET.augment.crop
CENTRE, MIRRORED, PAPER = "centre crops", "crops, mirrored", "+ colour (paper)"
CROPS, COLOUR = "AlexNet §4.1 crops", "AlexNet §4.1 colour"
TEN_CROPS = "AlexNet §6 ten crops"


def published(tag: str) -> float:
    """Return the first figure that the paper gives."""
    return next(iter(paper.claim(tag).published.values())).value


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rules above."""
    gap = results.overfitting(arms, CENTRE, MIRRORED)
    lower = results.difference(arms, CENTRE, MIRRORED)
    noise = results.difference(arms, MIRRORED, PAPER)
    crops = {
        "gap, centre minus mirrored crops": gap,
        "test error, centre minus mirrored crops": lower,
        **results.each(arms, TEST),
        **results.each(arms, TRAINING),
    }
    colour = {"top-1 error, or lower": results.difference(arms, PAPER, MIRRORED)}
    gains = [record.figures[TEST] - record.figures[TEN] for record in arms[PAPER]]
    lost = results.estimate([-gain for gain in gains], "points")
    ten = {"top-1 error, ten crops": lost, **results.each(arms, TEN)}
    ten_views = results.verdict(results.estimate(gains), -published(TEN_CROPS))
    return {
        CROPS: Finding(crops, results.verdict(gap)),
        COLOUR: Finding(colour, results.verdict(noise, -published(COLOUR))),
        TEN_CROPS: Finding(ten, ten_views),
    }


EXPERIMENT = Experiment(
    "alexnet_augment",
    __doc__,
    arms={
        CENTRE: replace(SUBSET, augment=Augment(CROP, shift=False)),
        "random crops": replace(SUBSET, augment=Augment(CROP)),
        MIRRORED: replace(SUBSET, augment=Augment(CROP, mirror=True)),
        PAPER: SUBSET,
    },
    judge=judge,
    draw=dots(TEST, TRAINING),
    seeds=5,
    rates=(0.005, 0.01),
    views=(10,),
    colour=(COLOUR,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
