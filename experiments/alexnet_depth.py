"""AlexNet §7: removing any one of the middle convolutions raises the error.

Trains `alexnet-small`, and the same net without each of conv2 to conv5 in turn. The
layer's activation and normalisation go with it; pooling stays. The published figure,
about 2 points, is compared with the mean over the four. (Without conv3, which joins the
towers, they first meet in fc6.) The nets without fc6 and without fc7, which also lose
one of two dropouts, are shown but do not decide: the claim is about convolutions.

Verdict: reproduced if the test error of each of the four is higher than the complete
net's by more than two standard errors, not reproduced if any is lower by as much,
undecided otherwise. It names the layers that decide. Four layers that do nothing would
by chance give "not reproduced" once in 10 times.

    python experiments/alexnet_depth.py                 # digits
    python experiments/alexnet_depth.py --data cifar10
"""

from _ablation import Experiment, dots
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax import results
from alexvgg_jax.results import TEST, Arms, Finding

WHOLE = "complete"
MIDDLE = ("conv2", "conv3", "conv4", "conv5")
LAYERS = (*MIDDLE, "fc6", "fc7")


def without(layer: str) -> str:
    return f"without {layer}"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    lost = {arm: results.difference(arms, arm, WHOLE) for arm in map(without, LAYERS)}
    middle = results.difference(arms, [*map(without, MIDDLE)], WHOLE)
    ours = {
        "top-1 error, one middle layer removed": middle,
        **lost,
        **results.each(arms, TEST),
    }
    verdicts = {layer: results.verdict(lost[without(layer)]) for layer in MIDDLE}
    weakest = results.worst(*verdicts.values())
    names = [layer for layer in MIDDLE if verdicts[layer].word == weakest.word]
    decided = weakest.because(f"without {', '.join(names)}")
    return {"AlexNet §7": Finding(ours, decided)}


EXPERIMENT = Experiment(
    "alexnet_depth",
    __doc__,
    arms={WHOLE: SMALL}
    | {without(layer): with_net(SMALL, without=layer) for layer in LAYERS},
    judge=judge,
    draw=dots(TEST),
)

if __name__ == "__main__":
    main(EXPERIMENT)
