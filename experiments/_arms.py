"""What every experiment shares: options, the runs of its arms, the result's files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

from alexvgg_jax import loop, paper, report
from alexvgg_jax.config import Data, Mesh, Run
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.errors import InputError, short_usage


@dataclass(frozen=True)
class Options:
    data: str = "digits"  # digits, a TFDS name such as cifar10, or a folder of classes
    seeds: int = 3  # runs of each arm
    epochs: int = 30  # most passes over the training set
    out: Path = Path("results")  # folder for the JSON, the plot and the runs
    resume: bool = False  # go on with an experiment that was cut short
    devices: int = 0  # how many devices share a batch; 0 for all


def options(documentation: str | None, defaults: Options) -> Options:
    """The options on the command line; `documentation` heads the --help."""
    with short_usage():
        given = tyro.cli(
            Options,
            default=defaults,
            description=documentation,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    if given.seeds < 1:
        raise InputError(f"--seeds {given.seeds}: at least 1")
    return given


class Experiment:
    """The runs of one experiment, each in a folder of its own, and their result."""

    def __init__(self, name: str, given: Options):
        self._name, self._given = name, given
        self.commit = report.commit()  # before anyone edits while it runs
        self._runs = given.out / "runs" / f"{name}-{Path(given.data).name}"
        if not given.resume and self._runs.exists():
            raise InputError(
                f"{self._runs} holds an earlier experiment: --resume goes on with it, "
                "another --out starts anew"
            )
        # Seeds and rates are arguments of one program, which is compiled once.
        jax.config.update("jax_compilation_cache_dir", str(given.out / "runs/compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        self._seconds: dict[Path, float] = {}

    def train(self, arm: str, run: Run) -> list[loop.Epoch]:
        """The history of `run`, from its newest checkpoint if it has one."""
        data = replace(run.data, name=self._given.data)
        run = replace(run, data=data, mesh=Mesh(self._given.devices))
        directory = self._runs / arm / f"seed{run.seed}"
        loop.console.rule(f"{arm}, seed {run.seed}", align="left")
        started = (directory / "run.json").exists()
        history = loop.train(run, directory, resume=started).history
        self._seconds[directory] = sum(epoch.seconds for epoch in history)
        return history

    def finish(
        self,
        claim: paper.Claim,
        arms: dict[str, list[dict[str, Any]]],
        ours: dict[str, Any],
        verdict: str,
        draw: Callable[[report.Result, Path], None],
    ) -> None:
        """Write the result's JSON, its table and its plot; print the table."""
        data = Data(self._given.data)
        train, test = open_source(data, "train"), open_source(data, "test")
        result = report.Result(
            name=self._name,
            claim=claim.tag,
            command=report.command(),
            commit=self.commit,
            machine=report.machine(),
            data={"set": train.about, "train": train.count, "test": test.count},
            seeds=list(range(self._given.seeds)),
            seconds=round(sum(self._seconds.values()), 1),
            published=dict(claim.published),
            ours=ours,
            arms=arms,
            verdict=verdict,
        )
        path = self._given.out / f"{self._name}.json"
        report.write(result, path)
        result = report.read(path)  # what is drawn is what was written
        report.write_table(report.table(result), path.with_suffix(".txt"))
        draw(result, path.with_suffix(".png"))
        Console().print(report.table(result))
        print(f"wrote {path}, and beside it the table (.txt) and the plot (.png)")
