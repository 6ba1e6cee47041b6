"""A run's folder: which run it belongs to, and that all hosts see the same one."""

import contextlib
import dataclasses
import json
import secrets
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexvgg_jax.config import Run, from_settings
from alexvgg_jax.errors import InputError
from alexvgg_jax.report import write_json

SETTINGS = "run.json"
CHECKPOINTS = "checkpoints"
MAY_CHANGE = {"epochs", "mesh", "until_error", "checkpoint_every"}  # on resuming


def claim(directory: Path, run: Run, resume: bool) -> None:
    """Write the run's settings there. InputError if another run has them already."""
    several = jax.process_count() > 1
    if several:
        _check_shared(directory)  # so that all find the same below
    path = directory / SETTINGS
    if resume:
        there = settings(directory)
        # One that failed before its first checkpoint has nothing to go on with.
        begun = any((directory / CHECKPOINTS).glob("[0-9]*"))
        for name in (f.name for f in dataclasses.fields(Run)):
            old, new = getattr(there, name), getattr(run, name)
            if old != new and begun and name not in MAY_CHANGE:
                raise InputError(
                    f"{path}: {name} is {old}, not {new}; a resumed run keeps it"
                )
    elif path.exists():
        raise InputError(
            f"{directory} holds a run already: --resume goes on "
            "with it, another --out starts anew"
        )
    if several:
        multihost_utils.sync_global_devices("all have looked")
    if jax.process_index() == 0:
        write_json(dataclasses.asdict(run), path)


def settings(directory: Path) -> Run:
    """Those of the run there. InputError if there is none that can be read."""
    path = directory / SETTINGS
    if not path.exists():
        raise InputError(f"{directory}: no run there, for there is no {SETTINGS}")
    try:
        return from_settings(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not the settings of a run: {error}") from None


def _check_shared(directory: Path) -> None:
    """Wait for all hosts. InputError if it is not one folder that they share."""
    first, number = jax.process_index() == 0, secrets.randbits(31)
    if first:
        write_json({}, directory / f"shared{number}")
    number = multihost_utils.broadcast_one_to_all(np.int32(number))
    path = directory / f"shared{number}"
    for _ in range(100):  # ten seconds: network file systems take their time
        if path.exists():
            break
        time.sleep(0.1)
    seen = multihost_utils.process_allgather(np.array(path.exists()))
    if first:
        path.unlink()
        with contextlib.suppress(OSError):  # one that holds something stays
            directory.rmdir()
    if not seen.all():
        raise InputError(f"--out {directory}: not a folder that all hosts share")
