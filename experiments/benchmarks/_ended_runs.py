"""Trouble while the training command runs: kills, signals and full disks."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _trouble import Random, Trial, equal

from alexvgg_jax import run as run_folder
from alexvgg_jax.checkpoint import Checkpoints

TRAIN = "train digits --data.size 14 --augment.crop 12 --epochs 4 --mesh.devices 1"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PHASES = {  # the function that is running when the signal comes
    "importing": "",
    "compiling": "alexvgg_jax.loop._compile",
    "training": "alexvgg_jax.loop._train_epoch",
    "testing": "alexvgg_jax.evaluate.test",
    "saving": "alexvgg_jax.checkpoint.Checkpoints._write",
}
# Runs the program, and sends it a signal 20 ms after a function was first called.
SIGNALLED = """
import os, pkgutil, runpy, signal, sys, threading

number, place, *sys.argv[1:] = sys.argv[1:]
timer = threading.Timer(0.02, os.kill, (os.getpid(), int(number)))

class Finder:
    def find_spec(self, name, *_):
        if name == "jax":
            sys.meta_path.remove(self)
            timer.start()

if place:
    owner, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    real = getattr(owner, name)

    def signalled(*arguments, **options):
        setattr(owner, name, real)
        timer.start()
        return real(*arguments, **options)

    setattr(owner, name, signalled)
else:
    sys.meta_path.insert(0, Finder())
runpy.run_module("alexvgg_jax", run_name="__main__")
"""
# Trains on a disk of a few kilobytes, then makes it larger and resumes.
DISK = """
mount -t tmpfs -o size={size}k tmpfs {disk} && export PYTHONUNBUFFERED=1
{command} --out {disk}/run; echo status $? >&2
mount -o remount,size=99m {disk}
{command} --out {disk}/run --resume && cp -r {disk}/run {out}
"""
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount", "sh", "-c")


class Program:
    """The training command, and what it prints to stderr."""

    def __init__(self, folder: Path, *arguments: str, start: tuple[str, ...] = ()):
        self.log = folder.with_name(f"{folder.name}.log")
        command = [sys.executable, *(start or ("-m", "alexvgg_jax")), *TRAIN.split()]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--out", str(folder), *arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(folder.parent),
            )

    def ended(self) -> tuple[int, str]:
        return self.process.wait(timeout=300), self.log.read_text(errors="replace")


def environment(folder: Path) -> dict[str, str]:
    """The variables of a program that shares what it compiles with others."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def trained(folder: Path) -> tuple[Path, float]:
    """A run that nothing ends, and its seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    Program(folder / "first", "--epochs", "1").ended()  # compiles
    start = time.monotonic()
    code, text = Program(folder / "whole").ended()
    assert not code, text
    return folder / "whole", time.monotonic() - start


def judged(what: str, code: int, text: str, run: Path, whole: Path) -> Trial:
    """What `--resume` has made of a run that ended early."""
    if "Traceback" in text:
        return Trial("traceback", f"{what}: {text}")
    if code or "damaged" in text:
        return Trial("lost", f"{what}: {text}")
    (params, history), (right, past) = final(run), final(whole)
    same = history == past and equal(params, right)
    return Trial("handled" if same else "wrong", what)


def final(folder: Path) -> tuple[Any, Any]:
    """The last parameters and the history of a run, without its seconds."""
    with contextlib.closing(Checkpoints(folder / run_folder.CHECKPOINTS)) as kept:
        restored: Any = kept.restore()
    state, figures = restored
    return state["params"], [e | {"seconds": 0} for e in figures["history"]]


def kills(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """kill -9 while `train` runs, every second one inside a save."""
    whole, seconds = trained(folder)
    moments = random.random(count) * seconds

    def kill(number: int) -> Trial:
        out, start = folder / str(number), time.monotonic()
        program = Program(out)
        while program.process.poll() is None:
            time.sleep(0.001)
            late = time.monotonic() - start > moments[number]
            if late and (number % 2 or [*out.glob("checkpoints/*.unfinished")]):
                break
        program.process.kill()
        program.ended()
        what = f"killed at {moments[number]:.2f} s"
        return judged(what, *Program(out, "--resume").ended(), out, whole)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(kill, range(count))


def signals(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Signals by phase: the exit status and one line, and then the run resumes."""
    whole, _ = trained(folder)
    cases = [(number, phase) for phase in PHASES for number in SIGNALS]

    def send(number: int) -> Trial:
        sent, phase = cases[number % len(cases)]
        out, start = folder / str(number), ("-c", SIGNALLED, str(sent), PHASES[phase])
        code, text = Program(out, start=start).ended()
        what = f"{sent.name} while {phase}: status {code}, {text!r}"
        if "Traceback" in text:
            return Trial("traceback", what)
        lines = [line for line in text.split("\n") if line and "  epoch " not in line]
        # Before it trains, the system may end the program, without a line.
        if (code, len(lines)) not in ((128 + sent, 1), (-sent, 0)):
            return Trial("wrong", what)
        return judged(what, *Program(out, "--resume").ended(), out, whole)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(send, range(count))


def full_disks(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """A disk that is full while `train` runs, where users may mount one."""
    try:
        mount = [*OWN_MOUNTS, "mount -t tmpfs tmpfs /mnt"]
        if subprocess.run(mount, capture_output=True).returncode:
            return
    except OSError:  # no unshare
        return
    whole, _ = trained(folder)
    sizes = random.integers(5, 700, count) * 4

    def fill(number: int) -> Trial:
        out, disk = folder / str(number), folder / f"disk{number}"
        disk.mkdir()
        command = f"{sys.executable} -m alexvgg_jax {TRAIN}"
        paths = {"disk": shlex.quote(str(disk)), "out": shlex.quote(str(out))}
        script = DISK.format(size=sizes[number], command=command, **paths)
        ended = subprocess.run(
            [*OWN_MOUNTS, script],
            capture_output=True,
            text=True,
            env=environment(folder),
        )
        what = f"a disk of {sizes[number]} KB"
        return judged(what, ended.returncode, ended.stderr, out, whole)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(fill, range(count))
