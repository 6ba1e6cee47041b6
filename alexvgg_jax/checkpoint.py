"""Checkpoints by orbax: saved completely or not at all, and checked when restored."""

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import read_json, write_json
from alexvgg_jax.sharding import all_devices

T = TypeVar("T")

FULL = "No space left on device"
STATE, PROGRESS, UNFINISHED = "state", "progress.json", ".unfinished"
KEPT = 2  # the newest checkpoints
SMALL = 2**16  # bytes
ROW_STEP = np.uint64(0x3C6EF372FE94F82A)  # even, and no multiple of a width


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
    """Print nothing for errors that Orbax raises: they become one line elsewhere.

    Orbax logs their tracebacks too. After the first error it closes its event loop, and
    Python prints what its other writes raise ("unraisable" exceptions).
    """
    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


class Checkpoints:
    """The two newest states of a run, each with its progress as JSON.

    STEP/state/          the arrays
    STEP/progress.json   the step, the progress, the sizes of the arrays' files, and a
                         digest of all of it and of the arrays
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self._good: list[int] = []  # steps that this object restored or saved
        all_devices()  # orbax needs them too, and its error would have no message
        # OCDBT needs a merge, which finds nothing below a folder named like `run[1]`.
        # Compression saves 8%, and takes most of the time.
        self._orbax = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
        )

    def steps(self) -> list[int]:
        """The steps of the checkpoints, newest first."""
        if not self.directory.is_dir():
            return []
        names = (path.name for path in self.directory.iterdir())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    @_silent_orbax()
    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Keep `state` and `progress` as the checkpoint of `step`.

        Raises OSError, and keeps earlier checkpoints, if the disk is full or if the
        first checkpoint that this object saves cannot be read back. (Reading each one
        would double the time of a save.)
        """
        # On a disk that fills up while it writes, tensorstore prints long tracebacks.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self.directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.directory).free < size:
            raise OSError(f"{self.directory}: cannot save: {FULL}")
        if jax.process_count() == 1:  # orbax would compile a slice of every array
            state = jax.device_get(state)
        try:
            self._write(step, state, progress)
        except (ValueError, OSError) as error:  # tensorstore's errors are ValueErrors
            reason = FULL if FULL in str(error) else str(error).splitlines()[0]
            raise OSError(f"{self.directory}: cannot save: {reason}") from None
        finally:
            if jax.process_index() == 0:
                _delete(*self.directory.glob(f"*{UNFINISHED}"))
        if not self._good and self._read(step, state) is None:
            path = self.directory / str(step)
            raise OSError(f"{path}: cannot be read back: use another --out")
        self._good = [step, *(old for old in self._good if old != step)][:KEPT]
        if jax.process_index() == 0:
            others = (old for old in self.steps() if old not in self._good)
            _delete(*(self.directory / str(old) for old in others))

    def _write(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Write a checkpoint, and give it its name once it is complete."""
        path = self.directory / str(step)
        unfinished = path.with_name(f"{step}{UNFINISHED}")
        if jax.process_index() == 0:  # another process was killed
            _delete(unfinished)
        with ThreadPoolExecutor() as pool:
            sums = pool.map(_own_sum, jax.tree.leaves(state))  # while orbax writes
            self._orbax.save(unfinished / STATE, args=ocp.args.PyTreeSave(state))
            sums = _of_all_hosts(sums)
        if jax.process_index() == 0:
            files = _files(unfinished / STATE)
            stored = {"step": step, "progress": progress, "files": files}
            digest = _digest(state, sums, stored)
            write_json(stored | {"digest": digest}, unfinished / PROGRESS)
            _delete(path)  # damaged, or an epoch has ended without another step
            unfinished.rename(path)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("saved")

    @_silent_orbax()
    def restore(self, like: T | None = None) -> tuple[T, dict[str, Any]] | None:
        """The newest undamaged state, laid out like `like` (or as dicts on one device),
        and its progress; None if there is no checkpoint.

        Names damaged newer ones on stderr. Raises InputError if the state has other
        shapes than `like`, if all checkpoints are damaged, or if the newest is and
        several hosts might disagree about it.
        """
        steps = self.steps()
        for step in steps:
            path = self.directory / str(step)
            if state_and_progress := self._read(step, like):
                for damaged in steps[: steps.index(step)]:
                    bad = self.directory / str(damaged)
                    print(f"{bad} is damaged: using step {step}", file=sys.stderr)
                self._good = [step]
                return state_and_progress
            if jax.process_count() > 1:
                raise InputError(
                    f"{path} is damaged: delete it to continue from the one before"
                )
        if steps:
            raise InputError(f"{self.directory}: all of its checkpoints are damaged")
        return None

    def _read(self, step: int, like: Any) -> Any:
        """The state and the progress, or None if they are damaged. Raises InputError
        if the state has other shapes than `like`."""
        path = self.directory / str(step)
        try:
            stored = read_json(path / PROGRESS)
            digest = stored.pop("digest")
            # Orbax would print tracebacks for missing files.
            if stored["step"] != step or stored["files"] != _files(path / STATE):
                return None
            known: Any = self._orbax.metadata(path / STATE).item_metadata
            saved = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), known.tree)
            fits = like is None or _shapes(saved) == _shapes(like)
            wanted = jax.tree.map(_target, like if like is not None and fits else saved)
            arguments = ocp.args.PyTreeRestore(
                wanted, ocp.checkpoint_utils.construct_restore_args(wanted)
            )
            state = self._orbax.restore(path / STATE, args=arguments)
            sums = _of_all_hosts(map(_own_sum, jax.tree.leaves(state)))
            if _digest(state, sums, stored) != digest:
                return None
        except jax.errors.JaxRuntimeError:  # another host died, or memory ran out
            raise
        except Exception:  # a damaged file can raise any
            return None
        if not fits:
            _check(path, _shapes(state), _shapes(like))
        if like is None:
            state = jax.tree.map(jnp.asarray, state)
        return state, stored["progress"]

    def close(self) -> None:
        self._orbax.close()


def _check(path: Path, stored: dict, wanted: dict) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise InputError(
                f"{path}: {name} has shape {stored.get(name)}, but this net has "
                f"{wanted.get(name)}"
            )


def _delete(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> dict[str, str]:
    """The size of every file, and a digest of the small ones, which hold JSON."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            size, digest = path.stat().st_size, ""
            if size < SMALL:
                digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
            files[path.relative_to(folder).as_posix()] = f"{size} {digest}"
    return files


def _digest(state: Any, sums: list[int], stored: dict[str, Any]) -> str:
    """A digest of everything in a checkpoint: the same however devices or hosts share
    the arrays."""
    arrays = sorted(zip(_shapes(state).items(), sums, strict=True))
    text = json.dumps([arrays, stored], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _of_all_hosts(own: Iterable[int]) -> list[int]:
    """The sum of each array, from the sums of the parts that the hosts hold."""
    sums = np.array(list(own), np.uint64)
    if jax.process_count() > 1:  # jax has no 64-bit integers
        halves = multihost_utils.process_allgather(sums.view(np.uint32))
        sums = np.asarray(halves).view(np.uint64).sum(axis=0)
    return list(map(int, sums))


def _own_sum(leaf: jax.Array | np.ndarray) -> int:
    """A sum of the part that this host holds, which depends on each of its words. (A
    cryptographic digest would take as long as a save.)"""
    parts = [(leaf, (slice(None),) * leaf.ndim)]
    if isinstance(leaf, jax.Array):
        shards = leaf.addressable_shards
        parts = [(part.data, part.index) for part in shards if not part.replica_id]
    sums = (_sum(jax.device_get(part), at, leaf.shape) for part, at in parts)
    return sum(sums) % 2**64


def _sum(part: np.ndarray, at: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """The sum of 32-bit words times odd numbers that tell their places in the whole
    array, modulo 2^64: every changed word changes it, and words that are swapped do.

    Words are added in pairs, which is faster than one by one.
    """
    *above, width = shape or (1,)
    rows = np.arange(math.prod(above), dtype=np.uint64).reshape(above)[at[:-1]]
    columns = np.arange(width, dtype=np.uint64)[at[-1:]]
    words, factors = np.ravel(part).view(np.uint32), columns | 1
    if len(columns) % 2 == 0 and columns[0] % 2 == 0:
        words, factors = words.view(np.uint64), factors[::2]
    else:
        words, factors = words.astype(np.uint64), factors << columns % 2 * 32
    sums = np.einsum("rc,c->r", words.reshape(-1, len(factors)), factors)
    return int((sums * (rows.ravel() * ROW_STEP + 1)).sum())


def _target(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
