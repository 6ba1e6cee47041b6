"""Checkpoints by orbax: saved whole or not at all, the newest good one restored."""

from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from alexvgg_jax.errors import InputError

T = TypeVar("T")


class Checkpoints:
    """The two newest states of a run, each with its progress as JSON."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Keep `state` and `progress` as the checkpoint of `step`."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
        )

    def restore(self, like: T) -> tuple[T, dict[str, Any]] | None:
        """The newest state that can be read, laid out as `like`, and its progress.

        None if there is no checkpoint. Raises InputError if none has `like`'s shapes.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            return None
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        problem: Exception | None = None
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(target),
                        progress=ocp.args.JsonRestore(),
                    ),
                )
                return restored["state"], restored["progress"]
            except (ValueError, KeyError, OSError) as error:
                problem = problem or error
        reason = str(problem).splitlines()[0]
        raise InputError(f"{self._directory}: no checkpoint fits this net: {reason}")

    def close(self) -> None:
        self._manager.close()
