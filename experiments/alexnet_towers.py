"""AlexNet §3.2: two GPUs' towers have lower errors than one GPU with half the kernels.

AlexNet Figure 3: the first layer's kernels specialise, one tower in colour, the other
in none, "during every run".

Trains `alexnet-small` in two towers that join at conv3 and later, as in the paper; in
two towers that stay apart until fc8 (the program's net 150); on one GPU with half the
kernels of each convolution except the last (its net 145-half); and in one tower with
all kernels. The published points are the joined net minus the half.

A kernel's colour is the share of its squared weights that is not grey: what is left
without the mean over RGB. For figure 3, the difference between the towers' mean colours
is compared, for each net, with a thousand random halves of the same kernels.

Verdicts. Towers (times are not compared): by the rule in `alexvgg_jax/results.py`, on
the test error of the half minus that of the joined net. Figure 3: agrees if in every
joined net the towers differ by more than 95% of the random halves do, contradicts here
if in none, undecided otherwise or with one net. Greyscale images cannot test it.

    python experiments/alexnet_towers.py                # digits
    python experiments/alexnet_towers.py --data cifar10
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from _ablation import Experiment, dots
from _runs import SMALL, Measured, Trained, with_net
from _session import main
from jaxtyping import Float

from alexvgg_jax import paper, results
from alexvgg_jax.plots import draw_filters
from alexvgg_jax.results import TEST, TOP5, Arms, Finding, Result, Verdict

FIGURE3 = "AlexNet Figure 3"
JOINED, HALF = "joined (paper)", "one GPU, half the kernels"
APART, SHARE = "colours apart", "random halves less far apart"
HALVES = 1000
SURE = 95.0  # % of the random halves

Kernel = Float[np.ndarray, "size size 3 maps"]


def colours(kernel: Kernel) -> Float[np.ndarray, " maps"]:
    """Return the share of each kernel's squares that is not grey, in %."""
    coloured = kernel - kernel.mean(axis=2, keepdims=True)
    return 100 * (coloured**2).sum((0, 1, 2)) / (kernel**2).sum((0, 1, 2))


def specialised(kernel: Kernel) -> tuple[float, float]:
    """Return how far the towers' mean colours are apart, in points, and the % of random
    halves of the kernels that are less far apart."""
    shares, rng = colours(kernel), np.random.default_rng(0)

    def apart(order: np.ndarray) -> float:
        first, second = np.split(shares[order], 2)
        return float(abs(first.mean() - second.mean()))

    ours = apart(np.arange(len(shares)))
    halves = [apart(rng.permutation(len(shares))) for _ in range(HALVES)]
    return ours, 100 * float(np.mean([ours > half for half in halves]))


def measure(trained: Trained) -> Measured:
    """Return the colours of a net, and the first net's kernels for the picture."""
    kernel = np.asarray(jax.device_get(trained.params["conv1"]["kernel"]))
    apart, share = specialised(kernel)
    first = trained.work.run.seed == 0
    levels = 255 * (kernel - kernel.min()) / np.ptp(kernel)  # enough for a picture
    extra = {"conv1": np.round(levels).astype(int).tolist()} if first else {}
    return Measured({APART: apart, SHARE: share}, extra)


def specialise(shares: Sequence[float]) -> Verdict:
    """Apply the rule of figure 3."""
    sure = [share > SURE for share in shares]
    if len(sure) < 2:
        return Verdict("undecided", "fewer than two nets")
    if all(sure):
        return Verdict("agrees")
    return Verdict("undecided" if any(sure) else "contradicts here")


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rules above."""
    towers = {
        "top-1 error": results.difference(arms, JOINED, HALF, TEST),
        "top-5 error": results.difference(arms, JOINED, HALF, TOP5),
        **results.each(arms, TEST),
    }
    lost = results.difference(arms, HALF, JOINED)
    published = -paper.claim("AlexNet §3.2").published["top-1 error"].value
    decided = results.verdict(lost, published)
    sound = [record for record in arms[JOINED] if not record.diverged]
    shares, figure3 = results.values(sound, SHARE), {}
    if sound:
        figure3[APART] = results.estimate(results.values(sound, APART), "points")
        figure3[SHARE] = results.estimate(shares)
    return {
        "AlexNet §3.2": Finding(
            towers, decided.because("time not compared"), (JOINED, HALF)
        ),
        FIGURE3: Finding(figure3, specialise(shares), (JOINED,)),
    }


def draw(result: Result, path: Path) -> None:
    """Draw the errors, and the first joined net's kernels by tower."""
    dots(TEST)(result, path)
    for record in result.arms[JOINED]:
        if "conv1" in record.extra:
            kernel = np.array(record.extra["conv1"])
            draw_filters(kernel, 2, path.with_name(f"{path.stem}-filters.png"))


EXPERIMENT = Experiment(
    "alexnet_towers",
    __doc__,
    arms={
        JOINED: SMALL,
        "apart until fc8": with_net(SMALL, towers="apart"),
        HALF: with_net(SMALL, towers="half"),
        "one tower": with_net(SMALL, towers="one"),
    },
    judge=judge,
    draw=draw,
    measure=measure,
    measures=(APART, SHARE),
    colour=(FIGURE3,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
