"""What a training step needs of a device's memory, from the compiler's own analysis."""

import dataclasses
import functools
from typing import NamedTuple

import jax
from rich import box
from rich.table import Table

from alexvgg_jax.config import Augment, Mesh, Optim
from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import make_mesh
from alexvgg_jax.models import Model
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.step import (
    abstract_arguments,
    compile_steps,
    compiler_options,
    gradients,
)

MEBIBYTE = 2**20


class Memory(NamedTuple):
    """Bytes of one training step on one device."""

    parameters: int
    optimizer: int  # the velocity
    images: int  # of the batch, uint8
    gradients: int
    activations: int  # and whatever else the gradients' computation keeps for a while
    total: int  # of the whole step, where gradients take the places of activations


def of_training(net: Model, batch: int) -> Memory:
    """Compile the training step of `net`, and read the compiler's analysis of it.

    Its two halves cannot be told apart in the step, whose gradients take places that
    activations leave. So the activations are those of a program that ends with the
    gradients. Raises InputError for a batch without images, and on a platform whose
    compiler does not tell.
    """
    if batch < 1:
        raise InputError(f"--batch {batch}: at least 1")
    mesh = make_mesh(Mesh(devices=1))
    optimizer, config = original_sgd(Optim()), Augment()
    arguments = abstract_arguments(net, optimizer, batch, net.image_size)
    state, rows, stats, _, key = arguments
    half = jax.jit(
        functools.partial(gradients, apply=net.apply, config=config),
        compiler_options=compiler_options(),
    ).lower(state.params, rows, stats, key)
    step = compile_steps(net, optimizer, config, mesh).train.lower(*arguments)
    parameters, velocity = _bytes(state.params), _bytes(state.opt)
    images = _bytes(rows.images)
    return Memory(
        parameters=parameters,
        optimizer=velocity,
        images=images,
        gradients=parameters,
        activations=_temporaries(half),
        total=parameters + velocity + images + _temporaries(step),
    )


def _temporaries(program: jax.stages.Lowered) -> int:
    analysis = program.compile().memory_analysis()
    if analysis is None:
        raise InputError("--train: the compiler of this platform has no such analysis")
    return analysis.temp_size_in_bytes


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(net: Model, batch: int) -> Table:
    """The memory of training a net, and the same net with `remat`, in MiB."""
    columns = [
        of_training(dataclasses.replace(net, remat=remat), batch)
        for remat in (False, True)
    ]
    height, width, maps = net.input_shape
    title = f"{net.name}, a training step on {batch} images of {height}x{width}x{maps}"
    drawn = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    drawn.add_column("MiB on one device")
    for heading in ("kept activations", "computed again (remat)"):
        drawn.add_column(heading, justify="right")
    for label in Memory._fields:
        cells = (f"{getattr(memory, label) / MEBIBYTE:,.1f}" for memory in columns)
        drawn.add_row(label, *cells, end_section=label == "activations")
    drawn.caption = "total: gradients take the places of activations as these leave"
    return drawn
