"""The layers of both papers as rows: what a network is, and what each layer computes.

A network is a tuple of rows such as `Conv("conv1", 96, 11, stride=4)`. A row knows its
output shape (`output`) and computes it (`__call__`, inside a Linen compact method,
where `_Parameters` are found by the row's name). Images are NHWC, kernels HWIO.

Windows follow the rule of the original program (`layer.py`, LocalLayerParser): as many
as it takes to cover the image, the last one reading past the right and bottom border.
So a 224 image gives AlexNet's conv1 55 windows, as a 227 image does.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.operations import (
    add_bias,
    computed_once,
    convolve,
    max_pool,
    multiply,
    normalise,
    reduce_windows,
    windows,
)

Shape = tuple[int, ...]  # one image's activations: (height, width, maps) or (units,)
Init = float | Literal["glorot"]  # deviation of N(0, std^2), or Glorot's uniform


@runtime_checkable
class Layer(Protocol):
    @property
    def name(self) -> str: ...

    def output(self, shape: Shape) -> Shape: ...

    def __call__(self, x: Array, *, train: bool, key: PRNGKeyArray | None) -> Array: ...


class _Parameters(nn.Module):
    kernel_shape: Shape
    kernel_init: nn.initializers.Initializer
    bias_shape: Shape
    bias_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", self.kernel_init, self.kernel_shape, jnp.float32)
        return kernel, self.param("bias", self.bias_init, self.bias_shape, jnp.float32)


def draw_kernel(init: Init, key: PRNGKeyArray, shape: Shape, dtype: DTypeLike) -> Array:
    """N(0, init^2) or Glorot's uniform, [..., inputs, outputs]. Drawn as a matrix: the
    same numbers, of which XLA compiles the program twice as fast (CPU); its columns,
    that devices which split the outputs draw no more than their own."""
    matrix = (math.prod(shape[:-1]), shape[-1])
    if init == "glorot":
        *window, inputs, outputs = shape
        limit = math.sqrt(6 / math.prod(window) / (inputs + outputs))
        return limit * jax.random.uniform(key, matrix, dtype, -1).reshape(shape)
    return init * jax.random.normal(key, matrix, dtype).reshape(shape)


def parameters(
    row: "Conv | Local | Dense | SlidingDense", x: Array, kernel: Shape, bias: Shape
) -> tuple[Array, Array]:
    """The row's kernel, from N(0, init^2) or Glorot's uniform, and its constant bias:
    float32, and as the input where they are used."""
    draw = functools.partial(draw_kernel, row.init)
    constant = nn.initializers.constant(row.bias)
    drawn = _Parameters(kernel, draw, bias, constant, name=row.name)()
    drawn_kernel, drawn_bias = drawn
    return drawn_kernel.astype(x.dtype), drawn_bias.astype(x.dtype)


def _with_parameters(
    row: "Conv | Local | Dense | SlidingDense", x: Array, kernel: Shape, bias: Shape
) -> tuple[Array, ...]:
    return computed_once(x, *parameters(row, x, kernel, bias))


@dataclass(frozen=True)
class Conv:
    """AlexNet §3.2: convolution plus bias. (H, W, C) -> (H', W', features).

    With `groups=2` each half of the kernels sees only its own half of the input maps,
    the kernels "of its own GPU".
    """

    name: str
    features: int
    size: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    init: Init = 0.01
    bias: float = 0.0
    ceil: bool = True

    def _windows(self, n: int) -> tuple[int, int]:
        return windows(n, self.size, self.stride, self.pad, self.ceil)

    def output(self, shape: Shape) -> Shape:
        height, width, _ = shape
        return self._windows(height)[0], self._windows(width)[0], self.features

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch rows columns {self.features}"]:
        shape = (self.size, self.size, x.shape[3] // self.groups, self.features)
        x, kernel, bias = _with_parameters(self, x, shape, (self.features,))
        pads = [(self.pad, self._windows(n)[1]) for n in x.shape[1:3]]
        return add_bias(convolve(x, kernel, self.stride, pads, self.groups), bias)


@dataclass(frozen=True)
class Local:
    """cuda-convnet 13pct: a convolution whose every position has kernels of its own.

    (H, W, C) -> (H', W', features), stride 1. `layer.py`, LocalUnsharedLayerParser: a
    bias for each position and kernel too.
    """

    name: str
    features: int
    size: int
    pad: int = 0
    init: float = 0.01
    bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        height, width, _ = shape
        rows, columns = (windows(n, self.size, 1, self.pad)[0] for n in (height, width))
        return rows, columns, self.features

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch rows columns {self.features}"]:
        rows, columns, features = self.output(x.shape[1:])
        seen = self.size**2 * x.shape[3]  # by one kernel: rows, columns, maps
        x, kernel, bias = _with_parameters(
            self, x, (rows, columns, seen, features), (rows, columns, features)
        )
        pad = (self.pad, self.pad)
        padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
        taps = itertools.product(range(self.size), repeat=2)
        seen_here = [padded[:, i : i + rows, j : j + columns] for i, j in taps]
        patches = jnp.concatenate(seen_here, axis=3)
        return add_bias(jnp.einsum("nrci,rcif->nrcf", patches, kernel), bias)


@dataclass(frozen=True)
class Dense:
    """AlexNet §3.5: fully-connected layer. Flattens (H, W, C) -> (features,).

    With `groups=2` each half of the units sees only its own half of the input maps.
    """

    name: str
    features: int
    init: Init = 0.01
    bias: float = 0.0
    groups: int = 1

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "batch {self.features}"]:
        seen = math.prod(x.shape[1:]) // self.groups
        shape = (seen, self.features)
        x, kernel, bias = _with_parameters(self, x, shape, (self.features,))
        if self.groups == 1:
            return add_bias(multiply(x.reshape(len(x), seen), kernel), bias)
        maps = x.shape[-1] // self.groups
        halves = x.reshape(len(x), seen // maps, self.groups, maps)
        halves = halves.swapaxes(1, 2).reshape(len(x), self.groups, seen)
        kernels = kernel.reshape(seen, self.groups, self.features // self.groups)
        y = jnp.einsum("ngi,igf->ngf", halves, kernels)
        return add_bias(y.reshape(len(x), self.features), bias)


@dataclass(frozen=True)
class SlidingDense:
    """VGG §3.2: a fully-connected layer as a convolution over an image of any size.

    (H, W, C) -> (H - size + 1, W - size + 1, features): what `Dense` computes of every
    `size` x `size` window, with the same parameters.
    """

    name: str
    features: int
    size: int
    init: Init = 0.01
    bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        height, width, _ = shape
        rows, columns = (windows(n, self.size, 1)[0] for n in (height, width))
        return rows, columns, self.features

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch rows columns {self.features}"]:
        shape = (self.size**2 * x.shape[3], self.features)
        x, kernel, bias = _with_parameters(self, x, shape, (self.features,))
        kernel = kernel.reshape(self.size, self.size, x.shape[3], self.features)
        return add_bias(convolve(x, kernel), bias)


@dataclass(frozen=True)
class GlobalAverage:
    """VGG §3.2: the mean over all positions. (H, W, C) -> (C,)."""

    name: str

    def output(self, shape: Shape) -> Shape:
        return shape[-1:]

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch maps"]:
        return x.mean(axis=(1, 2))


@dataclass(frozen=True)
class Activation:
    """AlexNet §3.1: an elementwise non-linearity. Keeps the shape."""

    name: str
    function: Callable[[Array], Array]

    def output(self, shape: Shape) -> Shape:
        return shape

    def __call__(
        self, x: Float[Array, "..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "..."]:
        return self.function(x)


ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


def activation(function: str, suffix: str) -> Activation:
    """The row named `function + suffix`, such as relu1."""
    return Activation(function + suffix, ACTIVATIONS[function])


@dataclass(frozen=True)
class LRN:
    """AlexNet §3.3: local response normalisation. Keeps the shape.

    b_i = a_i / (k + alpha * sum_j a_j^2)^beta, the sum over the `size` maps around i
    that exist, or `over` the `size` x `size` pixels around i in its own map. `groups=2`
    keeps the windows within each GPU's half of the maps. The original program divides
    its alpha by the pixels or maps in a window; the paper's formula, and this, do not.
    Computed in float32 whatever the input.
    """

    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1
    over: Literal["maps", "pixels"] = "maps"

    def output(self, shape: Shape) -> Shape:
        return shape

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch height width maps"]:
        halves = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        halves = halves.astype(jnp.float32)
        n = self.size
        window = (1, 1, 1, 1, n) if self.over == "maps" else (1, n, n, 1, 1)
        y = normalise(halves, window, self.alpha, self.beta, self.k)
        return y.reshape(x.shape).astype(x.dtype)


@dataclass(frozen=True)
class Pool:
    """AlexNet §3.4: max or average pooling, overlapping if size > stride.

    (H, W, C) -> (H', W', C). A window that reads past the border ignores what is not
    there: the average divides by the pixels it saw (`conv_util.cuh`, AvgPooler).
    """

    name: str
    size: int = 3
    stride: int = 2
    kind: Literal["max", "average"] = "max"

    def output(self, shape: Shape) -> Shape:
        height, width, maps = shape
        rows, _ = windows(height, self.size, self.stride)
        columns, _ = windows(width, self.size, self.stride)
        return rows, columns, maps

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch rows columns maps"]:
        if self.kind == "max":
            return max_pool(x, self.size, self.stride)
        exact = x.astype(jnp.float32)
        pooled = reduce_windows(exact, 0.0, lax.add, self.size, self.stride)
        rows, columns = (self._pixels_seen(n) for n in x.shape[1:3])
        seen = np.outer(rows, columns)[None, :, :, None].astype(np.float32)
        return (pooled / seen).astype(x.dtype)

    def _pixels_seen(self, n: int) -> np.ndarray:
        count, _ = windows(n, self.size, self.stride)
        return np.minimum(self.size, n - self.stride * np.arange(count))


@dataclass(frozen=True)
class Dropout:
    """AlexNet §4.2: training sets each unit to zero with probability `rate`.

    The original multiplies by 1 - rate in tests; `inverted` (Caffe's way) divides by
    it in training instead, which leaves tests alone. Keeps the shape.
    """

    name: str
    rate: float = 0.5
    inverted: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"{self.name}: dropout {self.rate}: from 0 to below 1")

    def output(self, shape: Shape) -> Shape:
        return shape

    def __call__(
        self, x: Float[Array, "..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "..."]:
        keep = 1 - self.rate
        if not train:
            return x if self.inverted else x * keep
        if self.rate == 0:
            return x
        if key is None:
            raise InputError(f"{self.name}: training needs apply(..., key=)")
        kept = jnp.where(jax.random.bernoulli(key, keep, x.shape), x, 0.0)
        return kept / keep if self.inverted else kept
