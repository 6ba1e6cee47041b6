"""Results as JSON, and the tables and plots rendered from it. Trains nothing."""

import dataclasses
import io
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console, Group, RenderableType
from rich.table import Table

from alexvgg_jax import paper
from alexvgg_jax.errors import InputError

ROOT = Path(__file__).parents[1]
# What a checkout holds but for the experiments' results and the page that shows them.
CODE = (".", ":!experiments/results", ":!experiments/README.md")


Value = dict[str, float]  # a mean, and its "deviation" over seeds or standard "error"
Seeds = Sequence[dict[str, Any]]  # the figures of each seed of an arm


@dataclass(frozen=True)
class Finding:
    """What an experiment found about one claim."""

    published: dict[str, float | int]  # the claim's own figures
    ours: dict[str, Value]  # the same figures where they can be measured, and others
    verdict: str  # by the rule that the experiment's docstring states


@dataclass(frozen=True)
class Result:
    """What an experiment found. Its JSON is the only source of every table and plot."""

    name: str  # of its files
    command: str
    commit: str  # of the code that trained and judged; more than one if it changed
    machine: dict[str, Any]  # that wrote the result; earlier runs may be another's
    data: dict[str, Any]
    seeds: list[int]
    seconds: float  # of training, all arms and seeds
    findings: dict[str, Finding]  # tag of the row in paper.py -> what was found
    # arm -> the figures of each seed; and lists of what else an experiment shows
    arms: dict[str, list[dict[str, Any]]]


def spread(values: Sequence[float]) -> Value:
    """Mean, and the sample deviation if there is more than one value."""
    mean = {"mean": statistics.fmean(values)}
    return mean | {"deviation": statistics.stdev(values)} if len(values) > 1 else mean


def difference(
    arms: Mapping[str, Seeds], these: str | Sequence[str], other: str, figure: str
) -> Value:
    """How much higher `figure` is in an arm than in the other, or in the mean of some;
    and, of two seeds or more, its standard error.

    That takes the variance over seeds to be the same in all arms that did not diverge,
    for three seeds of one can lie close together by chance. There is none where only
    some seeds of an arm that is compared diverged.
    """
    these = (these,) if isinstance(these, str) else these
    values = {arm: [seed[figure] for seed in seeds] for arm, seeds in arms.items()}
    sides = [[x for arm in these for x in values[arm]], values[other]]
    mean = {"mean": statistics.fmean(sides[0]) - statistics.fmean(sides[1])}
    wild = {arm: list(map(diverged, seeds)) for arm, seeds in arms.items()}
    mixed = any(len(set(wild[arm])) > 1 for arm in (*these, other))
    sound = [v for arm, v in values.items() if not any(wild[arm])]
    if mixed or not (freedom := sum(len(v) - 1 for v in sound)):
        return mean
    within = sum(statistics.variance(v) * (len(v) - 1) for v in sound if len(v) > 1)
    shares = sum(1 / len(side) for side in sides)
    return mean | {"error": math.sqrt(within / freedom * shares)}


def diverged(figures: Mapping[str, Any]) -> bool:
    return figures.get("diverged", False)


def estimate(values: Sequence[float]) -> Value:
    """Mean, and its standard error if there is more than one value."""
    found = spread(values)
    if "deviation" not in found:
        return found
    return {
        "mean": found["mean"],
        "error": found["deviation"] / math.sqrt(len(values)),
    }


def counted(error: float, images: int) -> float:
    """The standard error, in points, of a test error in % that was counted on so many
    images (binomial)."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def verdict(effect: Value, above: float = 0.0) -> str:
    """The rule of every experiment: is the effect above that, by two standard errors?

    By chance two arms of three seeds exceed that, to one given side, once in 17 times,
    beside five more arms once in 31, and the mean of three pairs once in 11 (Student's
    t, 4, 14 and 2 degrees).
    """
    if "error" not in effect:
        return "undecided: no standard error, for one seed or some that diverged"
    if effect["mean"] - 2 * effect["error"] > above:
        return "reproduced"
    if effect["mean"] + 2 * effect["error"] < above:
        return "not reproduced"
    return "undecided"


def untested(verdict: str) -> bool:
    """Does the verdict say that the claim was not tested?"""
    return verdict.startswith("not tested")


def machine() -> dict[str, Any]:
    """The hardware and software that this program runs on."""
    devices = jax.devices()
    return {
        "processor": _processor(),
        "cores": _cores(),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _cores() -> int:
    """That this process may use: fewer under taskset or a batch system."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
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
    """As `write_text`, of what JSON can hold."""
    write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(text.encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file, and the folders above it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path}: {error.strerror}") from None


def read(path: Path) -> Result:
    """The result in a file. InputError if it holds none."""
    return _result(_json(path), path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def _result(fields: Any, path: Path) -> Result:
    try:
        findings = {tag: Finding(**found) for tag, found in fields["findings"].items()}
        result = Result(**{**fields, "findings": findings})
        for tag in findings:
            paper.claim(tag)
        result.data["epochs"]
        [dict(seed) for seeds in result.arms.values() for seed in seeds]
        _section(result, ())  # what is there must be what can be shown
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not an experiment's result: {error!r}") from None
    return result


def read_all(folder: Path) -> dict[str, Result]:
    """The results of experiments in a folder, by name; benchmarks have neither findings
    nor arms. InputError if a file is damaged, or if two have found something about one
    claim."""
    results: dict[str, Result] = {}
    found = {"findings", "arms"}
    for path in sorted(folder.glob("*.json")):
        fields = _json(path)
        if isinstance(fields, dict) and fields and not found & fields.keys():
            continue
        result = _result(fields, path)
        for name, other in results.items():
            if twice := result.findings.keys() & other.findings.keys():
                raise InputError(f"{path} and {name}.json: both of {min(twice)}")
        results[path.stem] = result
    return results


def tables(result: Result) -> Group:
    """For each claim its figures: published, ours, and the gap between them."""
    seeds = len(result.seeds)
    drawn = []
    for tag, finding in result.findings.items():
        rows = Table(
            title=f"{tag}: {paper.claim(tag).sentence}",
            caption=f"{result.data['set']}, {seeds} seed{'s' * (seeds > 1)}: "
            f"{finding.verdict}",
        )
        for heading in ("figure", "published", "ours", "gap"):
            rows.add_column(heading, justify="left" if heading == "figure" else "right")
        for cells in figures(finding):
            rows.add_row(*cells)
        drawn.append(rows)
    return Group(*drawn)


def figures(finding: Finding) -> list[tuple[str, str, str, str]]:
    """(figure, published, ours, gap), the published ones first, `-` for what is not."""
    rows = []
    for name in finding.published | finding.ours:
        published, ours = finding.published.get(name), finding.ours.get(name)
        gap = "-"
        if ours is not None and published is not None and not untested(finding.verdict):
            gap = f"{ours['mean'] - published:+.2f}"
        theirs = "-" if published is None else f"{published:,.10g}"
        rows.append((name, theirs, show(ours), gap))
    return rows


def write_table(drawn: RenderableType, path: Path, width: int = 88) -> None:
    """The table as a text file, so many characters wide."""
    page = io.StringIO()
    Console(file=page, width=width).print(drawn)
    write_text(page.getvalue(), path)


def write_figure(figure: Any, path: Path) -> None:
    """Matplotlib's, in the format of the path's suffix. ValueError if it is unknown."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=150)
    write_bytes(drawn.getvalue(), path)


def show(figure: Value | None) -> str:
    """Mean and deviation or standard error, to a hundredth; a lone figure as it is."""
    if figure is None:
        return "-"
    if "error" in figure:
        return f"{figure['mean']:.2f} ± {figure['error']:.2f} (s.e.)"
    if "deviation" in figure:
        return f"{figure['mean']:.2f} ± {figure['deviation']:.2f}"
    return f"{figure['mean']:,.4g}"


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
    figure.set_layout_engine("constrained", wspace=0.2)
    for number, (axes, panel) in enumerate(
        zip(figure.subplots(1, towers, squeeze=False)[0], panels, strict=True), start=1
    ):
        axes.imshow(_tiles(panel, across), interpolation="nearest")
        axes.set_axis_off()
        if towers > 1:
            axes.set_title(f"tower {number}", fontsize="small")
    write_figure(figure, path)


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


def _folded(title: str, width: int) -> str:
    """Its lines, none of them longer than so many characters."""
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())


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
            style = curve.style if len(points) > 1 else "."
            axes.plot(
                *zip(*points, strict=True), style, color=f"C{number}", label=label
            )
    if level is not None:
        axes.axhline(level, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel=x, ylabel=y, xlim=(0, None))
    axes.set_ylim(0, 1.02 * axes.get_ylim()[1])
    axes.set_title(_folded(title, 60))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def plot_arms(
    arms: Mapping[str, Seeds],
    path: Path,
    *,
    title: str,
    figure: str,
    other: str | None = None,
) -> None:
    """A line an arm at the mean of `figure`, a dot a seed; `other` beside it."""
    from matplotlib.figure import Figure  # 0.5 s to import

    shown = [figure] if other is None else [figure, other]
    drawn = Figure(figsize=(max(6.4, 1.2 * len(arms) + 2), 4.4), layout="constrained")
    axes = drawn.subplots()
    width, values = 0.8 / len(shown), []
    for number, name in enumerate(shown):
        for place, seeds in enumerate(arms.values()):
            found = [seed[name] for seed in seeds]
            x = place + (number - (len(shown) - 1) / 2) * width
            label = name if place == 0 and other else ""
            mean, colour = statistics.fmean(found), f"C{number}"
            axes.hlines(mean, x - width / 2, x + width / 2, color=colour, label=label)
            axes.plot([x] * len(found), found, ".", color=colour, alpha=0.6)
            values += found
    low, span = min(values), np.ptp(values) + 0.5
    axes.set_ylabel(figure if other is None else "%")
    axes.set_title(_folded(title, round(9 * drawn.get_figwidth())))
    axes.set_ylim(max(0.0, low - 0.2 * span), low + 1.1 * span)
    names = [name.replace(", ", ",\n") for name in arms]
    axes.set_xticks(range(len(arms)), names, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    if other:
        axes.legend(frameon=False)
    write_figure(drawn, path)


def pictures(results: Iterable[str], folder: Path) -> dict[str, list[str]]:
    """The names of the PNG files in a folder that belong to each result."""
    names = sorted(path.name for path in folder.glob("*.png"))
    return {
        result: [n for n in names if n.startswith((f"{result}.", f"{result}_"))]
        for result in results
    }


PREFACE = """\
# Every claim, and what we measured

Rendered by `python -m alexvgg_jax report` from the JSON files in `{folder}/`. \
Published figures are the papers', on ImageNet unless the claim names another set, \
and cuda-convnet's are the program's, on CIFAR-10.

A verdict is by the rule that its experiment states, in most by two standard errors \
(s.e.) over the seeds. That leaves room for chance: of two arms of three seeds that \
do the same, one is found better once in 9 times; in an experiment of seven arms once \
in 15, for all arms tell how much seeds differ; by the mean of three pairs, or of \
three seeds against a published figure, once in 5. Experiments with the same net in \
common share its runs, and so its luck and its seconds, if they found them in one \
folder, which is not kept here; other code or another machine rounds differently, and \
a seed ends elsewhere. A ± without s.e. is the deviation over seeds (of averaged \
nets, over the choices of them). Seconds are of training, added up over runs that may \
have shared the machine with others, or stood still for a while.

| claim | | published | ours | data | verdict | seconds |
|---|---|---|---|---|---|---:|"""


def page(
    results: Mapping[str, Result], folder: str, drawn: Mapping[str, Sequence[str]]
) -> str:
    """Every claim of both papers as Markdown: published, ours, the verdict; then what
    each experiment measured. `results` are those of the experiments by name, whose
    plots, the `pictures`, are in `folder`, as the page links to it."""
    found = {tag: result for result in results.values() for tag in result.findings}
    lines = [PREFACE.format(folder=folder)]
    for claim in paper.CLAIMS:
        verdict, ours, data, seconds = _unmeasured(claim), "", "", ""
        if claim.tag in found:
            result = found[claim.tag]
            finding = result.findings[claim.tag]
            verdict = f"[{finding.verdict}](#{result.name})"
            ours = _brief({name: show(value) for name, value in finding.ours.items()})
            data, seconds = result.data["set"], f"{result.seconds:,.0f}"
        published = _brief({k: f"{n:,.10g}" for k, n in claim.published.items()})
        cells = (claim.tag, claim.sentence, published, ours, data, verdict, seconds)
        lines.append(f"| {' | '.join(cells)} |")
    for name, result in results.items():
        lines += _section(result, [f"{folder}/{n}" for n in drawn.get(name, ())])
    return "\n".join(lines) + "\n"


def _brief(values: Mapping[str, str], most: int = 2) -> str:
    """The first figures, and how many more there are."""
    shown = [f"{name}: {value}" for name, value in list(values.items())[:most]]
    more = len(values) - len(shown)
    return "; ".join(shown + [f"{more} more"] * (more > 0))


def _unmeasured(claim: paper.Claim) -> str:
    if claim.experiment:
        run = f"python experiments/{claim.experiment} --out experiments/results"
        return f"not run: `{run}`"
    return "no experiment; its code is tested" if claim.code else "not tested"


def _about(result: Result) -> str:
    seeds, cores = len(result.seeds), result.machine["cores"]
    commits = (
        found[:12] + "+" * found.endswith("+") for found in result.commit.split(", ")
    )
    return (
        f"{result.data['set']}, {seeds} seed{'s' * (seeds > 1)}, "
        f"{result.seconds:,.0f} s of training; written on a machine of "
        f"{result.machine['processor']}, {result.machine['devices']}, {cores} "
        f"core{'s' * (cores > 1)}; commit "
        f"{', '.join(commits)}."
    )


def _section(result: Result, links: Sequence[str]) -> list[str]:
    lines = ["", f"## {result.name}", "", f"    {result.command}", "", _about(result)]
    for link in links:
        lines += ["", f"![{result.name}]({link})"]
    for tag, finding in result.findings.items():
        lines += ["", f"**{tag}**: {finding.verdict}", ""]
        lines += ["| figure | published | ours | gap |", "|---|---:|---:|---:|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in figures(finding)]
    if not result.findings:
        lines += _arms(result)
    return lines


def _arms(result: Result) -> list[str]:
    """A row an arm, of what has no claim to stand beside."""
    trained = {k: v for k, v in result.arms.items() if v and "seed" in v[0]}
    names = [n for seeds in trained.values() for n in seeds[0] if n.endswith(", %")]
    names = list(dict.fromkeys(names))
    rows = [
        [arm, *(show(spread([seed[name] for seed in seeds])) for name in names)]
        for arm, seeds in trained.items()
    ]
    head = ["", f"| {' | '.join(['arm', *names])} |", "|---|" + "---:|" * len(names)]
    return head + [f"| {' | '.join(row)} |" for row in rows]
