"""AlexNet §3.1: a four-layer CNN learns several times faster with ReLU than with tanh.

Figure 1 of the paper: 25% training error on CIFAR-10 after six times fewer epochs. The
same net is trained with either function, without any regularisation, its learning rate
chosen for that function alone, "to make training as fast as possible": one seed tries
every rate for a few epochs, and the two best ones until 25%; then all seeds train so at
the faster. An epoch's training error is the mean over its batches, and counts for the
middle of the epoch.

Verdict, with r the mean over seeds of (epochs of tanh / epochs of ReLU) and s its
standard error: reproduced if r - 2s > 2 ("several times faster", the caption says of
other nets), not reproduced if r + 2s < 2, undecided between. A tanh net that does not
reach 25% counts for the epochs that it was given, less half an epoch; r is then a lower
bound, which can only be reproduced or undecided. If a ReLU net does not, or one of
either diverges, there is no r. Other data cannot test it, nor fewer epochs than the
rates are tried for.

    python experiments/alexnet_relu.py                  # digits
    python experiments/alexnet_relu.py --data cifar10
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from _arms import Experiment, Options, not_cifar10, options

from alexvgg_jax.config import Model, Optim, Run
from alexvgg_jax.errors import Diverged, one_line
from alexvgg_jax.loop import Epoch
from alexvgg_jax.report import (
    Curve,
    Result,
    Value,
    diverged,
    estimate,
    plot_curves,
    spread,
    verdict,
)

FIGURE = "speed-up to 25% training error, times"
TARGET = 25.0  # % training error
RATES = {"relu": (0.001, 0.003, 0.01), "tanh": (0.003, 0.01, 0.03)}
EPOCHS = 60  # at most; tanh takes 44 on CIFAR-10
SEARCH_EPOCHS = 5  # after 2, the highest rate leads, and falls behind later
STYLES = {"relu": "-", "tanh": "--"}  # as in the paper's figure

Point = tuple[float, float]  # epochs, training error in %
Figures = dict[str, Any]  # of one seed


def net(activation: str, rate: float, epochs: int) -> Run:
    return Run(
        model=Model("figure1", {"activation": activation}),
        optim=Optim(rate=rate, weight_decay=0.0),  # "no regularization of any kind"
        epochs=epochs,
        until_error=TARGET,
    )


def curve(history: list[Epoch], chance: float) -> list[Point]:
    """Training error against epochs, from chance at 0."""
    return [(0.0, chance), *((e.epoch - 0.5, e.train_error) for e in history)]


def epochs_to_target(points: list[Point]) -> float | None:
    """Where the curve first comes down to TARGET, by linear interpolation."""
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if y1 < TARGET:
            return x0 + (x1 - x0) * (y0 - TARGET) / (y0 - y1)
    return None


def search(experiment: Experiment, activation: str, given: Options) -> list[Figures]:
    """What one seed gives at every rate, the two best ones trained to the end: the
    fastest to TARGET first, or else the one with the lowest error."""
    brief = min(SEARCH_EPOCHS, given.epochs)
    tried = _try(experiment, activation, RATES[activation], brief)
    best = tuple(figures["rate"] for figures in tried[:2])
    return _try(experiment, activation, best, given.epochs) + tried[2:]


def _try(
    experiment: Experiment, activation: str, rates: tuple[float, ...], epochs: int
) -> list[Figures]:
    """One seed at each rate for so many epochs, the best first."""
    tried = []
    for rate in rates:
        run = net(activation, rate, epochs)
        try:
            history = experiment.history(f"{activation}, rate {rate:g}", run)
        except Diverged:
            history = []
        error = history[-1].train_error if history else 100.0  # diverged
        reached = epochs_to_target(curve(history, 100.0))
        tried.append({"seed": 0, "rate": rate, "epochs": reached, "error": error})
    return sorted(tried, key=lambda seed: (seed["epochs"] or math.inf, seed["error"]))


def is_lower_bound(tanh: list[Figures]) -> bool:
    return any(seed["epochs"] is None for seed in tanh)


def judge(ratio: Value | None, lower_bound: bool) -> str:
    """The rule above."""
    if ratio is None:
        return "undecided: a ReLU net did not reach 25%, or a net diverged"
    found = verdict(ratio, above=2.0)
    if found == "reproduced" and lower_bound:
        return f"{found}; a lower bound, for tanh did not reach 25%"
    if lower_bound:
        return "undecided: tanh did not reach 25%"
    return found


def compare(arms: dict[str, list[Figures]], epochs: int) -> dict[str, Value]:
    """The published figure, and the epochs behind it; none if a ReLU net does not
    reach the target, or one of either diverges."""
    relu = [seed["epochs"] for seed in arms["relu"]]
    tanh = [seed["epochs"] or epochs - 0.5 for seed in arms["tanh"]]
    if None in relu or any(map(diverged, arms["tanh"])):
        return {}
    return {
        FIGURE: estimate([t / r for t, r in zip(tanh, relu, strict=True)]),
        "epochs of ReLU": spread(relu),
        "epochs of tanh": spread(tanh),
    }


def draw(result: Result, path: Path) -> None:
    """Figure 1 of the paper, of our nets."""
    (finding,) = result.findings.values()
    ratio = finding.ours.get(FIGURE)
    least = "at least " * is_lower_bound(result.arms["tanh"])
    found = f"{least}{ratio['mean']:.1f} times" if ratio else "unknown times"
    published = f"published: {finding.published[FIGURE]:g}"
    plot_curves(
        [
            Curve(name, style, [seed["curve"] for seed in result.arms[name]])
            for name, style in STYLES.items()
        ],
        path,
        title=f"AlexNet §3.1: {finding.verdict}\n"
        f"tanh takes {found} the epochs of ReLU ({published})\n{result.data['set']}",
        x="epochs",
        y="training error, %",
        level=TARGET,
    )


def main() -> None:
    given = options(__doc__, Options(epochs=EPOCHS))
    given = replace(given, epochs=given.epochs or EPOCHS)
    experiment = Experiment("alexnet_relu", given, SEARCH_EPOCHS)
    rate, *_ = RATES["relu"]
    experiment.needs(net("relu", rate, SEARCH_EPOCHS))
    classes = len(experiment.source.classes)
    arms: dict[str, list[Figures]] = {}
    for activation in STYLES:
        tried = search(experiment, activation, given)
        rate = tried[0]["rate"]
        run = net(activation, rate, given.epochs)
        arms[activation], arms[f"{activation}, search"] = [], tried
        for seed in range(given.seeds):
            arm = f"{activation}, rate {rate:g}"
            figures: Figures = {"seed": seed, "rate": rate}
            try:
                history = experiment.train(arm, replace(run, seed=seed)).history
            except Diverged:
                history, figures["diverged"] = [], True
            points = curve(history, 100 - 100 / classes)
            figures |= {"epochs": epochs_to_target(points), "curve": points}
            arms[activation].append(figures)
    ours = compare(arms, given.epochs)
    found = not_cifar10(experiment) or judge(
        ours.get(FIGURE), is_lower_bound(arms["tanh"])
    )
    experiment.finish({"AlexNet §3.1": (ours, found)}, arms, draw)


if __name__ == "__main__":
    with one_line():
        main()
