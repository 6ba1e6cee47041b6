"""VGG §4.1 5x5: pairs of 3x3 convolutions have lower errors than single 5x5 ones.

VGG §4.1 1x1: C, with three further 1x1 layers, beats B, and D, with 3x3 ones, beats C.

Trains nets B, C and D of table 1, and B with each pair of 3x3 layers replaced by one of
5x5, an eighth as wide, on all images of CIFAR-10 by one schedule, with Glorot's
weights. The 5x5 net sees as much with half as many convolutions and 5% more
parameters. (`network_sizes.py` counts weights, and measures what stacks of 3x3 layers
see: VGG §2.3.)

Planned before the run: 7 points for 5x5; 0.6 between B and C, and 1.1 between C and D
(table 3, S = Q = 256). In a pilot of 20 nets of `alexnet-small`, test errors had a
standard deviation of 0.40 points over seeds. The difference of two such nets then has a
deviation of at most 0.57 points. Given this deviation, three pairs of seeds detect a
difference of 1.9 points with 80% power, and five pairs one of 0.96. For 0.6 points,
five pairs have a power of 43%, and ten pairs 80%. These nets have no pilot of their
own: the results page has the training and test error of B.

Verdicts, by the rule in `alexvgg_jax/results.py`:
- 5x5: the test error of the 5x5 net minus that of B;
- 1x1: the test error of B minus that of C, and of C minus that of D. The weaker of the
  two verdicts counts.

    python experiments/vgg_small_filters.py             # digits
    python experiments/vgg_small_filters.py --data cifar10
"""

from _ablation import Experiment, dots
from _runs import small_vgg
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding

LARGE, ONES = "VGG §4.1 5x5", "VGG §4.1 1x1"
OTHER = "B 5x5"


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rules above to the arms that have records."""
    findings = {}
    if {"B", OTHER} <= arms.keys():
        lost = results.difference(arms, OTHER, "B")
        ours = {"top-1 error, 5x5 net": lost} | results.each(arms, TEST)
        published = paper.claim(LARGE).published["top-1 error, 5x5 net"].value
        findings[LARGE] = Finding(ours, results.verdict(lost, published), ("B", OTHER))
    if {"B", "C", "D"} <= arms.keys():
        published, ours, decided = paper.claim(ONES).published, {}, []
        for more, fewer in (("D", "C"), ("C", "B")):
            name = f"top-1 error, {more} minus {fewer}"
            ours[name] = results.difference(arms, more, fewer)
            gain = results.difference(arms, fewer, more)
            decided.append(results.verdict(gain, -published[name].value))
        ours |= results.each(arms, TEST) | results.each(arms, TRAINING)
        findings[ONES] = Finding(ours, results.worst(*decided), ("B", "C", "D"))
    return findings


EXPERIMENT = Experiment(
    "vgg_small_filters",
    __doc__,
    arms={
        column: small_vgg(f"vgg-{column.lower().replace(' ', '-')}")
        for column in ("B", OTHER, "C", "D")
    },
    judge=judge,
    draw=dots(TEST, TRAINING),
    seeds=5,
    first_seed=10,
    few_seeds={OTHER: 3},
    partial=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
