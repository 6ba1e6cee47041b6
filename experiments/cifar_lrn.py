"""AlexNet §3.3 CIFAR-10: normalisation takes a four-layer net from 13% error to 11%.

The program's 13% net, two convolutions and two locally connected layers, by its own
recipe; and the same with the response normalisation of its 11% net, over 9 maps behind
pool1 and before pool2, with k = 1. Nothing else differs: the program's 11% net also has
twice the kernels in a layer, another decay and a longer schedule (`cifar_ladder.py`).
Errors are those of ten views, as the program's were then. Each net takes more than an
hour, and is trained once.

Verdict, on CIFAR-10: reproduced if the error with normalisation is lower by more than
two standard errors, not reproduced if higher by as much, undecided between. Of one seed
that error is the one of counting so many test images, of both nets (binomial), and the
verdict names it: they are the same images, which makes it less, and seeds differ, which
makes it more. Other data and shorter runs cannot test it.

    python experiments/cifar_lrn.py --data cifar10
    python experiments/cifar_lrn.py                     # digits
"""

import math

from _arms import Experiment, Options, not_cifar10, options, switched
from _figures import CENTRE, MORE_VIEWS, curves

from alexvgg_jax.config import RECIPES
from alexvgg_jax.errors import one_line
from alexvgg_jax.report import counted, difference, spread, verdict

WITHOUT, WITH = "cifar-13pct", "cifar-13pct with LRN"
_, PLAIN = RECIPES["cifar-13pct"]
ARMS = {WITHOUT: PLAIN, WITH: switched(PLAIN, lrn=True)}
FIGURES = {
    WITHOUT: "CIFAR-10 test error without LRN, %",
    WITH: "CIFAR-10 test error with LRN, %",
}
TEN = MORE_VIEWS["ten"]


def main() -> None:
    experiment = Experiment(
        "cifar_lrn", options(__doc__, Options(seeds=1)), PLAIN.epochs
    )
    arms = experiment.arms(ARMS, ("ten",))
    errors = {arm: spread([seed[TEN] for seed in seeds]) for arm, seeds in arms.items()}
    gain = difference(arms, WITHOUT, WITH, TEN)
    if once := experiment.given.seeds == 1:
        each = (counted(e["mean"], experiment.test.count) for e in errors.values())
        gain["error"] = math.hypot(*each)
    ours = {FIGURES[arm]: error for arm, error in errors.items()}
    ours["without minus with, points"] = gain
    found = not_cifar10(experiment) or verdict(gain) + "; one seed" * once
    findings = {"AlexNet §3.3 CIFAR-10": (ours, found)}
    experiment.finish(findings, arms, curves(CENTRE))


if __name__ == "__main__":
    with one_line():
        main()
