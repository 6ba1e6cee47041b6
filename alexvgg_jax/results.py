"""Records of runs, and the statistics and verdicts that rest on them.

A record is one measurement, usually of one trained net: a JSON line in
`experiments/results/NAME.jsonl`. Tables, plots and verdicts are computed from records
alone.
"""

import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from scipy.special import stdtrit

from alexvgg_jax.errors import InputError
from alexvgg_jax.paper import Figure

# Figures of one net. Errors are of whole sets, without noise and with all units.
TEST, TOP5, TRAINING = "test error", "top-5 test error", "training error"
GAP = "gap to the training error"

ROOT = Path(__file__).parents[1]
# Everything in a checkout except results and the pages rendered from them.
CODE = (
    ".",
    ":!experiments/results",
    ":!experiments/benchmarks/results",
    ":!experiments/README.md",
    ":!README.md",
)


@dataclass(frozen=True)
class Record:
    """One measurement, usually of one trained net, with its settings and machine."""

    arm: str
    seed: int
    settings: dict[str, Any]  # of the run, complete
    data: dict[str, Any]  # set, digest, classes, train and test images, grey
    commit: str
    clean: bool | None  # no file of the code differed from the commit; None: unknown
    machine: dict[str, Any]
    jax: str
    seconds: float | None  # of training; None: unknown
    figures: dict[str, float]
    curves: dict[str, list[float]]  # a value after each epoch
    diverged: bool = False  # the figures are then those of guessing
    extra: dict[str, Any] = field(default_factory=dict)  # what a picture shows

    @property
    def epochs(self) -> int:
        return self.settings["epochs"]


Arms = Mapping[str, Sequence[Record]]  # arm -> its records, one a seed


def append(record: Record, path: Path) -> None:
    """Add one line to a file of records, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n"
    with path.open("ab+", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a write cut short leaves half a line
                line = "\n" + line
        file.write(line.encode())


def read(path: Path) -> list[Record]:
    """Return the records in a file, none if there is no file.

    InputError names the file and the number of a line that is not a record.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(Record(**json.loads(line)))
            assert isinstance(records[-1].epochs, int)
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "no epochs"
            raise InputError(f"{path}, line {number}: not a record: {reason}") from None
    return records


# The rule of evidence. Intervals are 95% t-intervals over seeds. Two arms are compared
# seed by seed. The words:
# - agrees: the interval excludes no effect in the published direction, and it contains
#   the published effect, or ours is at least half as large, or none was published. A
#   test error agrees if it is at most half a point above the published one;
# - sign only: the interval excludes no effect, but ours is less than half as large;
# - contradicts here: the interval lies on the other side of no effect, or of an error
#   half a point above the published one;
# - undecided: the interval contains both;
# - not tested: no record of the protocol, a schedule that was cut, or other images;
# - counted: arithmetic, which needs no training.
WORDS = (
    "agrees",
    "sign only",
    "contradicts here",
    "undecided",
    "not tested",
    "counted",
)
Word = Literal[
    "agrees", "sign only", "contradicts here", "undecided", "not tested", "counted"
]
CLOSE = 0.5  # points above a published test error that still agree
SURE = 1.96  # standard errors on each side of a normal 95% interval


class Verdict(NamedTuple):
    """What a claim's figures say, with an optional reason."""

    word: Word
    note: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.note}" if self.note else self.word

    def because(self, note: str) -> "Verdict":
        """Return the same verdict with a further note."""
        return self._replace(note="; ".join(filter(None, (self.note, note))))


class Finding(NamedTuple):
    """Our figures for one claim, and the verdict by the experiment's rule."""

    figures: dict[str, Figure]
    verdict: Verdict
    arms: tuple[str, ...] = ()  # the arms that decide it; all if empty


@dataclass(frozen=True)
class Result:
    """What an experiment's file of records shows."""

    name: str
    arms: dict[str, list[Record]]
    findings: dict[str, Finding]  # by tag of the claim

    @property
    def records(self) -> list[Record]:
        return [record for records in self.arms.values() for record in records]


def estimate(values: Sequence[float], unit: str = "%") -> Figure:
    """Return the mean, with its 95% t-interval if there is more than one value."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Figure(mean, unit)
    error = statistics.stdev(values) / math.sqrt(count)
    return Figure(mean, unit, t_margin(error, count - 1))


def t_margin(error: float, freedom: int) -> float:
    """Return half of a 95% t-interval: a standard error times Student's quantile."""
    return error * float(stdtrit(freedom, 0.975))


def values(records: Sequence[Record], figure: str) -> list[float]:
    return [record.figures[figure] for record in records]


def each(arms: Arms, figure: str, unit: str = "%") -> dict[str, Figure]:
    """Return the figure of every arm, as the mean over its seeds."""
    return {
        f"{figure}, {arm}": estimate(values(records, figure), unit)
        for arm, records in arms.items()
    }


def difference(arms: Arms, first: str, second: str, figure: str = TEST) -> Figure:
    """Return the mean of `figure` in the first arm minus the second's, over the seeds
    that both have: two arms of one seed share the order of the images and the noise.

    There is no interval if only some nets of an arm diverged, or for one seed.
    """
    others = {record.seed: record for record in arms[second]}
    pairs = [(r, others[r.seed]) for r in arms[first] if r.seed in others]
    lead = [a.figures[figure] - b.figures[figure] for a, b in pairs]
    every = [{record.diverged for record in both} for both in zip(*pairs, strict=True)]
    mixed = any(len(diverged) > 1 for diverged in every)
    effect = estimate(lead, "points")
    return effect._replace(margin=None) if mixed else effect


def overfitting(arms: Arms, first: str, second: str) -> Figure:
    """Return how much larger the gap between test and training error is in an arm.

    There is no interval if a net diverged: at chance there is no gap.
    """
    gap = difference(arms, first, second, GAP)
    diverged = any(record.diverged for record in (*arms[first], *arms[second]))
    return gap._replace(margin=None) if diverged else gap


def counted(error: float, images: int) -> float:
    """Return the standard error, in points, of a test error in % that was counted on
    this many images (binomial)."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def verdict(
    effect: Figure, published: float | None = None, null: float = 0.0
) -> Verdict:
    """Judge an effect that the paper says is above `null`, by the rule above."""
    if effect.margin is None:
        return Verdict("undecided", "one seed, or a net diverged")
    low, high = effect.value - effect.margin, effect.value + effect.margin
    if high < null:
        return Verdict("contradicts here")
    if low <= null:
        return Verdict("undecided")
    if published is None or low <= published <= high:
        return Verdict("agrees")
    half = effect.value - null >= (published - null) / 2
    return Verdict("agrees" if half else "sign only")


def reaches(published: float, errors: Sequence[float], images: int) -> Verdict:
    """Judge test errors in % against a published one, by the rule above. The interval
    of one seed is that of counting test images, and the verdict says so."""
    mean, note = estimate(errors), ""
    margin = mean.margin
    if margin is None:
        margin, note = SURE * counted(mean.value, images), "one seed"
    if mean.value <= published + CLOSE:
        return Verdict("agrees", note)
    if mean.value - margin > published + CLOSE:
        return Verdict("contradicts here", note)
    return Verdict("undecided", note)


def worst(*verdicts: Verdict) -> Verdict:
    """Return the weakest of the verdicts, with the notes of all that are as weak."""
    order = ("not tested", "contradicts here", "undecided", "sign only", "agrees")
    word = min(verdicts, key=lambda verdict: order.index(verdict.word)).word
    notes = dict.fromkeys(v.note for v in verdicts if v.word == word and v.note)
    return Verdict(word, "; ".join(notes))


def commit() -> tuple[str, bool | None]:
    """Return the checkout's commit, and whether its code is unchanged."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        output = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
        return output.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "HEAD"), not changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None


def machine() -> dict[str, Any]:
    """Return the hardware and the Python version that this program runs on."""
    devices = jax.devices()
    affinity = getattr(os, "sched_getaffinity", None)  # fewer cores under taskset
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":")[1].strip() for line in lines if "model name" in line)
    return next(names, platform.machine())
