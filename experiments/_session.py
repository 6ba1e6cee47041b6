"""The command line of an experiment: train what its records lack, and show them.

OUT/NAME.jsonl holds one record for each trained net. The table and the plot are
rendered from it. Join the files of two machines with `cat`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from _ablation import CHOOSES, Experiment, result_of
from _runs import (
    Run,
    Trained,
    at_rate,
    errors,
    same_run,
    settings_of,
    share_compiled,
    train_in,
)
from rich.console import Console
from rich.table import Table

from alexvgg_jax import page, paper, results
from alexvgg_jax.config import Data, Mesh
from alexvgg_jax.data.sources import folder_of
from alexvgg_jax.errors import Diverged, InputError, Stopped, one_line
from alexvgg_jax.loop import Epoch
from alexvgg_jax.results import GAP, TEST, TOP5, TRAINING, Record, Result
from alexvgg_jax.sharding import all_devices

console = Console(stderr=True)


@dataclass(frozen=True)
class Options:
    # digits (part of scikit-learn), a TFDS name such as cifar10, or a folder of classes
    data: str = "digits"
    seeds: int = 0  # number of seeds of each arm; 0: the experiment's own number
    # epochs of each net, with its schedule scaled; 0: the experiment's own number
    epochs: int = 0
    # names of the arms, the variants that are compared; without names: all
    arms: tuple[str, ...] = ()
    out: Path = Path("results")  # folder of the records, the plot and the runs
    devices: int = 0  # number of devices that share a batch; 0: all


T = TypeVar("T")


def options(about: str | None, defaults: T) -> T:
    """Parse the command line; `about` heads its help."""
    return tyro.cli(
        type(defaults),
        default=defaults,
        description=about,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


class Session:
    """One experiment's file of records, and how to add what it lacks."""

    def __init__(self, experiment: Experiment, chosen: Options):
        _check(experiment, chosen)
        if images := folder_of(chosen.data):
            chosen = replace(chosen, data=str(images.resolve()))
        self.experiment, self.chosen = experiment, chosen
        self.path = chosen.out / f"{experiment.name}.jsonl"
        self.runs = chosen.out / "runs" / experiment.name
        self.records = results.read(self.path)
        self.data = experiment.images(Data(chosen.data))  # of the whole set
        self.extra: dict[str, Any] = {}  # in every record
        self._described: dict[Data, dict[str, Any]] = {}
        self.commit, self.clean = results.commit()  # before anyone edits the code
        chosen.out.mkdir(parents=True, exist_ok=True)
        share_compiled(chosen.out / "runs")

    def data_of(self, run: Run) -> dict[str, Any]:
        """Return what a record says about the images of a run."""
        data = replace(run.data, name=self.chosen.data, held_out=0)
        if data not in self._described:
            self._described[data] = self.experiment.images(data)
        return self._described[data]

    def run(self, arm: str, seed: int) -> Run:
        """An arm's run on the chosen data, with the chosen epochs."""
        full = self.experiment.full_epochs(arm, self.data["set"])
        run = self.experiment.run(arm, self.chosen.epochs or full)
        return replace(run, seed=seed)

    def seeds(self, arm: str) -> range:
        own = self.experiment.few_seeds.get(arm, self.experiment.seeds)
        first = self.experiment.first_seed
        return range(first, first + (self.chosen.seeds or own))

    def all(self) -> None:
        """Record every arm and seed, one seed of all arms after the other."""
        arms = self.chosen.arms or tuple(self.experiment.arms)
        rates = {arm: self.best_rate(arm) for arm in arms}
        for seed in max(map(self.seeds, arms), key=len):
            for arm in (arm for arm in arms if seed in self.seeds(arm)):
                self.record(arm, at_rate(self.run(arm, seed), rates[arm]))

    def best_rate(self, arm: str) -> float:
        """Return the arm's rate, or the best of several, which one more run tries."""
        run = self.run(arm, CHOOSES)
        tried = {
            rate: self.record(arm, at_rate(run, rate)).figures[TEST]
            for rate in self.experiment.rates
        }
        return min(tried, key=tried.__getitem__, default=run.optim.rate)

    def record(self, arm: str, run: Run) -> Record:
        """Return the record of a run; train it if the experiment's file lacks it."""
        if known := self.known(arm, run):
            return known
        try:
            trained = self.train(arm, run)
        except Diverged as end:
            console.print(f"{end}; it counts as chance")
            return self.add(self.diverged(arm, run))
        figures, extra = errors(trained, self.experiment.views), {}
        if self.experiment.measure:
            more, extra = self.experiment.measure(trained)
            figures |= more
        return self.add(self.new(arm, run, trained.history, figures, extra))

    def known(self, arm: str, run: Run) -> Record | None:
        """Return the newest record of an arm's run in the experiment's file."""

        def matches(record: Record) -> bool:
            return (
                record.arm == arm
                and record.data["digest"] == self.data_of(run)["digest"]
                and record.seed == run.seed
                and self.experiment.figures(run) <= record.figures.keys()
                and same_run(record.settings, run)
            )

        return next(filter(matches, reversed(self.records)), None)

    def train(self, arm: str, run: Run) -> Trained:
        """Train on the chosen data, or continue from the checkpoint in OUT/runs."""
        if run.batch > (count := self.data_of(run)["train"]):
            raise InputError(
                f"--data {self.chosen.data}: {count} images, fewer than a batch of "
                f"{run.batch}"
            )
        console.rule(f"{arm}, seed {run.seed}", align="left")
        try:
            return train_in(self.folder(arm, run.seed), self.here(run))
        except Diverged:
            raise
        except Stopped as end:
            how = "the same command continues from it"
            raise Stopped(f"{end}; {how}", end.exit_code) from None

    def folder(self, arm: str, seed: int) -> Path:
        """Return where an arm is trained."""
        name = re.sub(r"[^\w.=+-]+", "_", arm)
        return self.runs / f"{name}-seed{seed}"

    def here(self, run: Run) -> Run:
        """Return the run on the chosen data and devices."""
        data = replace(run.data, name=self.chosen.data)
        return replace(run, data=data, mesh=Mesh(self.chosen.devices))

    def new(
        self,
        arm: str,
        run: Run,
        history: Sequence[Epoch],
        figures: Mapping[str, float],
        extra: Mapping[str, Any] | None = None,
    ) -> Record:
        """A record of what this program trained."""
        curves = {
            TRAINING: [round(epoch.train_error, 4) for epoch in history],  # with noise
            TEST: [round(epoch.test_error, 4) for epoch in history],
        }
        return Record(
            arm=arm,
            seed=run.seed,
            settings=settings_of(self.here(run)),
            data=self.data_of(run),
            commit=self.commit,
            clean=self.clean,
            machine=results.machine(),
            jax=jax.__version__,
            seconds=round(sum((epoch.seconds for epoch in history), 0.0), 1),
            figures={k: round(value, 6) for k, value in figures.items()},
            curves=curves,
            extra=self.extra | dict(extra or {}),
        )

    def diverged(self, arm: str, run: Run) -> Record:
        """The record of guessing: what a net that diverged can do."""
        top1, top5 = (100 - 100 * min(k / self.data["classes"], 1.0) for k in (1, 5))
        names = (*self.experiment.figures(run), TEST, TRAINING)
        figures = {name: top1 for name in names} | {TOP5: top5, GAP: 0.0}
        record = self.new(arm, run, [], figures)
        flat = dict.fromkeys((TRAINING, TEST), [top1] * run.epochs)
        return replace(record, curves=flat, diverged=True)

    def add(self, record: Record) -> Record:
        results.append(record, self.path)
        self.records.append(record)
        return record


def _check(experiment: Experiment, chosen: Options) -> None:
    """InputError for options that no experiment can have."""
    for flag, value in (("--seeds", chosen.seeds), ("--epochs", chosen.epochs)):
        if value < 0:
            raise InputError(f"{flag} {value}: at least 0")
    if not 0 <= chosen.devices <= (count := len(all_devices())):
        raise InputError(f"--devices {chosen.devices}: from 0 to {count}")
    if unknown := set(chosen.arms) - set(experiment.arms):
        names = ", ".join(experiment.arms)
        raise InputError(f"--arms {min(unknown)}: choose from {names}")


def run(experiment: Experiment, chosen: Options) -> Result:
    """Train what the experiment's file lacks, then show what the file says."""
    session = Session(experiment, chosen)
    (experiment.train or Session.all)(session)
    result = result_of(experiment, results.read(session.path))
    if not result.arms:
        console.print("no verdict yet: some arms have no record")
    Console().print(*tables(result), sep="\n")
    print("wrote", session.path, *draw(experiment, result, chosen.out))
    return result


def draw(experiment: Experiment, result: Result, out: Path) -> list[Path]:
    """Draw a result, and return the paths of its pictures."""
    if result.arms:
        experiment.draw(result, out / f"{experiment.name}.png")
    return pictures(experiment.name, out)


def pictures(name: str, out: Path) -> list[Path]:
    return [*out.glob(f"{name}.png"), *sorted(out.glob(f"{name}-*.png"))]


def tables(result: Result) -> Iterator[Table]:
    """Return a table for each claim: published and ours."""
    for tag, finding in result.findings.items():
        table = Table("figure", "published", "ours", title=f"{tag}: {finding.verdict}")
        for line in page.figures(paper.claim(tag), finding):
            table.add_row(*line)
        yield table


def main(experiment: Experiment) -> None:
    """The command line of an experiment."""
    with one_line():
        run(experiment, options(experiment.about, Options()))
