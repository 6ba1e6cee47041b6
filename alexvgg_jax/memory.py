"""The memory of a training step on one device, as the compiler reports it."""

import functools
from dataclasses import replace
from typing import NamedTuple

import jax
from rich import box
from rich.table import Table

from alexvgg_jax.config import Augment, Mesh, Optim
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.sharding import make_mesh
from alexvgg_jax.step import (
    abstract_arguments,
    compile_steps,
    compiler_options,
    gradients,
)


class Memory(NamedTuple):
    """Bytes of one training step on one device."""

    parameters: int
    optimizer: int  # the velocity
    images: int  # of the batch, uint8
    gradients: int
    activations: int  # and other temporary arrays of the gradients
    total: int  # of the step, where gradients reuse the memory of activations


def of_training(net: Net, batch: int) -> Memory:
    """The memory of training `net`, from the compiler's analysis of the step.

    In the step, gradients reuse the memory of activations. So the activations are
    measured in a program that ends with the gradients. Raises InputError for a batch
    without images, and if the platform's compiler has no analysis.
    """
    if batch < 1:
        raise InputError(f"--batch {batch}: at least 1")
    mesh = make_mesh(Mesh(devices=1))
    optimizer, augment = original_sgd(Optim()), Augment()
    arguments = abstract_arguments(net, optimizer, batch, net.image_size)
    state, batches, stats, _, key = arguments
    backward = jax.jit(
        functools.partial(gradients, apply=net.apply, augmentation=augment),
        compiler_options=compiler_options(),
    ).lower(state.params, batches, stats, key)
    step = compile_steps(net, optimizer, augment, mesh).train.lower(*arguments)
    params, velocity = _bytes(state.params), _bytes(state.opt)
    images = _bytes(batches.images)
    total = params + velocity + images + _temporaries(step)
    return Memory(params, velocity, images, params, _temporaries(backward), total)


def _temporaries(program: jax.stages.Lowered) -> int:
    analysis = program.compile().memory_analysis()
    if analysis is None:
        raise InputError("--train: the compiler of this platform has no such analysis")
    return analysis.temp_size_in_bytes


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(name: str, net: Net, batch: int) -> Table:
    """The memory of training a net, and the same net with `remat`, in MiB."""
    memories = [of_training(replace(net, remat=r), batch) for r in (False, True)]
    height, width, maps = net.input_shape
    title = f"{name}, a training step on {batch} images of {height}x{width}x{maps}"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("MiB on one device")
    table.add_column("kept activations", justify="right")
    table.add_column("computed again (remat)", justify="right")
    for label in Memory._fields:
        cells = (f"{getattr(memory, label) / 2**20:,.1f}" for memory in memories)
        table.add_row(label, *cells, end_section=label == "activations")
    table.caption = "total: gradients reuse the memory of activations"
    return table
