"""Checkpoints by orbax: saved completely or not at all, and checked when restored."""

import contextlib
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import read_json, write_json
from alexvgg_jax.sharding import all_devices

T = TypeVar("T")

FULL = "No space left on device"
DIGESTS = "digests.json"  # of a checkpoint's files


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
    """Orbax logs the tracebacks of the errors that it also raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The two newest states of a run, each with its progress as JSON."""

    @_silent_orbax()
    def __init__(self, directory: Path):
        self._directory = directory
        all_devices()  # orbax needs them too, and its error would have no message
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False
            ),
        )

    @_silent_orbax()
    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Keep `state` and `progress` as the checkpoint of `step`.

        Raises OSError, and keeps earlier checkpoints, if the disk is full.
        """
        # On a disk that fills up while it writes, tensorstore prints long tracebacks.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self._directory).free < size:
            raise OSError(f"{self._directory}: cannot save: {FULL}")
        for old in self._manager.all_steps():
            if old >= step:  # damaged, or an epoch has ended without another step
                self._manager.delete(old)
        if jax.process_count() == 1:  # orbax would compile a slice of every array
            state = jax.device_get(state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
        )
        try:
            saved = self._manager.save(step, args=arguments)
        except (ValueError, OSError) as error:  # tensorstore's errors are ValueErrors
            for unfinished in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            reason = FULL if FULL in str(error) else str(error).splitlines()[0]
            raise OSError(f"{self._directory}: cannot save: {reason}") from None
        if not saved:
            raise OSError(f"{self._directory}: orbax did not save step {step}")
        if jax.process_index() == 0:
            folder = self._directory / str(step)
            write_json(_digests(folder), folder / DIGESTS)

    @_silent_orbax()
    def restore(self, like: T | None = None) -> tuple[T, dict[str, Any]] | None:
        """The newest undamaged state, laid out like `like` (or as dicts on one device),
        and its progress; None if there is no checkpoint.

        Names damaged newer ones on stderr. Raises InputError if the state has other
        shapes than `like`, if all checkpoints are damaged, or if the newest is and
        several hosts might disagree about it.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            path = self._directory / str(step)
            if _is_intact(path):
                for damaged in steps[: steps.index(step)]:
                    bad = self._directory / str(damaged)
                    print(f"{bad} is damaged: using step {step}", file=sys.stderr)
                return self._restored(step, like)
            if jax.process_count() > 1:
                raise InputError(
                    f"{path} is damaged: delete it to continue from the one before"
                )
        if steps:
            raise InputError(f"{self._directory}: all of its checkpoints are damaged")
        return None

    def _restored(self, step: int, like: Any) -> Any:
        stored = self._manager.item_metadata(step)["state"].tree
        wanted = stored if like is None else like
        self._check(step, _shapes(stored), _shapes(wanted))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(_target, wanted)),
            progress=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=arguments)
        return restored["state"], restored["progress"]

    def _check(self, step: int, stored: dict, wanted: dict) -> None:
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise InputError(
                    f"{self._directory / str(step)}: {name} has shape "
                    f"{stored.get(name)}, but this net has {wanted.get(name)}"
                )

    def close(self) -> None:
        self._manager.close()


def _digests(folder: Path) -> dict[str, str]:
    """A digest of every file of a checkpoint."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != DIGESTS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _is_intact(folder: Path) -> bool:
    """Whether all files are as saved. Without digests, the program was killed right
    after orbax had finished."""
    path = folder / DIGESTS
    try:
        return not path.exists() or read_json(path) == _digests(folder)
    except (InputError, OSError):
        return False


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else single
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
