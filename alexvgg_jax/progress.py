"""Where a run is, and how that is saved and restored."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.errors import Diverged, InputError
from alexvgg_jax.models import Params
from alexvgg_jax.step import State, Sums


class Epoch(NamedTuple):
    """One line of a run's history; losses in nats, errors in %."""

    epoch: int
    step: int
    rate: float
    train_loss: float  # over the epoch's batches, each before its update
    train_error: float
    test_loss: float
    test_error: float
    test_top5: float
    seconds: float  # of training: without compilation and testing


@dataclass
class Position:
    """Where a run is. A checkpoint holds this and the state."""

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    sums: Sums = Sums()  # of the epoch so far
    seconds: float = 0.0  # of the epoch so far


def restore(checkpoints: Checkpoints, state: State) -> tuple[State, Position]:
    """The newest checkpoint, laid out like `state`; or `state` at the start.

    Raises InputError if there are only damaged ones, or one of another version.
    """
    if (newest := checkpoints.restore(state)) is None:
        return state, Position()
    state, progress = newest
    try:
        history = [Epoch(**epoch) for epoch in progress["history"]]
        sums = Sums(*progress["sums"])
        return state, Position(progress["step"], history, sums, progress["seconds"])
    except (KeyError, TypeError) as error:
        reason = f"not the progress of a run: {error!r}"
        raise InputError(f"{checkpoints.directory}: {reason}") from None


def save(checkpoints: Checkpoints, state: State, position: Position) -> None:
    """Save a checkpoint. Raises Diverged for parameters that are not finite."""
    if not all(jax.device_get(_finite(state.params))):
        raise Diverged(f"parameters are not finite at step {position.step}", 1)
    progress: dict[str, Any] = asdict(position) | {
        "history": [epoch._asdict() for epoch in position.history],
        "sums": list(position.sums),
    }
    checkpoints.save(position.step, state, progress)


@jax.jit
def _finite(params: Params) -> list[jax.Array]:
    """Whether all values are finite, for every array."""
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
