"""What every experiment shares: options, the runs of its arms, the result's files."""

import contextlib
import fcntl
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import tyro
from _figures import Draw, chance, measure
from rich.console import Console

from alexvgg_jax import folder, loop, paper, report
from alexvgg_jax.augment import Views
from alexvgg_jax.config import RECIPES, Data, Mesh, Run, flat
from alexvgg_jax.data.sources import find_source, folder_of
from alexvgg_jax.errors import Diverged, InputError, short_usage
from alexvgg_jax.mesh import all_devices
from alexvgg_jax.report import Seeds

T = TypeVar("T")

DIGITS_EPOCHS = 60  # an epoch of so few is 11 steps

_, SMALL = RECIPES["alexnet-small"]  # the net of AlexNet's experiments


@dataclass(frozen=True)
class Options:
    data: str = "digits"  # digits, a TFDS name such as cifar10, or a folder of classes
    seeds: int = 3  # runs of each arm; the ladder's 0: 3, or 1 of a net that takes long
    # of training, schedules scaled; 0: the experiment's own; fewer may test no claim
    epochs: int = 0
    out: Path = Path("results")  # folder for the JSON, the plot and the runs
    resume: bool = False  # go on with a result: train what it lacks, render it again
    devices: int = 0  # how many devices share a batch; 0 for all


def options(documentation: str | None, defaults: T) -> T:
    """The options on the command line; `documentation` heads the --help."""
    with short_usage():
        given = tyro.cli(
            type(defaults),
            default=defaults,
            description=documentation,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    return given


def switched(run: Run, **switches: bool | int | float | str) -> Run:
    """The run with other switches of its net."""
    model = replace(run.model, switches={**run.model.switches, **switches})
    return replace(run, model=model)


def scaled(run: Run, epochs: int) -> Run:
    """The run with all phases of its schedule longer or shorter by one factor, or as it
    is for 0 epochs."""
    epochs = epochs or run.epochs

    def moved(epoch: float) -> float:
        return epoch * epochs / run.epochs

    augment, optim = run.augment, run.optim
    return replace(
        run,
        epochs=epochs,
        augment=replace(augment, colour_epochs=moved(augment.colour_epochs)),
        optim=replace(
            optim,
            drop_epochs=tuple(map(moved, optim.drop_epochs)),
            layer_drop={k: moved(epoch) for k, epoch in optim.layer_drop.items()},
            layer_freeze={k: moved(epoch) for k, epoch in optim.layer_freeze.items()},
            plateau=math.ceil(moved(optim.plateau)),
        ),
    )


class Experiment:
    """The runs of one experiment and their result.

    A run's folder is named after its settings and images, so that experiments with an
    arm in common train it once, and one that was cut short goes on where it was. What
    a result has of its `arms` is not trained again. No claim is tested by fewer
    `epochs` than these, or on digits than DIGITS_EPOCHS.
    """

    def __init__(self, name: str, given: Options, epochs: int = SMALL.epochs):
        _check_numbers(given)
        if given.data == "digits":
            epochs = DIGITS_EPOCHS
            given = replace(given, epochs=given.epochs or epochs)
        if images := folder_of(given.data):
            given = replace(given, data=str(images.resolve()))
        self.name, self.given = name, given
        self._short = ""
        if 0 < given.epochs < epochs:
            self._short = f"not tested: {given.epochs} of {epochs} epochs"
        self.source = find_source(Data(given.data), "train")
        self.test = find_source(Data(given.data), "test")
        self.set = self.source.about
        if images:  # which may change
            self.set += f" ({self.source.files} {self.test.files})"
        self.path = given.out / f"{name}.json"
        self._commit = report.commit()  # before anyone edits while it runs
        self._runs = given.out / "runs"
        self._earlier = self._checked_earlier()
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {given.out}: {error.strerror}") from None
        # Seeds and rates are arguments of one program, which is compiled once.
        chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore  (environment)
        if not chosen:
            jax.config.update("jax_compilation_cache_dir", str(self._runs / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        self._trained: dict[Path, float] = {}  # folder -> seconds
        self._commits = {self._commit}

    def _checked_earlier(self) -> report.Result | None:
        """The result that is there. InputError if this one must not replace it."""
        if not self.path.exists():
            return None
        there = report.read(self.path)
        if not self.given.resume:
            raise InputError(
                f"{self.path} holds an earlier result: --resume goes on with it, "
                "another --out starts anew"
            )
        if there.data["set"] != self.set:
            raise InputError(
                f"{self.path} is a result of {there.data['set']}, not of {self.set}: "
                "use another --out"
            )
        if (epochs := there.data["epochs"]) != self.given.epochs:
            raise InputError(
                f"--epochs {self.given.epochs}: {self.path} has {epochs}; use another "
                "--out"
            )
        if len(there.seeds) > self.given.seeds:
            raise InputError(
                f"--seeds {self.given.seeds}: {self.path} has {len(there.seeds)}; use "
                "another --out for fewer"
            )
        return there

    def check_arms(self, arms: Mapping[str, Any]) -> None:
        """InputError if the result that is there has an arm that these lack."""
        there = self._checked_earlier()  # again: another program may have written it
        if there and (lost := there.arms.keys() - arms.keys()):
            raise InputError(
                f"{self.path} has an arm, {min(lost)}, that these options would lose: "
                "give those that made it, or move the file elsewhere"
            )

    def train(self, arm: str, run: Run) -> loop.Trained:
        """`run` on the experiment's data, from its newest checkpoint if it has one.

        Raises InputError if it went further already: its parameters are then others.
        """
        trained = self._train(arm, run)
        if (epochs := len(trained.history)) > run.epochs:
            raise InputError(
                f"{self._folder(run)} has {epochs} epochs, not {run.epochs}: use "
                "another --out for fewer"
            )
        return trained

    def seeds(self, arm: str, run: Run) -> Iterator[loop.Trained]:
        """`run` with each of --seeds, its schedule scaled to --epochs.

        Raises InputError as `needs` and `train`.
        """
        run = scaled(run, self.given.epochs)
        self.needs(run)
        for seed in range(self.given.seeds):
            yield self.train(arm, replace(run, seed=seed))

    def history(self, arm: str, run: Run) -> list[loop.Epoch]:
        """What `run` went through in its epochs, be it that it went further."""
        return self._train(arm, run).history[: run.epochs]

    def needs(self, run: Run) -> None:
        """InputError if a result is there without `run`, one of those it comes from."""
        if self._earlier:
            self._check_there(self._folder(run))

    def _check_there(self, directory: Path) -> None:
        if not (directory / folder.SETTINGS).exists():
            raise InputError(
                f"{self.path} is a result whose runs are not in {self._runs}: another "
                "--out starts anew"
            )

    def _check_batch(self, run: Run) -> None:
        if run.batch > self.source.count:
            raise InputError(
                f"--data {self.given.data}: {self.source.count} images, fewer than a "
                f"batch of {run.batch}"
            )

    def _train(self, arm: str, run: Run) -> loop.Trained:
        self._check_batch(run)
        data = replace(run.data, name=self.given.data)
        run = replace(run, data=data, mesh=Mesh(self.given.devices))
        directory = self._folder(run)
        loop.console.rule(f"{arm}, seed {run.seed}", align="left")
        with alone(directory):
            self._trained.setdefault(directory, 0.0)
            with self._signed(directory):
                resume = (directory / folder.SETTINGS).exists()
                trained = loop.train(run, directory, resume=resume)
        seconds = (epoch.seconds for epoch in trained.history[: run.epochs])
        self._trained[directory] = sum(seconds)
        return trained

    @contextlib.contextmanager
    def _signed(self, directory: Path) -> Iterator[None]:
        """Note the commit that trains there, behind those that already did; not if
        nothing was left to train."""
        path, begun = directory / "commit", newest_checkpoint(directory)
        before = path.read_text().split() if begun else []
        path.write_text("\n".join(dict.fromkeys([*before, self._commit])))
        try:
            yield
        finally:
            if newest_checkpoint(directory) == begun:
                path.write_text("\n".join(before))
            self._commits |= set(path.read_text().split())

    def _folder(self, run: Run) -> Path:
        # Defaults are left out, so that a new setting changes no folder's name.
        default = _flat(Run())
        chosen = {k: v for k, v in _flat(run).items() if v != default[k]}
        chosen["data.name"] = self.set  # its version and images, not where they lie
        settings = json.dumps(chosen, sort_keys=True).encode()
        digest = hashlib.sha256(settings).hexdigest()[:8]
        return self._runs / f"{run.model.name}-{digest}" / f"seed{run.seed}"

    def arms(
        self, runs: Mapping[str, Run], views: tuple[Views, ...] = ()
    ) -> dict[str, list[dict[str, Any]]]:
        """arm -> what each of --seeds measures, its schedule scaled to --epochs: of an
        arm that is longer than the paper's, to as many times them.

        What the result that is there has of an arm, by the same settings, is kept. A
        net that diverges counts with the errors of chance.
        """
        for run in runs.values():
            self._check_batch(run)
        paper_run, *_ = runs.values()
        wanted: list[tuple[str, Run]] = []
        for seed in range(self.given.seeds):
            for arm, run in runs.items():
                epochs = round(self.given.epochs * run.epochs / paper_run.epochs)
                wanted.append((arm, scaled(replace(run, seed=seed), epochs)))
        kept = [self._kept(arm, run, views) for arm, run in wanted]  # before any trains
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in runs}
        for (arm, run), figures in zip(wanted, kept, strict=True):
            found[arm].append(figures or self._new(arm, run, views))
        return found

    def _kept(
        self, arm: str, run: Run, views: tuple[Views, ...]
    ) -> dict[str, Any] | None:
        """What the result that is there has of this run. InputError if it has the seed
        by other settings, and those are gone."""
        if not self._earlier:
            return None
        there = self._earlier.arms.get(arm, [])
        figures = next((seed for seed in there if seed.get("seed") == run.seed), None)
        if figures is None:
            return None
        label, measured = figures.get("run", ""), chance(1, 1, views).keys()
        if label != self._label(run) or measured - {"diverged"} - figures.keys():
            self._check_there(self._runs / label.partition(", ")[0])
            return None
        self._trained[self._folder(run)] = figures["seconds"]
        self._commits |= set(self._earlier.commit.split(", "))
        return figures

    def _new(self, arm: str, run: Run, views: tuple[Views, ...]) -> dict[str, Any]:
        """What this run measures, trained if it is not yet."""
        try:
            measured = measure(self.train(arm, run), views)
        except Diverged as end:
            loop.console.print(f"{end}; counts as chance")
            measured = chance(len(self.source.classes), run.epochs, views)
        return {"seed": run.seed, "run": self._label(run)} | measured

    def _label(self, run: Run) -> str:
        """What tells the run from any other, but for what may change on the way."""
        place = self._folder(run).relative_to(self._runs).as_posix()
        return f"{place}, {run.epochs} epochs"

    def finish(
        self,
        findings: Mapping[str, tuple[dict[str, report.Value], str]],
        arms: Mapping[str, Seeds],
        draw: Draw,
    ) -> None:
        """Write the JSON, the tables and the plot, and print the tables.

        `findings` are our figures and the verdict of each claim's tag. InputError if
        the result that is there has an arm that this one lacks.
        """
        self.check_arms(arms)
        report.write(self._result(findings, arms), self.path)
        result = report.read(self.path)  # what is drawn is what was written
        draw(result, self.path.with_suffix(".png"))
        beside = "the plot (.png)"
        if findings:
            report.write_table(report.tables(result), self.path.with_suffix(".txt"))
            Console().print(report.tables(result))
            beside = f"the table (.txt) and {beside}"
        print(f"wrote {self.path}, and beside it {beside}")

    def _result(
        self,
        findings: Mapping[str, tuple[dict[str, report.Value], str]],
        arms: Mapping[str, Seeds],
    ) -> report.Result:
        wild = [arm for arm, seeds in arms.items() if any(map(report.diverged, seeds))]
        but = f"; diverged: {'; '.join(wild)}" if wild else ""

        def judged(verdict: str) -> str:
            short = "" if report.untested(verdict) else self._short
            return (short or verdict) + but

        return report.Result(
            name=self.name,
            command=report.command(),
            commit=", ".join(sorted(self._commits)),
            machine=report.machine(),
            data={
                "set": self.set,
                "train": self.source.count,
                "test": self.test.count,
                "epochs": self.given.epochs,  # 0: each net's own
            },
            seeds=list(range(self.given.seeds)),
            seconds=round(sum(self._trained.values(), 0.0), 1),
            findings={
                tag: report.Finding(
                    dict(paper.claim(tag).published), ours, judged(verdict)
                )
                for tag, (ours, verdict) in findings.items()
            },
            arms={arm: list(seeds) for arm, seeds in arms.items()},
        )


def _check_numbers(given: Options) -> None:
    for flag, value, least in (
        ("--seeds", given.seeds, 1),
        ("--epochs", given.epochs, 0),
    ):
        if value < least:
            raise InputError(f"{flag} {value}: at least {least}")
    if not 0 <= given.devices <= (there := len(all_devices())):
        raise InputError(f"--devices {given.devices}: from 0 to {there}")


def newest_checkpoint(directory: Path) -> tuple[int, int] | None:
    """Its step, and when it was written, in ns; None if there is none."""
    found = (directory / folder.CHECKPOINTS).glob("[0-9]*")
    steps = {int(path.name): path for path in found if path.name.isdecimal()}
    if not steps:
        return None
    return (newest := max(steps)), steps[newest].stat().st_mtime_ns


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Once no other program works in that folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            loop.console.print(f"waiting for another program at {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _flat(run: Run) -> dict[str, Any]:
    """What tells a run from another but its seed, and what may change on the way."""
    return {
        f"{part}.{name}": value
        for (part, name), value in flat(run).items()
        if part not in folder.MAY_CHANGE | {"seed"}
    }


def not_cifar10(experiment: Experiment) -> str:
    """Why a claim about CIFAR-10 is not tested on these data; nothing if it is."""
    if experiment.source.about.startswith("TFDS cifar10/"):
        return ""
    return "not tested: the published figure is CIFAR-10's"


def no_colour(experiment: Experiment) -> str:
    """Why a claim about colour is not tested on these data; nothing if it is."""
    some = np.arange(0, experiment.source.count, experiment.source.count // 100 or 1)
    images, _ = experiment.source.fetch(some)
    if (images == images[..., :1]).all():
        return "not tested: the images are grey"
    return ""
