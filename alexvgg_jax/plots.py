"""Plots of records, and of a net's filters."""

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from alexvgg_jax.files import write_bytes
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import Arms, Result, values


def new_figure(width: float = 6.4, height: float = 4.4) -> Any:
    """Return an empty matplotlib figure. Importing matplotlib takes 0.5 s."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure in the format of the path's suffix."""
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:], dpi=150)
    write_bytes(image.getvalue(), path)


def title(result: Result) -> str:
    """Return the verdicts and the data set, one a line."""
    lines = [f"{tag}: {finding.verdict}" for tag, finding in result.findings.items()]
    sets = {record.data["set"]: None for record in result.records}
    return "\n".join([*lines, *sets])


def _finish(figure: Any, axes: Any, text: str, path: Path) -> None:
    width = round(9 * figure.get_figwidth())
    folded = [textwrap.fill(line, width) for line in text.splitlines()]
    axes.set_title("\n".join(folded), fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def plot_curves(
    lines: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    path: Path,
    *,
    text: str,
    y: str,
    dashed: Sequence[str] = (),
    level: float | None = None,
) -> None:
    """Draw (epochs, values) of each seed, one colour an arm; `level` is dotted."""
    figure = new_figure()
    axes = figure.subplots()
    for number, (arm, seeds) in enumerate(lines.items()):
        for i, (epochs, points) in enumerate(seeds):
            line = "--" if arm in dashed else "-"
            style = line if len(points) > 1 else "."
            label = None if i else arm
            axes.plot(epochs, points, style, color=f"C{number}", label=label)
    if level is not None:
        axes.axhline(level, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="epochs", ylabel=f"{y}, %", xlim=(0, None))
    axes.set_ylim(0, 1.02 * axes.get_ylim()[1])
    axes.legend(frameon=False)
    _finish(figure, axes, text, path)


def plot_forest(rows: Sequence[tuple[str, Figure, Figure]], path: Path) -> None:
    """Draw a line a claim: the published figure as a tick, ours with its 95% interval.
    Each unit has a panel of its own."""
    units = list(dict.fromkeys(published.unit for _, published, _ in rows))
    panels = [[row for row in rows if row[1].unit == unit] for unit in units]
    figure = new_figure(9.6, 1.2 + 0.32 * len(rows) + 0.6 * len(units))
    heights = [len(panel) for panel in panels]
    grid = figure.subplots(
        len(units), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, unit, panel in zip(grid[:, 0], units, panels, strict=True):
        places = range(len(panel))
        axes.plot(
            [p.value for _, p, _ in panel], places, "k|", ms=14, label="published"
        )
        for place, (_, _, ours) in enumerate(panel):
            bar = {"xerr": ours.margin} if ours.margin is not None else {}
            axes.errorbar(ours.value, place, fmt="C0.", **bar)
        axes.set_yticks(places, [name for name, _, _ in panel], fontsize="small")
        axes.set(xlabel=unit, ylim=(len(panel) - 0.5, -0.5))
        axes.axvline(1 if unit == "times" else 0, color="grey", lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    title = "Published (black), and ours with 95% intervals (blue)"
    figure.suptitle(title, fontsize="medium")
    write_figure(figure, path)


def plot_arms(arms: Arms, path: Path, *, text: str, figures: Sequence[str]) -> None:
    """Draw each arm's figures: a dot for each seed, a line at their mean."""
    canvas = new_figure(max(6.4, 1.2 * len(arms) + 2))
    axes = canvas.subplots()
    width, every = 0.8 / len(figures), []
    for number, figure in enumerate(figures):
        for place, records in enumerate(arms.values()):
            points = values(records, figure)
            x = place + (number - (len(figures) - 1) / 2) * width
            label = figure if place == 0 and len(figures) > 1 else ""
            mean, colour = statistics.fmean(points), f"C{number}"
            axes.hlines(mean, x - width / 2, x + width / 2, color=colour, label=label)
            axes.plot([x] * len(points), points, ".", color=colour, alpha=0.6)
            every += points
    low, span = min(every), float(np.ptp(every)) + 0.5
    axes.set_ylim(max(0.0, low - 0.2 * span), low + 1.1 * span)
    axes.set_ylabel("%" if len(figures) > 1 else f"{figures[0]}, %")
    names = [arm.replace(", ", ",\n") for arm in arms]
    axes.set_xticks(range(len(arms)), names, fontsize="small")
    if len(figures) > 1:
        columns = len(figures)
        canvas.legend(loc="outside lower center", ncols=columns, frameon=False)
    _finish(canvas, axes, text, path)


def draw_filters(
    kernel: Float[np.ndarray, "size size channels maps"], towers: int, path: Path
) -> None:
    """AlexNet Figure 3: draw the first layer's kernels, one panel a tower.

    All kernels share one scale from the least weight to the largest, as the original
    program draws them (`shownet.py`). Kernels without three channels are grey: their
    mean.
    """
    panels = np.split(scale_filters(kernel), towers, axis=3)
    across = 8 if panels[0].shape[3] > 16 else 4
    down = -(-panels[0].shape[3] // across)
    figure = new_figure(3.2 * towers, 3.2 * down / across + 0.4)
    figure.set_layout_engine("constrained", wspace=0.2)
    axes = figure.subplots(1, towers, squeeze=False)[0]
    for number, (axis, panel) in enumerate(zip(axes, panels, strict=True), start=1):
        axis.imshow(tile_filters(panel, across), interpolation="nearest")
        axis.set_axis_off()
        if towers > 1:
            axis.set_title(f"tower {number}", fontsize="small")
    write_figure(figure, path)


def scale_filters(
    kernel: Float[np.ndarray, "size size channels maps"],
) -> Float[np.ndarray, "size size 3 maps"]:
    """Return the kernels on one scale from 0 to 1, grey without three channels."""
    scaled = (kernel - kernel.min()) / max(float(np.ptp(kernel)), 1e-12)
    if kernel.shape[2] != 3:
        scaled = scaled.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return scaled


def tile_filters(
    kernels: Float[np.ndarray, "size size 3 maps"], across: int
) -> Float[np.ndarray, "height width 3"]:
    """Return the kernels as one image, `across` in a line, with white borders."""
    size, maps = kernels.shape[0], kernels.shape[3]
    down = -(-maps // across)
    image = np.ones((down * (size + 1) - 1, across * (size + 1) - 1, 3))
    for i in range(maps):
        top, left = (place * (size + 1) for place in divmod(i, across))
        image[top : top + size, left : left + size] = kernels[..., i]
    return image
