"""Benchmark: the seconds until a net's first training step is done.

Compiling takes most of them. jax can keep compiled programs in a folder, which
JAX_COMPILATION_CACHE_DIR names, and later processes read them there. Each measurement
has a process of its own, and starts when the process has imported jax. The first of two
compiles the programs, and the second reads them. A figure is the median of the rounds.

    python experiments/benchmarks/start_time.py
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import jax
import tyro
from _records import OUT, Result, table, write
from rich.console import Console
from rich.progress import track
from throughput import BATCHES, begin, in_jax, new_process

from alexvgg_jax.errors import one_line
from alexvgg_jax.models import build

COMPILED, READ = "compiled", "read from the cache"


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...] = tuple(BATCHES)  # names in alexvgg_jax.models.MODELS
    rounds: int = 3  # the medians are taken over these
    out: Path = OUT  # folder for start_time.json and its table


def first_step_seconds(name: str, folder: str) -> float:
    """Return the seconds of a net's initialisation and first training step in a new
    process, with a folder of compiled programs."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    start = time.perf_counter()
    step = in_jax(build(name), BATCHES.get(name, 32)).steps["training"]
    jax.block_until_ready(step())
    return time.perf_counter() - start


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round."""
    seconds: dict[str, list[float]] = {COMPILED: [], READ: []}
    for _ in track(range(rounds), name, console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            for every in seconds.values():  # the first one fills the folder
                with new_process() as process:
                    every.append(
                        process.submit(first_step_seconds, name, folder).result()
                    )
    return seconds


def page(result: Result) -> str:
    machine = result["machine"]
    rows = [
        [
            name,
            str(BATCHES.get(name, 32)),
            *(f"{median(s):.1f}" for s in rounds.values()),
        ]
        for name, rounds in result["nets"].items()
    ]
    title = "Seconds until the first training step is done"
    versions = f"{machine['processor']}, {machine['cores']} cores, jax {machine['jax']}"
    return table(f"{title}: {versions}", ("net", "batch", COMPILED, READ), rows)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    result = begin("start_time", options.nets, options.rounds)
    result["nets"] = {name: measure(name, options.rounds) for name in options.nets}
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
