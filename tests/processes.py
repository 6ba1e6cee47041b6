"""The program's commands in processes of their own.

They are forked from a process that has imported the program, which takes seconds, and
has not used jax yet.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax

from alexvgg_jax import hosts
from alexvgg_jax.data import sources

HEARTBEAT = 6  # seconds; the command's own 30 would only take longer
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["alexvgg_jax.__main__", "tensorboardX"])


def start(
    arguments: tuple[str, ...],
    files: tuple[Path, Path],
    environment: dict[str, str] | None = None,
    **options: str | int,
) -> BaseProcess:
    """A command's process, with these `options` of jax; `files` are its stdout and its
    stderr."""
    process = FORKS.Process(
        target=_run, args=(arguments, files, environment or {}, options), daemon=True
    )
    process.start()
    return process


def _run(
    arguments: tuple[str, ...],
    files: tuple[Path, Path],
    environment: dict[str, str],
    options: dict[str, str | int],
) -> None:
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ |= environment
    for name, value in options.items():
        jax.config.update(name, value)
    hosts.HEARTBEAT = HEARTBEAT
    sources.IN_MEMORY_BYTES = 0  # images are decoded in every epoch
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    sys.argv = ["alexvgg_jax", *arguments]
    sys.modules.pop("alexvgg_jax.__main__", None)  # runpy runs it anew
    try:
        runpy.run_module("alexvgg_jax", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # jax's leave the other hosts
