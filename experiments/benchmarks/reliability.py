"""Benchmark: what becomes of interrupted runs, damaged files and hostile input.

Thousands of inputs in a few kinds, each drawn at random. An input is

handled     if it ends in one clear line, or changes nothing
lost        if a run cannot continue from its last complete checkpoint
wrong       if the result differs, and nothing says so
traceback   if it ends in any other error

    python experiments/benchmarks/reliability.py      # 25 minutes on two cores
    python experiments/benchmarks/reliability.py --kinds pictures --times 10

A record that is there already keeps the kinds that are not tried again. Run signals in
the foreground: a command in the background ignores Ctrl-C.
"""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import tyro
from _damaged_runs import damaged_files, file_limits
from _ended_runs import full_disks, kills, signals
from _hostile_inputs import command_lines, pictures, record_files, records, settings
from _hostile_weights import stored_weights
from _records import OUT, Result, origin, table, write
from _trouble import Outcome, Trial, Trouble
from rich.console import Console
from rich.progress import track

from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.files import read_json

KINDS: dict[str, tuple[Trouble, int]] = {  # and how many inputs are tried
    "kill -9": (kills, 20),
    "signals": (signals, 15),
    "full disks": (full_disks, 8),
    "files that cannot grow": (file_limits, 300),
    "damaged files of a run": (damaged_files, 400),
    "damaged pictures": (pictures, 5000),
    "damaged weights": (stored_weights, 26_000),  # 2,000 of each format
    "settings": (settings, 2000),
    "command lines": (command_lines, 200),
    "records": (records, 2500),
    "files of an image set": (record_files, 500),
}
SHOWN = 5  # a record lists the first inputs of a kind that were not handled


@dataclass(frozen=True)
class Options:
    kinds: tuple[str, ...] = tuple(KINDS)  # what to try
    times: float = 1.0  # how much more, or less, of each
    seed: int = 0  # of the inputs
    out: Path = OUT  # folder for reliability.json and its table


def tried(kind: str, options: Options, folder: Path) -> Result:
    """What became of the inputs of one kind."""
    trouble, count = KINDS[kind]
    count, start = max(1, round(count * options.times)), time.perf_counter()
    random = np.random.default_rng(options.seed)
    trials: list[Trial] = []
    inputs = trouble(count, random, folder / kind)
    for trial in track(inputs, kind, total=count, console=Console(stderr=True)):
        trials.append(trial)
    outcomes = Counter(trial.outcome for trial in trials)
    bad = [trial.what[:1000] for trial in trials if trial.outcome != "handled"]
    return {
        "tried": len(trials),
        **{outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        "seconds": time.perf_counter() - start,
        "for example": bad[:SHOWN],
    }


def page(result: Result) -> str:
    columns = ("tried", *get_args(Outcome))
    kinds: dict[str, Any] = {k: v for k, v in result["kinds"].items() if v["tried"]}
    kinds["all"] = {c: sum(kind[c] for kind in kinds.values()) for c in columns}
    rows = [
        [name, *(f"{kind[column]:,}" for column in columns)]
        for name, kind in kinds.items()
    ]
    seconds = sum(kind["seconds"] for kind in result["kinds"].values())
    title = f"inputs of each kind, in {seconds / 60:.0f} minutes"
    return table(title, ("", *columns), rows)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    path = options.out / "reliability.json"
    kinds = read_json(path)["kinds"] if path.exists() else {}
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        raise InputError(f"--kinds {unknown[0]}: choose from {', '.join(KINDS)}")
    result = origin("reliability")
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for kind in options.kinds:
            kinds[kind] = tried(kind, options, Path(folder))
            print(*kinds[kind]["for example"], sep="\n", end="")
            result["kinds"] = {kind: kinds[kind] for kind in KINDS if kind in kinds}
            write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
