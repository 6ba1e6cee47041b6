"""The device mesh, and which device holds which part of a step's arrays."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexvgg_jax import config
from alexvgg_jax.errors import InputError
from alexvgg_jax.models.parallel import DATA, MODEL, TOWER

Shardings = dict[str, dict[str, NamedSharding]]  # layer -> {"kernel", "bias"}


def all_devices() -> list[Any]:
    """The devices of all hosts. Raises InputError if jax has none."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError is empty
        reason = str(error) or f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')}"
        raise InputError(f"jax finds no devices: {reason.splitlines()[0]}") from None


def make_mesh(options: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axis `data`, and `tower` or `model` if the net is split.

    It takes the first of all hosts' devices, or of `devices`. Raises InputError if
    there are too few, or if they do not divide.
    """
    available = all_devices() if devices is None else list(devices)
    if options.devices > len(available):
        raise InputError(
            f"--mesh.devices {options.devices}: there are {len(available)}"
        )
    used = available[: options.devices or len(available)]
    if options.towers and options.classifier > 1:
        raise InputError("--mesh.towers and --mesh.classifier: one or the other")
    group = 2 if options.towers else options.classifier
    if len(used) % group:
        flag = "towers" if options.towers else f"classifier {group}"
        raise InputError(
            f"--mesh.{flag}: {len(used)} devices do not divide into groups of {group}"
        )
    if devices is None:
        _check_hosts(used)
    axes = {DATA: len(used) // group}
    if group > 1:
        axes[TOWER if options.towers else MODEL] = group
    # Auto: a model-sharded Linen convolution raises on an Explicit mesh.
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=used,
    )


def _check_hosts(devices: Sequence[Any]) -> None:
    hosts = range(jax.process_count())
    counts = [sum(d.process_index == host for d in devices) for host in hosts]
    if len(set(counts)) > 1:
        raise InputError(
            f"--mesh.devices: every host needs the same number of devices; "
            f"{len(devices)} devices are {', '.join(map(str, counts))} of the hosts'"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds completely."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its images are split over all devices, except that two
    towers share theirs."""
    return NamedSharding(mesh, P(_batch_axes(mesh)))


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in mesh.axis_names if axis != TOWER)


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises InputError, which suggests other sizes, if the devices cannot share a
    batch, or each of the `accumulate` parts of it."""
    devices = math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))
    least = devices * accumulate
    if batch < 1 or batch % least:
        below = max(batch // least, 1) * least
        over = f"{devices} devices" + f", {accumulate} times" * (accumulate > 1)
        raise InputError(
            f"--batch {batch} does not divide over {over}; "
            f"{below} and {below + least} do"
        )


def rows_of_host(batch: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this host's devices hold, in order."""
    indices = over_data(mesh).addressable_devices_indices_map((batch,)).values()
    spans = {index[0].indices(batch) for index in indices if index is not None}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def everywhere(tree, mesh: Mesh):
    """A tree of arrays that all hosts have alike, copied to every device."""
    return _from_hosts(jax.tree.map(np.asarray, tree), replicated(mesh))


def place(batch, mesh: Mesh):
    """A tree of arrays, this host's rows of a global batch in the order of
    `rows_of_host`, sharded over the devices."""
    return _from_hosts(batch, over_data(mesh))


def _from_hosts(tree, sharding: NamedSharding):
    with jax.transfer_guard("allow"):  # deliberate; training forbids accidental ones
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree
        )


def like(array: np.ndarray | jax.Array, other: jax.Array) -> jax.Array:
    """An array that all hosts have alike, laid out as `other` is."""
    values = np.asarray(array)
    return jax.make_array_from_callback(
        other.shape, other.sharding, lambda part: values[part]
    )


def optimizer_shardings(opt: Any, params: Shardings, mesh: Mesh) -> Any:
    """A sharding for every array of the optimizer's state `opt`: those of `params`
    where it has an array for each parameter, and replicated elsewhere."""
    structure = jax.tree.structure(params)

    def mirrors_params(tree: object) -> bool:
        return jax.tree.structure(tree) == structure

    return jax.tree.map(
        lambda tree: params if mirrors_params(tree) else replicated(mesh),
        opt,
        is_leaf=mirrors_params,
    )


def split_optimizer(
    optimizer: optax.GradientTransformationExtraArgs, shapes: Any, layout: Shardings
) -> tuple[optax.GradientTransformationExtraArgs, Shardings]:
    """ZeRO-1: an optimizer whose devices each update a part of the parameters and then
    gather the rest, and the shardings of its state.

    `shapes` and `layout` are the shapes and shardings of the parameters. Raises
    InputError if most of the weights do not divide over devices.
    """
    split = jax.tree.map(_split_further, shapes, layout)
    _check_split(shapes, layout, split)
    constrain = lax.with_sharding_constraint

    def update(updates, state, params=None, **extra):
        # Sum the gradients for all devices first. Otherwise the split would spread into
        # the products of the backward pass, which would gather activations.
        updates, params = constrain(
            (constrain(updates, layout), params), (split, split)
        )
        updates, state = optimizer.update(updates, state, params, **extra)
        return constrain(updates, layout), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update), split


def _split_further(
    leaf: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> NamedSharding:
    """`sharding` with its largest divisible axis split over the devices that hold the
    same part."""
    mesh, spec = sharding.mesh, [_axis_names(axis) for axis in sharding.spec]
    spec += [()] * (leaf.ndim - len(spec))
    free = tuple(name for name in mesh.axis_names if name not in sum(spec, ()))
    devices = math.prod(mesh.shape[name] for name in free)
    own = sharding.shard_shape(leaf.shape)
    divisible = [axis for axis, n in enumerate(own) if n % devices == 0]
    if devices == 1 or not divisible:
        return sharding
    spec[max(divisible, key=own.__getitem__)] += free
    return NamedSharding(mesh, P(*spec))


def _axis_names(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (axis,) if isinstance(axis, str) else axis or ()


def _check_split(shapes: Any, params: Shardings, split: Shardings) -> None:
    """InputError if at most half of the weights are split."""
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: a != b, params, split))
    count = sum(n for n, is_split in zip(sizes, changed, strict=True) if is_split)
    if count <= sum(sizes) / 2:
        raise InputError(
            f"--mesh.zero: only {count:,} of {sum(sizes):,} weights divide over "
            "devices that hold the same ones: leave it out"
        )
