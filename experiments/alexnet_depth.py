"""AlexNet §7: removing any one of the middle convolutions raises the error.

Trains `alexnet-small` with a 5x5/1 conv1, whose conv3 to conv5 see 7x7 maps, and the
same net without each of conv2 to conv5 in turn. The layer's activation and
normalisation go with it; pooling stays. (Without conv3, which joins the towers, they
first meet in fc6.)

Planned before the run: about 2 points for each layer. In a pilot of 20 nets with a
5x5/2 conv1, test errors had a standard deviation of 0.40 points over seeds. Given this
deviation, five pairs of seeds detect a difference of 1 point with 80% power. These nets
have no pilot of their own: the results page has the training and test error of the
complete net. Training takes 30 epochs of all images.

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error without each layer
minus the complete net's. The weakest of the four layers' verdicts counts, and it names
the layers that decide. The figure beside the published one is the smallest of the four.

    python experiments/alexnet_depth.py                 # digits
    python experiments/alexnet_depth.py --data cifar10
"""

from _ablation import Experiment, dots
from _runs import SMALL, scaled, with_net
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, Arms, Finding

WHOLE = "complete"
MIDDLE = ("conv2", "conv3", "conv4", "conv5")
LARGE = with_net(scaled(SMALL, 30), conv1=(5, 1))


def without(layer: str) -> str:
    return f"without {layer}"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    lost = {arm: results.difference(arms, arm, WHOLE) for arm in map(without, MIDDLE)}
    ((name, published),) = paper.claim("AlexNet §7").published.items()
    least = min(lost.values(), key=lambda figure: figure.value)
    ours = {name: least, **lost, **results.each(arms, TEST)}
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
    arms={WHOLE: LARGE}
    | {without(layer): with_net(LARGE, without=layer) for layer in MIDDLE},
    judge=judge,
    draw=dots(TEST),
    seeds=5,
)

if __name__ == "__main__":
    main(EXPERIMENT)
