"""Trouble with a run's folder: damaged files, and files that cannot grow."""

import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _trouble import Random, Trial, attempt, damage, equal, printed
from rich.console import Console

from alexvgg_jax import loop, plots, ready
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import Augment, Data, Mesh, Optim, Run
from alexvgg_jax.files import write_text
from alexvgg_jax.log import Log
from alexvgg_jax.models import build

# 12 steps an epoch, and arrays above and below 64 KB.
SMALL = Run(
    name="small",
    data=Data("digits", size=14),
    augment=Augment(crop=12, mirror=True, colour=0.1),
    net=build("cifar-80sec"),
    optim=Optim(rate=0.002),
    epochs=2,
    mesh=Mesh(devices=1),
)
EVERY = 10  # how many damaged runs are tested for one that is also resumed


def damaged_files(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Every kind of file of a run, through `eval` and `train --resume`."""
    whole, copied = folder / "whole", folder / "copy"
    with printed():
        trained = loop.train(SMALL, whole)
        setup, _ = ready.load(whole)
        shutil.copytree(whole, copied)
        shutil.rmtree(copied / "checkpoints" / str(trained.history[-1].step))
        older = ready.load_params(copied)
        shutil.rmtree(copied)
    kinds = _kinds(whole)
    for number in range(count):
        shutil.copytree(whole, copied)
        files = list(kinds.values())[number % len(kinds)]
        file = copied / files[random.integers(len(files))]
        what = f"{file.relative_to(copied)}, {damage(file, random)}"
        if (number // len(kinds) + 1) % EVERY:
            with printed() as text:
                right = (setup, trained.params, older)
                yield attempt(f"eval: {what}", _evaluated, copied, *right, text)
        else:
            with printed():
                yield attempt(f"resume: {what}", _resumed, copied, trained)
        shutil.rmtree(copied)


def _kinds(folder: Path) -> dict[str, list[Path]]:
    """The files of a run by kind: small and large arrays, orbax's, and by name."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.name.split(".out")[0]
        if "state" in path.parts:
            name = "large" if path.stat().st_size > 2**16 else "small"
            name = name if path.name.startswith("0") else "orbax"
        kinds.setdefault(name, []).append(path.relative_to(folder))
    return kinds


def _evaluated(
    folder: Path, setup: Any, params: Any, older: Any, text: Callable[[], str]
) -> str | None:
    """What differs in a run that was read."""
    loaded, read = ready.load(folder)
    if (loaded.run, loaded.images) != (setup.run, setup.images):
        return "other settings or images"
    if not equal(loaded.stats, setup.stats):
        return "other statistics"
    if equal(read, params):
        return text() or None
    if not equal(read, older):
        return "other parameters"
    return None if "is damaged: using step 12" in text() else "older without a line"


def _resumed(folder: Path, trained: loop.Trained) -> str | None:
    again = loop.train(SMALL, folder, resume=True)
    if not equal(again.params, trained.params):
        return "other parameters"
    past, right = (
        [epoch._replace(seconds=0.0) for epoch in run.history]
        for run in (again, trained)
    )
    return None if past == right else "another history"


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can be larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def file_limits(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Everything that is written, where files cannot grow beyond a random size."""
    kernel = random.normal(size=(5, 5, 3, 16)).astype(np.float32)
    large = random.normal(size=(100, 200)).astype(np.float32)
    writers: dict[str, tuple[Callable[..., str | None], Any, int]] = {
        "checkpoint": (_saved, {"kernel": kernel, "large": large}, 90_000),
        "log": (_logged, folder / "log", 9_000),
        "table": (_written, lambda path: write_text("a,b\n" * 2000, path), 9_000),
        "picture": (_written, lambda path: _drawn(kernel, path), 30_000),
    }
    for number in range(count):
        name = list(writers)[number % len(writers)]
        write, content, most = writers[name]
        size = int(random.integers(most))
        with printed() as text:
            what = f"{name} with {size} bytes"
            trial = attempt(what, write, folder / name, content, size)
            if trial.outcome == "handled" and text():
                trial = Trial("traceback", f"{what}: {text()}")
        yield trial


def _saved(folder: Path, state: dict[str, Any], size: int) -> str | None:
    with contextlib.closing(Checkpoints(folder)) as kept:
        step = max([0, *kept.steps()])
        if not step:
            kept.save(step := 1, {**state, "step": np.int32(1)}, {"step": 1})
        try:
            with largest_file(size):
                new = {**state, "step": np.int32(step + 1)}
                kept.save(step + 1, new, {"step": step + 1})
            step += 1
        except OSError as error:
            if "\n" in str(error):
                return str(error)
        restored: Any = kept.restore()
    right = {**state, "step": np.int32(step)}
    good = restored[1]["step"] == step and equal(restored[0], right)
    return None if good else "another checkpoint"


def _logged(_: Path, folder: Path, size: int) -> None:
    quiet = Console(quiet=True)
    with largest_file(size), Log(quiet, folder, "a", 1, 9_999, 0) as log:
        for step in range(50, 2_000, 50):
            log.step(step, 1.0, 50.0, 0.01, 100.0)


def _drawn(kernel: np.ndarray, path: Path) -> None:
    plots.draw_filters(kernel, 1, path.with_suffix(".png"))


def _written(path: Path, write: Callable[[Path], None], size: int) -> str | None:
    """Whether a file that could not be written is as it was."""
    folder = path.with_name(f"{path.name}s")
    before = _contents(folder)
    try:
        with largest_file(size):
            write(folder / path.name)
    except OSError:
        return None if _contents(folder) == before else "half a file"
    return None


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}
