"""Records of runs, and the statistics and verdicts that rest on them.

A record is one trained net: a JSON line in `experiments/results/NAME.jsonl`. Tables,
plots and verdicts are computed from records and from nothing else.
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
    """One trained net: what it was, where it was trained, and what it measured."""

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


Word = Literal["reproduced", "not reproduced", "undecided", "not tested"]


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
    """Return the mean, and its standard error if there is more than one value."""
    mean = statistics.fmean(values)
    several = len(values) > 1
    error = statistics.stdev(values) / math.sqrt(len(values)) if several else None
    return Figure(mean, unit, error)


def values(records: Sequence[Record], figure: str) -> list[float]:
    return [record.figures[figure] for record in records]


def each(arms: Arms, figure: str) -> dict[str, Figure]:
    """Return the figure of every arm, as the mean over its seeds."""
    return {
        f"{figure}, {arm}": estimate(values(records, figure))
        for arm, records in arms.items()
    }


def difference(
    arms: Arms, first: str | Sequence[str], second: str, figure: str = TEST
) -> Figure:
    """Return the mean of `figure` in the first arm (or arms) minus the second's.

    The standard error pools the variance over the seeds of all arms that did not
    diverge, since three seeds of one arm can lie close together by chance. There is no
    standard error if only some seeds of a compared arm diverged.
    """
    first = (first,) if isinstance(first, str) else tuple(first)
    left = [value for arm in first for value in values(arms[arm], figure)]
    right = values(arms[second], figure)
    mean = statistics.fmean(left) - statistics.fmean(right)
    diverged = {arm: [r.diverged for r in records] for arm, records in arms.items()}
    mixed = any(len(set(diverged[arm])) > 1 for arm in (*first, second))
    sound = [values(r, figure) for arm, r in arms.items() if not any(diverged[arm])]
    freedom = sum(len(numbers) - 1 for numbers in sound)
    if mixed or not freedom:
        return Figure(mean, "points")
    squares = sum(
        statistics.variance(numbers) * (len(numbers) - 1)
        for numbers in sound
        if len(numbers) > 1
    )
    error = math.sqrt(squares / freedom * (1 / len(left) + 1 / len(right)))
    return Figure(mean, "points", error)


def overfitting(arms: Arms, first: str, second: str) -> Figure:
    """Return how much larger the gap between test and training error is in an arm.

    There is no standard error if a net diverged: at chance there is no gap.
    """
    gap = difference(arms, first, second, GAP)
    diverged = any(record.diverged for record in (*arms[first], *arms[second]))
    return gap._replace(error=None) if diverged else gap


def counted(error: float, images: int) -> float:
    """Return the standard error, in points, of a test error in % that was counted on
    this many images (binomial)."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def verdict(effect: Figure, above: float = 0.0) -> Verdict:
    """Judge whether the effect is above a value by two standard errors.

    By chance two equal arms of three seeds differ by as much in one given direction
    once in 17 times (Student's t, 4 degrees of freedom).
    """
    if effect.error is None:
        return Verdict("undecided", "one seed, or some diverged: no standard error")
    if effect.value - 2 * effect.error > above:
        return Verdict("reproduced")
    if effect.value + 2 * effect.error < above:
        return Verdict("not reproduced")
    return Verdict("undecided")


def at_most(most: float, errors: Sequence[float], images: int) -> Verdict:
    """Judge whether the mean test error is below a value by two standard errors. For
    one seed that is the error of counting test images, and the verdict says so."""
    mean = estimate(errors)
    error, note = mean.error, ""
    if error is None:
        error, note = counted(mean.value, images), "one seed"
    return verdict(Figure(most - mean.value, "points", error)).because(note)


def worst(*verdicts: Verdict) -> Verdict:
    """Return the weakest of the verdicts, with the notes of all that are as weak."""
    order = ("not tested", "not reproduced", "undecided", "reproduced")
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
