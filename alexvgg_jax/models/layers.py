"""The layers of both papers, each a pure function `layer(params, x)`.

A network is a tuple of layers such as `Conv("conv1", 96, 11, stride=4)`. A layer states
its output shape, its parameters, its cost and how devices share it. It holds no arrays.
Images are NHWC, kernels HWIO.

Windows follow the rule of the original program (`layer.py`, LocalLayerParser): as many
as cover the image, and the last one reads zeros beyond the right and bottom border. A
224 image therefore gives AlexNet's conv1 55 windows, as a 227 image does.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.cpu import at_least_float32
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
LayerParams = Mapping[str, Array]  # "kernel" and "bias", or nothing
# Deviation of N(0, std^2); Glorot's uniform; He's N(0, 2 / inputs), for ReLU.
Init = float | Literal["glorot", "he"]
Activations = Literal["relu", "tanh"]
Pooling = Literal["max", "average"]


@dataclass(frozen=True)
class Layer:
    """A layer without parameters that keeps the shape; the others override this."""

    name: str

    def output(self, shape: Shape) -> Shape:
        """The shape of one image's output. InputError if the input is too small."""
        return shape

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        """The shapes of the parameters for an input of `shape`."""
        return {}

    def multiply_adds(self, shape: Shape) -> int:
        """Multiplications of one image in convolutions and matrix products."""
        return 0

    @property
    def window(self) -> tuple[int, int] | None:
        """Size and stride in pixels, or None if an output sees the whole image."""
        return 1, 1

    def fixes_image_size(self, shape: Shape) -> bool:
        """Whether each position of the input has weights of its own."""
        return False

    def share(self, devices: int) -> "Layer":
        """The part that each of `devices` computes if they split the maps."""
        return self

    def param_specs(self, axis: str) -> dict[str, P]:
        """How the parameters lie over the mesh axis that splits the maps."""
        return {}

    def __call__(
        self,
        params: LayerParams,
        x: Float[Array, "batch ..."],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "..."]:
        """The batch after this layer. Only dropout depends on `train` and `key`."""
        return self.forward(params, x)

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        raise NotImplementedError


def draw_kernel(init: Init, key: PRNGKeyArray, shape: Shape, dtype: DTypeLike) -> Array:
    """A kernel [..., inputs, outputs] from N(0, init^2), Glorot's uniform or He's
    normal distribution.

    It is drawn as a matrix: the numbers are the same, and XLA compiles it twice as fast
    (CPU). Each device then draws only the outputs that it holds.
    """
    matrix = (math.prod(shape[:-1]), shape[-1])
    if init == "glorot":
        *window, inputs, outputs = shape
        limit = math.sqrt(6 / math.prod(window) / (inputs + outputs))
        return limit * jax.random.uniform(key, matrix, dtype, -1).reshape(shape)
    deviation = math.sqrt(2 / matrix[0]) if init == "he" else init
    return deviation * jax.random.normal(key, matrix, dtype).reshape(shape)


def drawn_by(init: Init, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with their weights drawn by another rule, and the same biases."""
    return tuple(
        replace(layer, init=init) if isinstance(layer, Weighted) else layer
        for layer in layers
    )


def cast_params(params: LayerParams, x: Array) -> tuple[Array, Array]:
    """Kernel and bias in the input's dtype."""
    return params["kernel"].astype(x.dtype), params["bias"].astype(x.dtype)


@dataclass(frozen=True)
class Weighted(Layer):
    """A layer with a kernel and a bias, and `features` maps or units of output."""

    features: int
    init: Init = field(default=0.01, kw_only=True)
    bias_init: float = field(default=0.0, kw_only=True)

    def multiply_adds(self, shape: Shape) -> int:
        positions = math.prod(self.output(shape)[:-1])
        return positions * math.prod(self.param_shapes(shape)["kernel"])

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        x, kernel, bias = computed_once(x, *cast_params(params, x))
        return add_bias(self.product(x, kernel), bias)

    def product(self, x: Array, kernel: Array) -> Array:
        """The output without the bias."""
        raise NotImplementedError


def _positions(
    shape: Shape, size: int, stride: int, pad: int = 0, ceil: bool = True
) -> Shape:
    """How many windows cover an image, down and across."""
    return tuple(windows(n, size, stride, pad, ceil)[0] for n in shape[:2])


@dataclass(frozen=True)
class Conv(Weighted):
    """AlexNet §3.2: convolution plus bias. (H, W, C) -> (H', W', features).

    With `groups=2` each half of the kernels sees only its half of the input maps, which
    is the half of its GPU. With `ceil=False` (Caffe) only complete windows count.
    """

    size: int = 3
    stride: int = 1
    pad: int = 0
    groups: int = 1
    ceil: bool = True

    def _windows(self, n: int) -> tuple[int, int]:
        return windows(n, self.size, self.stride, self.pad, self.ceil)

    def output(self, shape: Shape) -> Shape:
        height, width, _ = shape
        return self._windows(height)[0], self._windows(width)[0], self.features

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        seen = shape[-1] // self.groups
        kernel = (self.size, self.size, seen, self.features)
        return {"kernel": kernel, "bias": (self.features,)}

    @property
    def window(self) -> tuple[int, int]:
        return self.size, self.stride

    def share(self, devices: int) -> "Layer":
        return _split_features(self, devices)

    def param_specs(self, axis: str) -> dict[str, P]:
        return {"kernel": P(None, None, None, axis), "bias": P(axis)}

    def product(
        self, x: Float[Array, "batch height width maps"], kernel: Array
    ) -> Float[Array, "batch rows columns {self.features}"]:
        pads = [(self.pad, self._windows(n)[1]) for n in x.shape[1:3]]
        return convolve(x, kernel, self.stride, pads, self.groups)


@dataclass(frozen=True)
class Local(Weighted):
    """cuda-convnet 13pct: a convolution with separate kernels at every position.

    (H, W, C) -> (H', W', features), stride 1. Each position and kernel has a bias too
    (`layer.py`, LocalUnsharedLayerParser).
    """

    size: int = 3
    pad: int = 0

    def output(self, shape: Shape) -> Shape:
        return (*_positions(shape, self.size, 1, self.pad), self.features)

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        rows, columns, features = output = self.output(shape)
        seen = self.size**2 * shape[-1]
        return {"kernel": (rows, columns, seen, features), "bias": output}

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.param_shapes(shape)["kernel"])

    @property
    def window(self) -> tuple[int, int]:
        return self.size, 1

    def fixes_image_size(self, shape: Shape) -> bool:
        return True

    def product(
        self, x: Float[Array, "batch height width maps"], kernel: Array
    ) -> Float[Array, "batch rows columns {self.features}"]:
        rows, columns, _ = self.output(x.shape[1:])
        pad = (self.pad, self.pad)
        padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
        taps = itertools.product(range(self.size), repeat=2)
        shifted = [padded[:, i : i + rows, j : j + columns] for i, j in taps]
        patches = jnp.concatenate(shifted, axis=3)
        return jnp.einsum("nrci,rcif->nrcf", patches, kernel)


@dataclass(frozen=True)
class Dense(Weighted):
    """AlexNet §3.5: fully-connected layer. Flattens (H, W, C) -> (features,).

    With `groups=2` each half of the units sees only its half of the input maps.
    """

    groups: int = 1

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        kernel = (math.prod(shape) // self.groups, self.features)
        return {"kernel": kernel, "bias": (self.features,)}

    @property
    def window(self) -> None:
        return None

    def fixes_image_size(self, shape: Shape) -> bool:
        return len(shape) == 3

    def share(self, devices: int) -> "Layer":
        return _split_features(self, devices)

    def param_specs(self, axis: str) -> dict[str, P]:
        return {"kernel": P(None, axis), "bias": P(axis)}

    def product(
        self, x: Float[Array, "batch ..."], kernel: Array
    ) -> Float[Array, "batch {self.features}"]:
        seen = math.prod(x.shape[1:]) // self.groups
        if self.groups == 1:
            return multiply(x.reshape(x.shape[0], seen), kernel)
        maps = x.shape[-1] // self.groups
        halves = x.reshape(x.shape[0], seen // maps, self.groups, maps)
        halves = halves.swapaxes(1, 2).reshape(x.shape[0], self.groups, seen)
        kernels = kernel.reshape(seen, self.groups, self.features // self.groups)
        y = jnp.einsum("ngi,igf->ngf", halves, kernels)
        return y.reshape(x.shape[0], self.features)


@dataclass(frozen=True)
class SlidingDense(Weighted):
    """VGG §3.2: a fully-connected layer as a convolution over an image of any size.

    (H, W, C) -> (H - size + 1, W - size + 1, features): the output of `Dense` at every
    `size` x `size` window, with the same parameters and `groups`.
    """

    size: int = 1
    groups: int = 1

    def output(self, shape: Shape) -> Shape:
        return (*_positions(shape, self.size, 1), self.features)

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        kernel = (self.size**2 * shape[-1] // self.groups, self.features)
        return {"kernel": kernel, "bias": (self.features,)}

    @property
    def window(self) -> tuple[int, int]:
        return self.size, 1

    def product(
        self, x: Float[Array, "batch height width maps"], kernel: Array
    ) -> Float[Array, "batch rows columns {self.features}"]:
        maps = x.shape[3] // self.groups
        kernel = kernel.reshape(self.size, self.size, maps, self.features)
        return convolve(x, kernel, groups=self.groups)


def _split_features(layer: Conv | Dense, devices: int) -> Layer:
    if layer.features % devices:
        raise InputError(
            f"{layer.name}: {layer.features} units do not divide over {devices} devices"
        )
    return replace(layer, features=layer.features // devices, groups=1)


@dataclass(frozen=True)
class GlobalAverage(Layer):
    """VGG §3.2: the mean over all positions. (H, W, C) -> (C,)."""

    def output(self, shape: Shape) -> Shape:
        return shape[-1:]

    @property
    def window(self) -> None:
        return None

    def forward(
        self, params: LayerParams, x: Float[Array, "batch height width maps"]
    ) -> Float[Array, "batch maps"]:
        return x.mean(axis=(1, 2))


FUNCTIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


@dataclass(frozen=True)
class Activation(Layer):
    """AlexNet §3.1: an elementwise non-linearity. Keeps the shape."""

    function: Activations

    def forward(
        self, params: LayerParams, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        return FUNCTIONS[self.function](x)


def activation(function: Activations, suffix: str) -> Activation:
    """The activation named `function + suffix`, such as relu1."""
    return Activation(function + suffix, function)


@dataclass(frozen=True)
class LRN(Layer):
    """AlexNet §3.3: local response normalisation. Keeps the shape.

    b_i = a_i / (k + alpha * sum_j a_j^2)^beta. The sum runs over the `size` maps around
    map i, or over the `size` x `size` pixels around each pixel of one map. `groups=2`
    keeps the windows within each GPU's half of the maps. The original program divides
    alpha by the number of maps or pixels in a window; the paper's formula and this
    layer do not. The layer computes at least in float32.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1
    over: Literal["maps", "pixels"] = "maps"

    @property
    def window(self) -> tuple[int, int]:
        return (self.size, 1) if self.over == "pixels" else (1, 1)

    def share(self, devices: int) -> "Layer":
        return replace(self, groups=max(self.groups // devices, 1))

    def forward(
        self, params: LayerParams, x: Float[Array, "batch height width maps"]
    ) -> Float[Array, "batch height width maps"]:
        halves = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        n = self.size
        window = (1, 1, 1, 1, n) if self.over == "maps" else (1, n, n, 1, 1)
        y = normalise(at_least_float32(halves), window, self.alpha, self.beta, self.k)
        return y.reshape(x.shape).astype(x.dtype)


@dataclass(frozen=True)
class Pool(Layer):
    """AlexNet §3.4: max or average pooling, overlapping if size > stride.

    (H, W, C) -> (H', W', C). A window that reads beyond the border ignores the missing
    pixels: the average divides by the pixels it saw (`conv_util.cuh`, AvgPooler). With
    `ceil=False` (PyTorch, Keras) only complete windows count.
    """

    size: int = 3
    stride: int = 2
    kind: Pooling = "max"
    ceil: bool = True

    def output(self, shape: Shape) -> Shape:
        rows, columns = _positions(shape, self.size, self.stride, ceil=self.ceil)
        return rows, columns, shape[-1]

    @property
    def window(self) -> tuple[int, int]:
        return self.size, self.stride

    def forward(
        self, params: LayerParams, x: Float[Array, "batch height width maps"]
    ) -> Float[Array, "batch rows columns maps"]:
        if not self.ceil:  # leave out the pixels that no complete window sees
            rows, columns = (n - (n - self.size) % self.stride for n in x.shape[1:3])
            x = x[:, :rows, :columns]
        if self.kind == "max":
            return max_pool(x, self.size, self.stride)
        exact = at_least_float32(x)
        pooled = reduce_windows(exact, 0.0, lax.add, self.size, self.stride)
        rows, columns = (self._pixels_seen(n) for n in x.shape[1:3])
        seen = np.outer(rows, columns)[None, :, :, None].astype(exact.dtype)
        return (pooled / seen).astype(x.dtype)

    def _pixels_seen(self, n: int) -> np.ndarray:
        count, _ = windows(n, self.size, self.stride)
        return np.minimum(self.size, n - self.stride * np.arange(count))


@dataclass(frozen=True)
class Dropout(Layer):
    """AlexNet §4.2: training sets each unit to zero with probability `rate`.

    The original multiplies by 1 - rate in tests. With `inverted` (Caffe) training
    divides by 1 - rate instead, and tests change nothing. Keeps the shape.
    """

    rate: float = 0.5
    inverted: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"dropout {self.rate}: from 0 to below 1")

    def __call__(
        self,
        params: LayerParams,
        x: Float[Array, "batch ..."],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch ..."]:
        keep = 1 - self.rate
        if not train:
            return x if self.inverted else x * keep
        if self.rate == 0:
            return x
        if key is None:
            raise InputError(f"{self.name}: training needs apply(..., key=)")
        kept = jnp.where(jax.random.bernoulli(key, keep, x.shape), x, 0.0)
        return kept / keep if self.inverted else kept
