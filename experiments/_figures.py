"""What experiments measure of a net, compare between arms, and draw."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexvgg_jax import evaluate, loop, report
from alexvgg_jax.augment import Views
from alexvgg_jax.report import Seeds, counted, estimate, verdict

Draw = Callable[[report.Result, Path], None]

TEST, TOP5, TRAINING = "test error, %", "top-5 test error, %", "training error, %"
GAP = "test error above training error, points"
CENTRE = "test error of the centre, %"  # of crops, beside those of more views
MORE_VIEWS: dict[Views, str] = {
    "nine": "test error of nine views, %",
    "ten": "test error of ten views, %",
}


def measure(trained: loop.Trained, views: tuple[Views, ...] = ()) -> dict[str, Any]:
    """The figures of one seed: errors at the end, with all units and without noise on
    both sets, and the test error after each epoch."""
    work, history = trained.work, trained.history
    last = history[-1]
    training = evaluate.errors(*loop.predict(work, trained.params, work.source)).top1
    figures = {
        TEST: last.test_error,
        TOP5: last.test_top5,
        TRAINING: training,
        GAP: last.test_error - training,
        "seconds": sum(epoch.seconds for epoch in history),
        "curve": [[float(epoch.epoch), epoch.test_error] for epoch in history],
        "training curve": [[e.epoch - 0.5, e.train_error] for e in history],
    }
    for kind in views:
        predicted = loop.predict(work, trained.params, work.test_source, kind)
        figures[MORE_VIEWS[kind]] = evaluate.errors(*predicted).top1
    return figures


def at_most(most: float, errors: list[float], images: int) -> str:
    """Whether the mean test error is below that, by two standard errors: over seeds, or
    of one seed the one of counting so many test images (binomial)."""
    found = estimate(errors)
    once = "error" not in found
    error = counted(found["mean"], images) if once else found["error"]
    below = {"mean": most - found["mean"], "error": error}
    return verdict(below) + "; one seed" * once


def chance(classes: int, epochs: int, views: tuple[Views, ...]) -> dict[str, Any]:
    """The figures of one seed that diverged: those of guessing."""
    top1, top5 = (100 - 100 * min(k / classes, 1.0) for k in (1, 5))
    names = (TEST, TRAINING, *(MORE_VIEWS[kind] for kind in views))
    return dict.fromkeys(names, top1) | {
        TOP5: top5,
        GAP: 0.0,
        "diverged": True,
        "seconds": 0.0,
        "curve": [[epoch + 1.0, top1] for epoch in range(epochs)],
        "training curve": [[epoch + 0.5, top1] for epoch in range(epochs)],
    }


def each(arms: Mapping[str, Seeds], figure: str) -> dict[str, report.Value]:
    """The figure of every arm: mean and deviation over its seeds."""
    return {
        f"{figure[:-3]}, {arm}, %": report.spread([seed[figure] for seed in seeds])
        for arm, seeds in arms.items()
    }


def overfitting(arms: Mapping[str, Seeds], these: str, other: str) -> report.Value:
    """How much larger GAP is in an arm than in the other; without a standard error if
    a net of them diverged, for at chance there is no gap."""
    found = report.difference(arms, these, other, GAP)
    if any(map(report.diverged, [*arms[these], *arms[other]])):
        found.pop("error", None)
    return found


def worst(*verdicts: str) -> str:
    """Of claims that have several parts: the weakest of them, with all its reasons."""
    order = ("not reproduced", "undecided", "reproduced")
    parts = [found.partition(": ") for found in verdicts]
    weakest = min((head for head, *_ in parts), key=order.index)
    reasons = [why for head, _, why in parts if head == weakest and why]
    return f"{weakest}: {'; '.join(dict.fromkeys(reasons))}" if reasons else weakest


def _title(result: report.Result) -> str:
    verdicts = (f"{tag}: {found.verdict}" for tag, found in result.findings.items())
    return "\n".join([*verdicts, result.data["set"]])


def bars(figure: str, other: str | None = None) -> Draw:
    """What draws a bar an arm, under the verdicts of the result."""

    def draw(result: report.Result, path: Path) -> None:
        report.plot_arms(
            result.arms, path, title=_title(result), figure=figure, other=other
        )

    return draw


def curves(
    y: str = TEST,
    *,
    of: str = "curve",
    dashed: tuple[str, ...] = (),
    title: str | None = None,
) -> Draw:
    """What draws a curve a seed against epochs, that it has under the name `of`, under
    the verdicts or that title."""

    def draw(result: report.Result, path: Path) -> None:
        drawn = [
            report.Curve(
                arm,
                "--" if arm in dashed else "-",
                [seed[of] for seed in seeds],
            )
            for arm, seeds in result.arms.items()
        ]
        heading = f"{title}\n{result.data['set']}" if title else _title(result)
        report.plot_curves(drawn, path, title=heading, x="epochs", y=y)

    return draw
