"""Results as JSON, and the tables and plots rendered from it. Trains nothing."""

import dataclasses
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from alexvgg_jax import paper

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    """What an experiment found. Its JSON is the only source of every table and plot."""

    name: str  # of the experiment's file
    claim: str  # tag of the row in paper.py
    command: str
    commit: str
    machine: dict[str, Any]
    data: dict[str, Any]
    seeds: list[int]
    seconds: float  # of training, all arms and seeds
    published: dict[str, float]  # the claim's own figures
    ours: dict[str, dict[str, float]]  # the same figures: mean, deviation over seeds
    arms: dict[str, list[dict[str, Any]]]  # arm -> the figures of each seed
    verdict: str  # by the rule that the experiment's docstring states


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the sample deviation if there is more than one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    mean = {"mean": statistics.fmean(values)}
    return mean if math.isnan(deviation) else mean | {"deviation": deviation}


def machine() -> dict[str, Any]:
    """The hardware and software that this program runs on."""
    devices = jax.devices()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":")[1].strip() for line in lines if "model name" in line)
    return next(named, platform.machine())


def commit() -> str:
    """The checkout's commit, `+` behind it if files differ; unknown outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command() -> str:
    """What the user typed, the script's path from the project's root."""
    script = Path(sys.argv[0]).resolve()
    if script.is_relative_to(ROOT):
        script = script.relative_to(ROOT)
    return shlex.join(["python", str(script), *sys.argv[1:]])


def write(result: Result, path: Path) -> None:
    write_json(dataclasses.asdict(result), path)


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write a file, and the folders above it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    try:
        text = json.dumps(data, indent=1, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def read(path: Path) -> Result:
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def table(result: Result) -> Table:
    """Each of the claim's figures: published, ours, and the gap between them."""
    claim, seeds = paper.claim(result.claim), len(result.seeds)
    rows = Table(
        title=f"{claim.tag}: {claim.sentence}",
        caption=f"{result.data['set']}, {seeds} seed{'s' * (seeds > 1)}: "
        f"{result.verdict}",
    )
    for heading in ("figure", "published", "ours", "gap"):
        rows.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure, published in result.published.items():
        ours = result.ours.get(figure)
        gap = f"{ours['mean'] - published:+.2f}" if ours else "-"
        rows.add_row(figure, f"{published:g}", show(ours), gap)
    for figure, ours in result.ours.items():
        if figure not in result.published:
            rows.add_row(figure, "-", show(ours), "-")
    return rows


def write_table(drawn: Table, path: Path, width: int = 88) -> None:
    """The table as a text file, so many characters wide."""
    with path.open("w", encoding="utf-8") as page:
        Console(file=page, width=width).print(drawn)


def show(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "not reached"
    if "deviation" not in figure:
        return f"{figure['mean']:.2f}"
    return f"{figure['mean']:.2f} ± {figure['deviation']:.2f}"


def draw_filters(
    kernel: Float[np.ndarray, "size size channels maps"], towers: int, path: Path
) -> None:
    """AlexNet Figure 3: what each first-layer kernel looks for, a panel a tower.

    As the original program shows them (`shownet.py`), all on one scale from the least
    weight to the largest. Kernels of other than three channels are grey: their mean.
    """
    from matplotlib.figure import Figure  # 0.5 s to import

    scaled = (kernel - kernel.min()) / max(np.ptp(kernel), 1e-12)
    if kernel.shape[2] != 3:
        scaled = scaled.mean(axis=2, keepdims=True).repeat(3, axis=2)
    panels = np.split(scaled, towers, axis=3)
    across = 8 if panels[0].shape[3] > 16 else 4
    down = -(-panels[0].shape[3] // across)
    figure = Figure(figsize=(3.2 * towers, 3.2 * down / across + 0.4))
    figure.set_layout_engine("constrained")
    for number, (axes, panel) in enumerate(
        zip(figure.subplots(1, towers, squeeze=False)[0], panels, strict=True), start=1
    ):
        axes.imshow(_tiles(panel, across), interpolation="nearest")
        axes.set_axis_off()
        if towers > 1:
            axes.set_title(f"tower {number}", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _tiles(
    kernels: Float[np.ndarray, "size size 3 maps"], across: int
) -> Float[np.ndarray, "rows columns 3"]:
    """Images side by side, in rows of so many, a white line between them."""
    size, maps = kernels.shape[0], kernels.shape[3]
    down = -(-maps // across)
    page = np.ones((down * (size + 1) - 1, across * (size + 1) - 1, 3))
    for i in range(maps):
        row, column = (place * (size + 1) for place in divmod(i, across))
        page[row : row + size, column : column + size] = kernels[..., i]
    return page


@dataclass(frozen=True)
class Curve:
    label: str
    style: str  # matplotlib's: "-" solid, "--" dashed
    seeds: Sequence[Sequence[Sequence[float]]]  # points (x, y) of each seed


def plot_curves(
    curves: Sequence[Curve],
    path: Path,
    *,
    title: str,
    x: str,
    y: str,
    level: float | None = None,
) -> None:
    """One panel of curves, a colour an arm, and a dotted `level` if there is one."""
    from matplotlib.figure import Figure  # 0.5 s to import

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        for i, points in enumerate(curve.seeds):
            label = curve.label if i == 0 else None
            axes.plot(
                *zip(*points, strict=True), curve.style, color=f"C{number}", label=label
            )
    if level is not None:
        axes.axhline(level, color="grey", linestyle=":", linewidth=1)
    axes.set(title=title, xlabel=x, ylabel=y, ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
