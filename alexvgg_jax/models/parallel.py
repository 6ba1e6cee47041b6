"""Model parallelism: the layers of one net on several devices, with the same numbers.

AlexNet §3.2: two towers. Each of two devices has the same images, half of the kernels
and units, and therefore half of every layer's maps. A layer that sees the maps of both
gathers them first (conv3, fc6, fc7). For the last layer each device multiplies its own
units, and the logits are added, which moves fewer bytes than gathering the units. There
is no other exchange.

One weird trick: the devices of a group have their own images in the convolutions, which
have few parameters, and their own units in the fully-connected layers, which have nine
tenths of all parameters. They gather the convolutions' output for the images of all,
then the units of each hidden layer. Each gets back the logits of its own images. (This
is the paper's scheme a, with one collective in place of its broadcasts.)

The backward pass scatters and sums what the forward pass gathers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Layer,
    LayerParams,
    Shape,
    cast_params,
)
from alexvgg_jax.models.net import (
    Features,
    Net,
    Params,
    compute_dtype,
    layer_key,
    run_layers,
)
from alexvgg_jax.models.operations import add_bias_defined, computed_once, multiply

# Mesh axes.
DATA = "data"  # each device has its own images
TOWER = "tower"  # two devices have the same images, and one tower of AlexNet each
MODEL = "model"  # each device has its own images and its own fully-connected units

Specs = dict[str, dict[str, P]]  # layer -> {"kernel", "bias"}


@runtime_checkable
class Apply(Protocol):
    """`Net.apply` on any devices."""

    def __call__(
        self,
        params: Params,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch *output"], Features]: ...


def apply_on(net: Net, mesh: Mesh) -> Apply:
    """`net.apply` with its layers spread over the `tower` or `model` axis of `mesh`.

    Raises InputError for a net without towers, or without hidden fully-connected layers
    whose units divide.
    """
    if TOWER in mesh.axis_names:
        return _in_towers(net, mesh)
    if MODEL in mesh.axis_names:
        return _with_shared_classifier(net, mesh)
    return net.apply


def param_shardings(net: Net, mesh: Mesh) -> dict[str, dict[str, NamedSharding]]:
    """How the parameters of `net` lie for `apply_on`. Raises what that raises."""
    params = net.param_shapes()
    specs = {layer: {part: P() for part in parts} for layer, parts in params.items()}
    if TOWER in mesh.axis_names:
        specs |= _specs(_tower(net), TOWER)
    if MODEL in mesh.axis_names:
        specs |= _specs(_classifier(net, mesh), MODEL)
    return jax.tree.map(partial(NamedSharding, mesh), specs)


def exchanged(net: Net, mesh: Mesh) -> dict[str, int]:
    """Layer -> numbers per image that the devices of `tower` or `model` exchange: the
    layer's input, or the sums of the last layer."""
    if TOWER in mesh.axis_names:
        parts, first = _tower(net), 0
    elif MODEL in mesh.axis_names:
        parts, first = _classifier(net, mesh), _classifier_start(net)
    else:
        return {}
    shapes = net.shapes()
    inputs = [net.input_shape, *shapes.values()][first:]
    numbers = {}
    for position, (part, shape) in enumerate(zip(parts, inputs, strict=False)):
        all_images = MODEL in mesh.axis_names and position == 0
        if isinstance(part, Gathered) or all_images:
            numbers[part.name] = math.prod(shape)
        elif isinstance(part, Summed):
            numbers[part.name] = math.prod(shapes[part.name])
    return numbers


@dataclass(frozen=True)
class Gathered(Layer):
    """A layer that sees the maps or units of all devices of an axis."""

    layer: Conv | Dense
    axis: str

    def param_specs(self, axis: str) -> dict[str, P]:
        return self.layer.param_specs(axis)

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        # A leading axis: along any other, TPUs would sum instead of scatter.
        gathered = jnp.moveaxis(lax.all_gather(x, self.axis), 0, -2)
        return self.layer.forward(params, gathered.reshape(*x.shape[:-1], -1))


@dataclass(frozen=True)
class Summed(Layer):
    """The last layer: `total` adds the logits from the units of each device."""

    total: Callable[[Array], Array]

    def param_specs(self, axis: str) -> dict[str, P]:
        return {"kernel": P(axis, None), "bias": P()}

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "..."]:
        x = x.reshape(len(x), -1)
        kernel, bias = cast_params(params, x)
        x, kernel = computed_once(x, kernel)  # the bias is the same on all devices
        return add_bias_defined(self.total(multiply(x, kernel)), bias)


@dataclass(frozen=True)
class Masked(Layer):
    """Dropout by a mask that was drawn before: a factor for each unit."""

    factors: Float[Array, "batch ..."]

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        return x * self.factors.astype(x.dtype)


Masks = dict[str, Array]  # dropout layer -> factors


def _draw_masks(
    net: Net, first: int, mesh: Mesh, axis: str, batch: int, key: PRNGKeyArray
) -> Masks:
    """The masks that the net draws on one device, from its layer `first` on. Each
    device draws its part of them."""
    masks, shapes = {}, net.shapes()
    for position, layer in enumerate(net.layers()):
        if isinstance(layer, Dropout) and position >= first:
            shape = shapes[layer.name]
            units = jnp.ones((batch, *shape))
            factors = layer({}, units, train=True, key=layer_key(key, position))
            sharding = NamedSharding(mesh, _split_maps(shape, axis))
            masks[layer.name] = lax.with_sharding_constraint(factors, sharding)
    return masks


def _split_maps(shape: Shape, axis: str) -> P:
    """A batch of activations: images over `data`, maps or units over `axis`."""
    return P(DATA, *[None] * (len(shape) - 1), axis)


def _masked(layers: tuple[Layer, ...], masks: Masks) -> tuple[Layer, ...]:
    return tuple(
        Masked(layer.name, masks[layer.name]) if layer.name in masks else layer
        for layer in layers
    )


def _parts(
    layers: tuple[Layer, ...], axis: str, devices: int, total: Callable[[Array], Array]
) -> tuple[Layer, ...]:
    """The part of `layers` that each device of an axis computes. All devices have the
    whole input of the first layer."""
    parts: list[Layer] = []
    *hidden, last = layers
    for layer in hidden:
        part = layer.share(devices)
        sees_all_maps = isinstance(layer, Conv | Dense) and layer.groups == 1
        if sees_all_maps and parts:
            part = Gathered(layer.name, cast(Conv | Dense, part), axis)
        parts.append(part)
    return (*parts, Summed(last.name, total))


def _specs(parts: tuple[Layer, ...], axis: str) -> Specs:
    specs = {part.name: part.param_specs(axis) for part in parts}
    return {name: spec for name, spec in specs.items() if spec}


def _tower(net: Net) -> tuple[Layer, ...]:
    layers = net.layers()
    kind = type(net).__name__
    if net.tower_count != 2:
        raise InputError(f"--mesh.towers: this {kind} has one tower, no groups")
    for layer in layers:
        if isinstance(layer, LRN) and layer.over == "maps" and layer.groups != 2:
            raise InputError(f"--mesh.towers: {layer.name} crosses from tower to tower")
    return _parts(layers, TOWER, 2, partial(lax.psum, axis_name=TOWER))


def _in_towers(net: Net, mesh: Mesh) -> Apply:
    tower, shapes = _tower(net), net.shapes()
    specs = _specs(tower, TOWER)
    features = {name: _split_maps(shape, TOWER) for name, shape in shapes.items()}
    features[tower[-1].name] = P(DATA)

    def apply(params, images, *, train, key=None):
        masks = {}
        if train and key is not None:
            masks = _draw_masks(net, 0, mesh, TOWER, len(images), key)

        def compute(params, images, masks):
            dtype = compute_dtype(images, net.compute)
            logits, outputs = run_layers(
                _masked(tower, masks),
                _own_gradients(params, specs, dtype),
                images.astype(dtype),
                train=train,
                key=None,
                remat=net.remat,
            )
            return logits.astype(images.dtype), outputs

        return jax.shard_map(
            compute,
            mesh=mesh,
            in_specs=(specs, P(DATA), {name: features[name] for name in masks}),
            out_specs=(P(DATA), features),
        )(params, images, masks)

    return apply


def _own_gradients(params: Params, specs: Specs, dtype: DTypeLike) -> Params:
    """The parameters in the dtype of the net's products. Their gradients are those of
    a device's images, and the backward pass sums them over `data` here. (The gradients
    of the last bias are summed where it is added.)"""
    own = {}
    for layer, parts in params.items():
        with jax.named_scope(layer):  # so that the ledger can name the sum's layer
            own[layer] = {
                part: leaf
                if specs[layer][part] == P()
                else lax.pcast(leaf.astype(dtype), DATA, to="varying")
                for part, leaf in parts.items()
            }
    return own


def _classifier_start(net: Net) -> int:
    """The position of the first fully-connected layer."""
    layers, kind = net.layers(), type(net).__name__
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    if len(dense) < 2 or not isinstance(layers[-1], Dense):
        raise InputError(f"--mesh.classifier: {kind} has no hidden units")
    if any(layer.groups > 1 for layer in dense):
        raise InputError(f"--mesh.classifier: this {kind} has two towers there")
    return layers.index(dense[0])


def _classifier(net: Net, mesh: Mesh) -> tuple[Layer, ...]:
    """The part of the fully-connected layers that each device of a group computes."""
    devices = mesh.shape[MODEL]

    def logits_of_own_images(logits: Array) -> Array:
        return lax.psum_scatter(logits.reshape(devices, -1, logits.shape[1]), MODEL)

    layers = net.layers()[_classifier_start(net) :]
    return _parts(layers, MODEL, devices, logits_of_own_images)


def _with_shared_classifier(net: Net, mesh: Mesh) -> Apply:
    first, classifier = _classifier_start(net), _classifier(net, mesh)
    layers = net.layers()
    last_convolution, last = layers[first - 1].name, layers[-1].name
    specs = _specs(classifier, MODEL)
    features = {layer.name: P(DATA, MODEL) for layer in classifier}
    features[last] = P((DATA, MODEL))

    def apply(params, images, *, train, key=None):
        masks = {}
        if train and key is not None:
            masks = _draw_masks(net, first, mesh, MODEL, len(images), key)

        def compute(params, x, masks):
            with jax.named_scope(classifier[0].name):
                x = lax.all_gather(x, MODEL).reshape(-1, *x.shape[1:])
            own = _own_gradients(params, specs, compute_dtype(images, net.compute))
            return run_layers(
                _masked(classifier, masks), own, x, train=train, key=None, first=first
            )

        _, convolved = net.apply(
            params, images, train=train, key=key, until=last_convolution
        )
        logits, outputs = jax.shard_map(
            compute,
            mesh=mesh,
            in_specs=(
                specs,
                P((DATA, MODEL)),
                {name: features[name] for name in masks},
            ),
            out_specs=(features[last], features),
        )({layer: params[layer] for layer in specs}, convolved[last_convolution], masks)
        return logits.astype(images.dtype), convolved | outputs

    return apply
