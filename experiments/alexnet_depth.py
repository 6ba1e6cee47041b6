"""AlexNet §7: removing any one of the middle convolutions raises the error.

Trains `alexnet-small`, and the same net without each of conv2 to conv5 in turn. The
layer's activation and normalisation go with it; pooling stays. (Without conv3, which
joins the towers, they first meet in fc6.) The nets without fc6 and without fc7, which
also lose one of two dropouts, are shown but do not decide: the claim is about
convolutions.

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error without each layer
minus the complete net's. The weakest of the four layers' verdicts counts, and it names
the layers that decide.

    python experiments/alexnet_depth.py                 # digits
    python experiments/alexnet_depth.py --data cifar10
"""

from _ablation import Experiment, dots
from _runs import SMALL, with_net
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, Arms, Finding

WHOLE = "complete"
MIDDLE = ("conv2", "conv3", "conv4", "conv5")
LAYERS = (*MIDDLE, "fc6", "fc7")


def without(layer: str) -> str:
    return f"without {layer}"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    lost = {arm: results.difference(arms, arm, WHOLE) for arm in map(without, LAYERS)}
    ours = {**lost, **results.each(arms, TEST)}
    (published,) = paper.claim("AlexNet §7").published.values()
    verdicts = {
        layer: results.verdict(lost[without(layer)], published.value)
        for layer in MIDDLE
    }
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
