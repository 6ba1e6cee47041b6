"""Checkpoints by orbax: saved whole or not at all, the newest good one restored."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import all_devices

T = TypeVar("T")

FULL = "No space left on device"

# Orbax logs the tracebacks of the errors that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The two newest states of a run, each with its progress as JSON."""

    def __init__(self, directory: Path):
        self._directory = directory
        all_devices()  # orbax asks for them too, and fails without a word
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

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Keep `state` and `progress` as the checkpoint of `step`.

        Raises OSError, and keeps the checkpoints from before, if the disk is full.
        """
        # Of a disk that fills up underneath it, tensorstore prints tracebacks for long.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self._directory).free < size:
            raise OSError(f"{self._directory}: cannot save: {FULL}")
        for there in self._manager.all_steps():
            if there >= step:  # damaged, or an epoch has ended without another step
                self._manager.delete(there)
        try:
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave(progress),
            )
            with _no_stragglers():
                saved = self._manager.save(step, args=arguments)
        except (ValueError, OSError) as error:  # tensorstore's errors are ValueErrors
            for unfinished in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            reason = FULL if FULL in str(error) else str(error).splitlines()[0]
            raise OSError(f"{self._directory}: cannot save: {reason}") from None
        if not saved:
            raise OSError(f"{self._directory}: orbax did not save step {step}")

    def restore(self, like: T | None = None) -> tuple[T, dict[str, Any]] | None:
        """The newest state that can be read, laid out as `like` (without it, as dicts
        on one device), and its progress.

        Newer ones that cannot be read are said to be damaged; but of several hosts one
        may read what another cannot, and they would go on apart. None if there is no
        checkpoint. Raises InputError if one has other shapes than `like`, if none
        can be read, or on several hosts not the newest; and JaxRuntimeError if it does
        not fit the device.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                with _no_stragglers():
                    restored = self._restored(step, like)
            except (InputError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # orbax names none for what it cannot read
                if jax.process_count() > 1:
                    raise InputError(
                        f"{self._directory / str(step)} cannot be read on this host: "
                        "delete it to go on from the one before"
                    ) from error
                damaged.append(step)
                continue
            for unreadable in damaged:
                path = self._directory / str(unreadable)
                print(f"{path} is damaged: using step {step}", file=sys.stderr)
            return restored["state"], restored["progress"]
        if steps:
            raise InputError(f"{self._directory}: none of its checkpoints can be read")
        return None

    def _restored(self, step: int, like: Any) -> Any:
        stored = self._manager.item_metadata(step)["state"].tree
        wanted = stored if like is None else like
        self._check(step, _shapes(stored), _shapes(wanted))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(_target, wanted)),
            progress=ocp.args.JsonRestore(),
        )
        return self._manager.restore(step, args=arguments)

    def _check(self, step: int, stored: dict, wanted: dict) -> None:
        for name in sorted(stored.keys() | wanted.keys()):
            there, here = stored.get(name), wanted.get(name)
            if there != here:
                raise InputError(
                    f"{self._directory / str(step)}: {name} has shape {there}, "
                    f"where this net has {here}"
                )

    def close(self) -> None:
        self._manager.close()


@contextlib.contextmanager
def _no_stragglers() -> Iterator[None]:
    """Where an array cannot be read or written, tensorstore's threads tell so of the
    others to an event loop that orbax has closed, and print what they get. That may be
    after this; so where it fails they stay silent."""
    before = sys.unraisablehook

    def unless_late(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    sys.unraisablehook = unless_late
    yield
    sys.unraisablehook = before


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    on_one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else on_one
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
