"""AlexNet §7: depth matters; a net without any middle convolution has higher errors.

`alexnet-small`, and the same net without each of conv2 to conv5 in turn: the layer and
its activation go, and what normalises it; pooling stays. The published figure, about 2
points, is compared with the mean over the four. (Without conv3, which joins the towers,
they first meet in fc6.) The net without fc6 or fc7, which loses one of two dropouts
too, is measured beside them; the claim is about convolutions.

Verdict: reproduced if the test error of every one of the four is higher than that of
the whole net by more than two standard errors, not reproduced if that of any is lower
by as much, undecided between; it names the layers that make it so. By chance one of
four that do nothing is lower by as much once in 10 times.

    python experiments/alexnet_depth.py                 # digits
    python experiments/alexnet_depth.py --data cifar10
"""

from _arms import SMALL, Experiment, Options, options, switched
from _figures import TEST, bars, each, worst

from alexvgg_jax.errors import one_line
from alexvgg_jax.report import difference, verdict

WHOLE = "whole"
MIDDLE = ("conv2", "conv3", "conv4", "conv5")
LAYERS = (*MIDDLE, "fc6", "fc7")
ARMS = {WHOLE: SMALL} | {
    f"without {layer}": switched(SMALL, without=layer) for layer in LAYERS
}


def main() -> None:
    experiment = Experiment("alexnet_depth", options(__doc__, Options()))
    arms = experiment.arms(ARMS)
    lost = {
        layer: difference(arms, f"without {layer}", WHOLE, TEST) for layer in LAYERS
    }
    middle = [f"without {layer}" for layer in MIDDLE]
    ours = {
        "top-1 error points, one middle layer removed": difference(
            arms, middle, WHOLE, TEST
        ),
        **{f"without {layer}, points": points for layer, points in lost.items()},
        **each(arms, TEST),
    }
    verdicts = {layer: verdict(lost[layer]) for layer in MIDDLE}
    found = worst(*verdicts.values())
    if ":" not in found:
        found += ": without " + ", ".join(k for k, v in verdicts.items() if v == found)
    experiment.finish({"AlexNet §7": (ours, found)}, arms, bars(TEST))


if __name__ == "__main__":
    with one_line():
        main()
