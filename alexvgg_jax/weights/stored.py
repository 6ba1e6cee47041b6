"""What a file of weights holds, and how it becomes a net's parameters."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, Net, Params
from alexvgg_jax.models.layers import Conv, Dense, Layer, Shape, SlidingDense
from alexvgg_jax.weights.provenance import Convention, Provenance

Keys = dict[str, tuple[str, str]]  # layer -> keys of its kernel and of its bias


@dataclass(frozen=True)
class Stored:
    """A file's arrays by their own names and in their own layout.

    With `maps_first`, kernels are (outputs, inputs, height, width), matrices are
    (outputs, inputs), and maps are flattened as (maps, height, width). Without it, the
    layout is ours: HWIO, (inputs, outputs), and (height, width, maps).
    """

    path: Path
    arrays: dict[str, np.ndarray]
    keys: Callable[[Net], Keys]
    maps_first: bool
    head: tuple[str, ...]  # how names of arrays of fully-connected layers start
    convention: Convention | None  # None: the file does not tell
    provenance: Provenance
    published: Mapping[str, str]  # model -> accuracy of published weights
    net: Net | None = None  # if the file tells
    # What the file's net computes otherwise, as phrases.
    differences: Callable[[Net], list[str]] = lambda _: []
    # The shapes of the arrays that normalise the output of each layer, by their names,
    # and all arrays with these folded into the layers' own.
    norms: Callable[[Net], dict[str, dict[str, Shape]]] = lambda _: {}
    folded: Mapping[str, np.ndarray] | None = None


# Switches that leave the weights' meaning as it is.
OTHER = ("classes", "remat", "compute", "dropout", "inverted_dropout", "weight_init")


def model_of(net: Net) -> str | None:
    """The model whose trained weights have a meaning in `net`, for any classes."""
    for name, model in MODELS.items():
        same = {s: getattr(model, s) for s in OTHER if hasattr(model, s)}
        if type(model) is type(net) and replace(net, **same) == model:
            return name
    return None


def dense_layers(net: Net) -> list[str]:
    """The names of the fully-connected layers."""
    return [x.name for x in net.layers() if isinstance(x, Dense | SlidingDense)]


def to_params(
    stored: Stored, net: Net, convention: Convention, key: PRNGKeyArray | None
) -> Params:
    """The parameters of `net`. With `key`, its last layer is drawn.

    A file without fully-connected layers gives only the convolutions, and with `key`
    the other layers are drawn. Raises InputError, which lists all missing, surplus and
    misshapen arrays.
    """
    keys = stored.keys(net)
    left_out = headless(stored, net)
    if key is not None:
        left_out = left_out or list(keys)[-1:]
    if problems := problems_of(stored, net, left_out):
        kind = type(net).__name__
        raise InputError(
            f"{stored.path}: not weights of this {kind}: {'; '.join(problems)}"
        )
    arrays = stored.arrays if stored.folded is None else stored.folded
    first, params = net.layers()[0].name, {}
    for layer, shape in with_inputs(net):
        if layer.name not in keys or layer.name in left_out:
            continue
        kernel, bias = (arrays[name] for name in keys[layer.name])
        if stored.maps_first:
            kernel = to_maps_last(kernel, layer, shape)
        if layer.name == first:
            kernel = convention.fold(kernel)
        params[layer.name] = {
            "kernel": _float32(kernel),
            "bias": _float32(bias.reshape(layer.param_shapes(shape)["bias"])),
        }
    if key is not None:
        draw = jax.jit(lambda key: {name: net.init(key)[name] for name in left_out})
        params |= draw(key)
    return params


def _float32(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.astype(np.float32))


def with_inputs(net: Net) -> Iterable[tuple[Layer, Shape]]:
    """Every layer with the shape of its input."""
    shape = net.input_shape
    for layer in net.layers():
        yield layer, shape
        shape = layer.output(shape)


def headless(stored: Stored, net: Net) -> list[str]:
    """The net's fully-connected layers, if the file has none."""
    has = any(name.startswith(stored.head) for name in stored.arrays)
    return [] if has else dense_layers(net)


def problems_of(stored: Stored, net: Net, left_out: list[str]) -> list[str]:
    """What is missing, surplus, misshapen or in another order, as phrases.

    The layers in `left_out` are not looked for. If they are all fully-connected layers
    of the net, then those of the file are not surplus.
    """
    keys, norms, expected = stored.keys(net), stored.norms(net), {}
    for layer, shape in with_inputs(net):
        if layer.name in keys and layer.name not in left_out:
            shapes = layer.param_shapes(shape)
            kernel, bias = keys[layer.name]
            expected[kernel] = _stored_shape(shapes["kernel"], layer, stored.maps_first)
            expected[bias] = shapes["bias"]
            expected |= norms.get(layer.name, {})
    surplus = stored.arrays.keys() - expected.keys()
    surplus -= {name for layer in left_out for name in keys[layer]}
    if left_out == dense_layers(net):
        surplus = {name for name in surplus if not name.startswith(stored.head)}
    missing = [name for name in expected if name not in stored.arrays]
    phrases = [f"missing {', '.join(missing)}"] if missing else []
    phrases += [f"surplus {', '.join(sorted(surplus))}"] if surplus else []
    for name in expected:
        if name not in stored.arrays:
            continue
        array, shape = stored.arrays[name], expected[name]
        if _squeezed(array.shape, shape) != shape:
            phrases.append(f"{name} has shape {array.shape}, not {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            phrases.append(f"{name} has the type {array.dtype}")
        elif not_finite({name: array}):
            phrases.append(f"NaN or infinity in {name}")
    return phrases + stored.differences(net)


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of arrays of floats with values that are not finite in float32."""
    floats = {k: a for k, a in arrays.items() if jnp.issubdtype(a.dtype, jnp.floating)}
    return [name for name, array in floats.items() if not _finite(array)]


def _finite(array: np.ndarray) -> bool:
    parts = np.array_split(array.reshape(-1), 1 + array.size // 2**24)  # less memory
    with np.errstate(over="ignore"):
        return all(np.isfinite(part.astype(np.float32)).all() for part in parts)


def _squeezed(shape: Shape, expected: Shape) -> Shape:
    """The shape as a matrix or vector if one is expected: Caffe stores leading ones,
    and convolutions over the whole image are fully-connected layers."""
    while len(shape) > len(expected) and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 4 and len(expected) == 2:
        shape = (shape[0], math.prod(shape[1:]))
    return shape


def _stored_shape(kernel: Shape, layer: Layer, maps_first: bool) -> Shape:
    if not maps_first:
        return kernel
    if isinstance(layer, Conv):
        height, width, inputs, outputs = kernel
        return outputs, inputs, height, width
    return kernel[::-1]


def to_maps_last(kernel: np.ndarray, layer: Layer, shape: Shape) -> np.ndarray:
    """Our kernel of a layer with inputs of `shape`, from one with maps first."""
    if isinstance(layer, Conv):
        return kernel.transpose(2, 3, 1, 0)
    matrix = kernel.reshape(-1, math.prod(shape))
    if len(shape) == 1:
        return matrix.T
    height, width, maps = shape
    parts = matrix.reshape(-1, maps, height, width).transpose(2, 3, 1, 0)
    return parts.reshape(math.prod(shape), -1)


def to_maps_first(kernel: np.ndarray, layer: Layer, shape: Shape) -> np.ndarray:
    """The inverse of `to_maps_last`."""
    if isinstance(layer, Conv):
        return kernel.transpose(3, 2, 0, 1)
    if len(shape) == 1:
        return kernel.T
    parts = kernel.reshape(*shape, -1).transpose(3, 2, 0, 1)
    return parts.reshape(kernel.shape[1], -1)
