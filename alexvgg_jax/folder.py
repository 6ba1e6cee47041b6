"""A run's folder: which run it belongs to, and that all hosts see the same one."""

import contextlib
import dataclasses
import json
import secrets
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexvgg_jax.config import Run, flat, from_settings
from alexvgg_jax.data.sources import folder_of
from alexvgg_jax.errors import InputError
from alexvgg_jax.report import write_json

SETTINGS = "run.json"
CHECKPOINTS = "checkpoints"
MAY_CHANGE = {"epochs", "mesh", "until_error", "checkpoint_every"}  # on resuming


def check(directory: Path, run: Run, resume: bool) -> None:
    """InputError if that cannot be the run's folder: another run has it already, or it
    cannot be made."""
    several = jax.process_count() > 1
    if several:
        _check_shared(directory)  # so that all find the same below
    path = directory / SETTINGS
    if resume:
        there = settings(directory)
        # One that failed before its first checkpoint has nothing to go on with.
        begun = any((directory / CHECKPOINTS).glob("[0-9]*"))
        for (where, old), new in zip(
            flat(there).items(), flat(_from_anywhere(run)).values(), strict=True
        ):
            if old != new and begun and where[0] not in MAY_CHANGE:
                option = ".".join(filter(None, where))
                raise InputError(
                    f"{path}: {option} is {old}, not {new}; a resumed run keeps it"
                )
    elif path.exists():
        raise InputError(
            f"{directory} holds a run already: --resume goes on "
            "with it, another --out starts anew"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {directory}: {error.strerror}") from None
    if several:
        multihost_utils.sync_global_devices("all have looked")


def claim(directory: Path, run: Run) -> None:
    """Write the run's settings there, on the first host."""
    if jax.process_index() == 0:
        write_json(dataclasses.asdict(_from_anywhere(run)), directory / SETTINGS)


def _from_anywhere(run: Run) -> Run:
    """The run with the whole path of its folder of images, if it has one."""
    if (images := folder_of(run.data.name)) is None:
        return run
    return replace(run, data=replace(run.data, name=str(images.resolve())))


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
