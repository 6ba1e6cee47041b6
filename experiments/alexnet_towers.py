"""AlexNet §3.2: two GPUs' towers have lower errors than one with half the kernels.

AlexNet Figure 3: the first layer's kernels specialise, a tower in colour, one in none,
"during every run".

`alexnet-small` in two towers that are joined at conv3 and behind it, as in the paper;
in two that never talk before fc8 (the program's net 150); one GPU with half the kernels
of each convolution but the last (its 145-half); and one tower of all kernels. The
published points are the joined net minus the half.

A kernel's colour is the share of its squares that is not grey: what is left when the
mean over RGB is taken away. Figure 3 counts per net the difference of the towers' mean
colours, against a thousand random halves of the same kernels.

Verdicts: towers (their time is not compared), reproduced if the test error of
the half is higher by more than two standard errors, not reproduced if lower by as much,
undecided between; figure 3, reproduced if in every joined net the towers differ by more
than 95% of the random halves do ("during every run"), not reproduced if in none,
undecided between or of one net. Grey images cannot test that.

    python experiments/alexnet_towers.py                # digits
    python experiments/alexnet_towers.py --data cifar10
"""

from dataclasses import replace

import jax
import numpy as np
from _arms import SMALL, Experiment, Options, no_colour, options, scaled, switched
from _figures import TEST, TOP5, bars, each
from jaxtyping import Float

from alexvgg_jax.errors import one_line
from alexvgg_jax.report import (
    Value,
    difference,
    diverged,
    draw_filters,
    spread,
    verdict,
)

JOINED, HALF = "joined (paper)", "one GPU, half the kernels"
ARMS = {
    JOINED: SMALL,
    "apart until fc8": switched(SMALL, towers="apart"),
    HALF: switched(SMALL, towers="half"),
    "one tower": switched(SMALL, towers="one"),
}
HALVES = 1000
SURE = 95.0  # % of the random halves

Kernel = Float[np.ndarray, "size size 3 maps"]


def colours(kernel: Kernel) -> Float[np.ndarray, " maps"]:
    """The share of each kernel's squares that is not grey, in %."""
    coloured = kernel - kernel.mean(axis=2, keepdims=True)
    every = (0, 1, 2)
    return 100 * (coloured**2).sum(every) / (kernel**2).sum(every)


def specialised(kernel: Kernel) -> tuple[float, float]:
    """How far the two towers' mean colours are apart, in points, and the % of random
    halves of the kernels that are less far apart."""
    found, rng = colours(kernel), np.random.default_rng(0)

    def apart(order: np.ndarray) -> float:
        first, second = np.split(found[order], 2)
        return float(abs(first.mean() - second.mean()))

    ours = apart(np.arange(len(found)))
    halves = [apart(rng.permutation(len(found))) for _ in range(HALVES)]
    return ours, 100 * float(np.mean([ours > half for half in halves]))


def judge(shares: list[float]) -> str:
    """The rule above, for figure 3."""
    if not shares:
        return "undecided: every joined net diverged"
    if len(shares) == 1:
        return "undecided: one seed"
    sure = [share > SURE for share in shares]
    if all(sure):
        return "reproduced"
    return "undecided" if any(sure) else "not reproduced"


def main() -> None:
    given = options(__doc__, Options())
    experiment = Experiment("alexnet_towers", given)
    arms = experiment.arms(ARMS)
    sound = [figures for figures in arms[JOINED] if not diverged(figures)]
    for figures in sound:
        if "random halves, %" in figures:
            continue  # kept, as its filters are
        run = replace(ARMS[JOINED], seed=figures["seed"])
        params = experiment.train(JOINED, scaled(run, experiment.given.epochs)).params
        kernel = jax.device_get(params["conv1"]["kernel"])
        figures["colours apart, points"], figures["random halves, %"] = specialised(
            kernel
        )
        if figures["seed"] == 0:
            draw_filters(kernel, 2, given.out / "alexnet_towers_filters.png")
    towers = {
        "top-1 error points": difference(arms, JOINED, HALF, TEST),
        "top-5 error points": difference(arms, JOINED, HALF, TOP5),
        **each(arms, TEST),
    }
    shares = [figures["random halves, %"] for figures in sound]
    figure3: dict[str, Value] = {}
    if sound:
        apart = [figures["colours apart, points"] for figures in sound]
        figure3["the towers' colours apart, points"] = spread(apart)
        figure3["random halves less far apart, %"] = spread(shares)
    findings = {
        "AlexNet §3.2": (
            towers,
            verdict(difference(arms, HALF, JOINED, TEST)) + "; time not compared",
        ),
        "AlexNet Figure 3": (figure3, no_colour(experiment) or judge(shares)),
    }
    experiment.finish(findings, arms, bars(TEST))


if __name__ == "__main__":
    with one_line():
        main()
