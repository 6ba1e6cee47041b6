"""Model parallelism: one net's layers over the devices of a mesh, the same numbers.

AlexNet §3.2: two towers. Each of two devices has the same images and half of the
kernels and units, and so half of every layer's maps. A layer that sees the maps of both
gathers them (conv3, fc6, fc7), and the last adds the logits that the units of each
make, which moves fewer bytes than gathering the units. Nothing else is exchanged.

One weird trick: the devices of a group have their own images in the convolutions, whose
parameters are few, and their own units in the fully-connected layers, whose parameters
are nine tenths of all. They gather what the convolutions made of everyone's images,
then each hidden layer's units; each gets back the logits of its own images. (The
paper's scheme a, whose broadcasts are one collective here.)

What is gathered in the forward pass is scattered and summed in the backward pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.config import Compute
from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import DATA, MODEL, TOWER
from alexvgg_jax.models import Features, Model, Network, Params, row_key
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Layer,
    Shape,
    parameters,
)
from alexvgg_jax.models.operations import (
    add_bias_defined,
    computed_once,
    multiply,
)

Specs = dict[str, dict[str, P]]  # layer -> {"kernel", "bias"}


@runtime_checkable
class Apply(Protocol):
    """`Model.apply`, on whatever devices."""

    def __call__(
        self,
        params: Params,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch *output"], Features]: ...


def apply_on(net: Model, mesh: Mesh) -> Apply:
    """`net.apply`, its layers spread over the `tower` or `model` axis of `mesh`.

    Raises InputError for a net without towers, or without hidden fully-connected
    layers whose units divide.
    """
    if TOWER in mesh.axis_names:
        return _in_towers(net, mesh)
    if MODEL in mesh.axis_names:
        return _with_shared_classifier(net, mesh)
    return net.apply


def param_shardings(net: Model, mesh: Mesh) -> dict[str, dict[str, NamedSharding]]:
    """Where the parameters of `net` lie for `apply_on`. Raises what that raises."""
    params = net.param_shapes()
    specs = {layer: {part: P() for part in parts} for layer, parts in params.items()}
    if TOWER in mesh.axis_names:
        specs |= _specs(_tower(net), TOWER)
    if MODEL in mesh.axis_names:
        specs |= _specs(_share(net, mesh), MODEL)
    return jax.tree.map(partial(NamedSharding, mesh), specs)


def exchanged(net: Model, mesh: Mesh) -> dict[str, int]:
    """Which layers need something of all the devices of `tower` or `model`, and how
    many numbers of an image: the layer's input, or the last layer's sums."""
    if TOWER in mesh.axis_names:
        parts, first = _tower(net), 0
    elif MODEL in mesh.axis_names:
        parts, first = _share(net, mesh), _place_of_classifier(net)
    else:
        return {}
    shapes = {"": net.input_shape} | net.shapes()
    found = {}
    for place, part in enumerate(parts):
        seen = list(shapes.values())[first + place]
        of_all_images = MODEL in mesh.axis_names and place == 0
        if isinstance(part, Gathered) or of_all_images:
            found[part.name] = math.prod(seen)
        elif isinstance(part, Summed):
            found[part.name] = math.prod(shapes[part.name])
    return found


@dataclass(frozen=True)
class Gathered:
    """A layer that sees the maps or units of all devices of an axis."""

    row: Conv | Dense
    axis: str

    @property
    def name(self) -> str:
        return self.row.name

    def output(self, shape: Shape) -> Shape:
        return self.row.output(shape)

    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "batch ..."]:
        # On a leading axis, for TPUs scatter over no other: they would sum instead.
        gathered = jnp.moveaxis(lax.all_gather(x, self.axis), 0, -2)
        all_maps = gathered.reshape(*x.shape[:-1], -1)
        return self.row(all_maps, train=train, key=key)


@dataclass(frozen=True)
class Summed:
    """The last layer: what each device's units make of the logits, added up."""

    row: Dense
    total: Callable[[Array], Array]

    @property
    def name(self) -> str:
        return self.row.name

    def output(self, shape: Shape) -> Shape:
        return self.row.output(shape)

    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "..."]:
        x = x.reshape(len(x), -1)
        kernel_shape, bias_shape = (x.shape[1], self.row.features), (self.row.features,)
        kernel, bias = parameters(self.row, x, kernel_shape, bias_shape)
        x, kernel = computed_once(x, kernel)  # the bias is the same on all devices
        return add_bias_defined(self.total(multiply(x, kernel)), bias)


@dataclass(frozen=True)
class Masked:
    """Dropout by a mask that was drawn before: zeros, and what the others are times."""

    name: str
    factors: Float[Array, "batch ..."]

    def output(self, shape: Shape) -> Shape:
        return shape

    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "batch ..."]:
        return x * self.factors.astype(x.dtype)


Masks = dict[str, Array]  # dropout layer -> factors


def _draw_masks(
    net: Model, first: int, mesh: Mesh, axis: str, batch: int, key: PRNGKeyArray
) -> Masks:
    """The masks of the net on one device, from its row `first` on; each device draws
    its part of them."""
    masks = {}
    for place, row in enumerate(net.rows):
        if isinstance(row, Dropout) and place >= first:
            shape = net.shapes()[row.name]
            factors = row(
                jnp.ones((batch, *shape)), train=True, key=row_key(key, place)
            )
            sharding = NamedSharding(mesh, _of_maps(shape, axis))
            masks[row.name] = lax.with_sharding_constraint(factors, sharding)
    return masks


def _of_maps(shape: Shape, axis: str) -> P:
    """A batch of activations: images over `data`, maps or units over `axis`."""
    return P(DATA, *[None] * (len(shape) - 1), axis)


def _masked(rows: tuple[Layer, ...], masks: Masks) -> tuple[Layer, ...]:
    return tuple(
        Masked(row.name, masks[row.name]) if row.name in masks else row for row in rows
    )


def _parts(
    rows: tuple[Layer, ...], axis: str, devices: int, total: Callable[[Array], Array]
) -> tuple[Layer, ...]:
    """What each device of an axis computes of `rows`, the input being whole."""
    parts: list[Layer] = []
    *hidden, last = rows
    for row in hidden:
        if isinstance(row, Conv | Dense):
            if row.features % devices:
                raise InputError(
                    f"{row.name}: {row.features} units do not divide over {devices} "
                    "devices"
                )
            own = replace(row, features=row.features // devices, groups=1)
            sees_all = row.groups == 1 and len(parts) > 0
            parts.append(Gathered(own, axis) if sees_all else own)
        elif isinstance(row, LRN) and row.over == "maps":
            parts.append(replace(row, groups=row.groups // devices))
        else:
            parts.append(row)
    return (*parts, Summed(cast(Dense, last), total))


def _specs(parts: tuple[Layer, ...], axis: str) -> Specs:
    """Kernels and biases split by their last axis, the maps; the last layer's kernel by
    the units that it sees."""
    found: Specs = {}
    for part in parts:
        row = part.row if isinstance(part, Gathered) else part
        if isinstance(part, Summed):
            found[part.name] = {"kernel": P(axis, None), "bias": P()}
        elif isinstance(row, Conv):
            found[row.name] = {"kernel": P(None, None, None, axis), "bias": P(axis)}
        elif isinstance(row, Dense):
            found[row.name] = {"kernel": P(None, axis), "bias": P(axis)}
    return found


def _tower(net: Model) -> tuple[Layer, ...]:
    groups = [row.groups for row in net.rows if isinstance(row, Conv | Dense)]
    if 2 not in groups:
        raise InputError(f"--mesh.towers: {net.name} has one tower, no groups")
    for row in net.rows:
        if isinstance(row, LRN) and row.over == "maps" and row.groups != 2:
            raise InputError(f"--mesh.towers: {row.name} crosses from tower to tower")
    return _parts(net.rows, TOWER, 2, partial(lax.psum, axis_name=TOWER))


def _in_towers(net: Model, mesh: Mesh) -> Apply:
    tower, shapes = _tower(net), net.shapes()
    specs = _specs(tower, TOWER)
    features = {row.name: _of_maps(shapes[row.name], TOWER) for row in net.rows}
    features[net.rows[-1].name] = P(DATA)

    def apply(params, images, *, train, key=None):
        masks = {}
        if train and key is not None:
            masks = _draw_masks(net, 0, mesh, TOWER, len(images), key)

        def compute(params, images, masks):
            own = replace(net, rows=_masked(tower, masks))
            params = _of_own_images(params, specs, net.compute)
            return own.apply(params, images, train=train)

        return jax.shard_map(
            compute,
            mesh=mesh,
            in_specs=(
                specs,
                P(DATA),
                {name: features[name] for name in masks},
            ),
            out_specs=(P(DATA), features),
        )(params, images, masks)

    return apply


def _of_own_images(params: Params, specs: Specs, compute: Compute) -> Params:
    """The same parameters as the net computes with them, whose gradients are those of a
    device's images: the backward pass sums them over `data` here. (Those of the last
    bias where it is added.)"""
    own = {}
    for layer, parts in params.items():
        with jax.named_scope(layer):  # by which the ledger knows whose sum it is
            own[layer] = {
                part: leaf
                if specs[layer][part] == P()
                else lax.pcast(leaf.astype(compute), DATA, to="varying")
                for part, leaf in parts.items()
            }
    return own


def _place_of_classifier(net: Model) -> int:
    """Which row is the first of the fully-connected layers."""
    names = [row.name for row in net.rows if isinstance(row, Dense)]
    if len(names) < 2 or not isinstance(net.rows[-1], Dense):
        raise InputError(
            f"--mesh.classifier: {net.name} has no hidden fully-connected layer"
        )
    if any(row.groups > 1 for row in net.rows if isinstance(row, Dense)):
        raise InputError(f"--mesh.classifier: {net.name}'s has two towers")
    return [row.name for row in net.rows].index(names[0])


def _share(net: Model, mesh: Mesh) -> tuple[Layer, ...]:
    """What each device of a group computes of the fully-connected layers."""
    devices = mesh.shape[MODEL]

    def own_images(logits: Array) -> Array:
        return lax.psum_scatter(logits.reshape(devices, -1, logits.shape[1]), MODEL)

    rows = net.rows[_place_of_classifier(net) :]
    return _parts(rows, MODEL, devices, own_images)


def _with_shared_classifier(net: Model, mesh: Mesh) -> Apply:
    first, share = _place_of_classifier(net), _share(net, mesh)
    seen, last = net.rows[first - 1].name, net.rows[-1].name
    specs = _specs(share, MODEL)
    features = {row.name: P(DATA, MODEL) for row in share}
    features[last] = P((DATA, MODEL))

    def apply(params, images, *, train, key=None):
        masks = {}
        if train and key is not None:
            masks = _draw_masks(net, first, mesh, MODEL, len(images), key)

        def compute(params, x, masks):
            with jax.named_scope(share[0].name):
                x = lax.all_gather(x, MODEL).reshape(-1, *x.shape[1:])
            network = Network(_masked(share, masks), first)
            own = _of_own_images(params, specs, net.compute)
            return network.apply({"params": own}, x, train=train, key=None)

        _, found = net.apply(params, images, train=train, key=key, until=seen)
        logits, found_here = jax.shard_map(
            compute,
            mesh=mesh,
            in_specs=(
                specs,
                P((DATA, MODEL)),
                {name: features[name] for name in masks},
            ),
            out_specs=(features[last], features),
        )({layer: params[layer] for layer in specs}, found[seen], masks)
        return logits.astype(images.dtype), found | cast(Features, found_here)

    return apply
