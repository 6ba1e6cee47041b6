"""VGG Table 3: the error falls with depth, from 11 layers on, and saturates at 19.

VGG §4.1 LRN: response normalisation does not improve on net A.

Trains the six nets of table 1, an eighth as wide, on all images of CIFAR-10 by one
schedule: A, A-LRN, B, C, D and E, with Glorot's weights. They differ in depth alone,
except that A-LRN normalises after conv1_1.

Planned before the run: 2.6 points between A and D (table 3, S = Q = 256), and 0.1
between A-LRN and A. In a pilot of 20 nets of `alexnet-small`, test errors had a
standard deviation of 0.40 points over seeds. The difference of two such nets then has a
deviation of at most 0.57 points. Given this deviation, three pairs of seeds detect a
difference of 1.9 points with 80% power. A and A-LRN have eight seeds: if LRN does
nothing, its interval lies below 0.7 points with 80% power. These nets have no pilot of
their own: the results page has the training and test error of A.

Verdicts:
- depth: by the rule in `alexvgg_jax/results.py`, on the test error of A minus that of
  D. The note names the net with the lowest mean error over the seeds of D, which does
  not decide;
- LRN: contradicts here if the interval of the test error of A minus that of A-LRN lies
  above 0; agrees if it lies below 0.7 points, half of what AlexNet §3.3 publishes;
  undecided otherwise.

    python experiments/vgg_depth.py                     # digits
    python experiments/vgg_depth.py --data cifar10
"""

from statistics import fmean

from _ablation import Experiment, dots
from _runs import small_vgg
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import TEST, TOP5, TRAINING, Arms, Finding, Verdict

DEPTH, LRN = "VGG Table 3", "VGG §4.1 LRN"
COLUMNS = ("A", "A-LRN", "B", "C", "D", "E")
HELPS = -paper.claim("AlexNet §3.3").published["top-1 error"].value / 2


def does_not_help(gain: Figure) -> Verdict:
    """Apply the rule of LRN to the points that it gains."""
    if gain.margin is None:
        return results.verdict(gain)
    if gain.value - gain.margin > 0:
        return Verdict("contradicts here")
    small = gain.value + gain.margin < HELPS
    return Verdict("agrees" if small else "undecided")


def lowest(arms: Arms) -> str:
    """Return the net with the lowest mean test error over the seeds that A and D have,
    among the nets that have these seeds."""
    seeds = {record.seed for record in arms["A"]} & {r.seed for r in arms["D"]}
    errors = {
        arm: [record.figures[TEST] for record in records if record.seed in seeds]
        for arm, records in arms.items()
    }
    whole = (arm for arm, of_arm in errors.items() if len(of_arm) == len(seeds))
    return min(whole, key=lambda arm: fmean(errors[arm]))


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rules above to the arms that have records."""
    findings = {}
    if {"A", "D"} <= arms.keys():
        pairs = [("D", "A"), *([("E", "D")] if "E" in arms else [])]
        ours = {
            f"top-1 error, {deep} minus {flat}": results.difference(arms, deep, flat)
            for deep, flat in pairs
        }
        for figure in (TEST, TOP5, TRAINING):
            ours |= results.each(arms, figure)
        published = -paper.claim(DEPTH).published["top-1 error, D minus A"].value
        decided = results.verdict(results.difference(arms, "A", "D"), published)
        decided = decided.because(f"lowest: {lowest(arms)}")
        findings[DEPTH] = Finding(ours, decided, ("A", "D"))
    if {"A", "A-LRN"} <= arms.keys():
        lost = results.difference(arms, "A-LRN", "A")
        decided = does_not_help(results.difference(arms, "A", "A-LRN"))
        ours = {"top-1 error, A-LRN minus A": lost}
        findings[LRN] = Finding(ours, decided, ("A", "A-LRN"))
    return findings


EXPERIMENT = Experiment(
    "vgg_depth",
    __doc__,
    arms={column: small_vgg(f"vgg-{column.lower()}") for column in COLUMNS},
    judge=judge,
    draw=dots(TEST, TRAINING),
    seeds=8,
    few_seeds=dict.fromkeys(("B", "C", "D", "E"), 3),
    partial=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
