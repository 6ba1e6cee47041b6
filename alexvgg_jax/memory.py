"""What a training step needs of a device's memory, from the compiler's own analysis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich import box
from rich.table import Table

from alexvgg_jax.augment import Statistics
from alexvgg_jax.config import Augment, Optim
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import make_mesh
from alexvgg_jax.models import Model
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.step import compile_steps, init_state

MEBIBYTE = 2**20


class Memory(NamedTuple):
    """Bytes of one training step on one device."""

    parameters: int
    optimizer: int  # the velocity
    images: int  # of the batch, uint8
    temporary: int  # activations and gradients, as the compiler shares their places

    @property
    def total(self) -> int:
        return sum(self)


def of_training(net: Model, batch: int) -> Memory:
    """Compile the training step of `net`, and read the compiler's analysis of it.

    Raises InputError for a batch without images.
    """
    if batch < 1:
        raise InputError(f"--batch {batch}: at least 1")
    optimizer = original_sgd(Optim())

    def arguments():
        images = jnp.zeros((batch, *net.input_shape), jnp.uint8)
        rows = Batch(images, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))
        stats = Statistics(jnp.zeros(net.input_shape), jnp.zeros((3, 3)))
        key = jax.random.key(0)
        return init_state(key, net, optimizer), rows, stats, jnp.zeros(()), key

    given = jax.eval_shape(arguments)
    steps = compile_steps(net, optimizer, Augment(), make_mesh(1))
    compiled = steps.train.lower(*given).compile()
    state, rows, *_ = given
    return Memory(
        parameters=_bytes(state.params),
        optimizer=_bytes(state.opt),
        images=_bytes(rows.images),
        temporary=compiled.memory_analysis().temp_size_in_bytes,
    )


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(plain: Model, remat: Model, batch: int) -> Table:
    """The memory of training a net, and the same net with `remat`, in MiB."""
    columns = [of_training(net, batch) for net in (plain, remat)]
    height, width, maps = plain.input_shape
    title = (
        f"{plain.name}, a training step on {batch} images of {height}x{width}x{maps}"
    )
    drawn = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    drawn.add_column("MiB on one device")
    for heading in ("kept activations", "computed again (remat)"):
        drawn.add_column(heading, justify="right")
    for label, field in (
        ("parameters", "parameters"),
        ("optimizer", "optimizer"),
        ("images", "images"),
        ("activations and gradients", "temporary"),
        ("total", "total"),
    ):
        cells = (f"{getattr(memory, field) / MEBIBYTE:,.1f}" for memory in columns)
        drawn.add_row(label, *cells, end_section=label == "activations and gradients")
    return drawn
