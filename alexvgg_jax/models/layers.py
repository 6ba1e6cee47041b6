"""The layers of both papers as rows: what a network is, and what each layer computes.

A network is a tuple of rows such as `Conv("conv1", 96, 11, stride=4)`. A row knows its
output shape (`output`) and computes it (`__call__`, inside a Linen compact method,
where `nn.Conv` finds its parameters by the row's name). Images are NHWC, kernels HWIO.

Every window follows the rule of the original program (`layer.py`, LocalLayerParser):
as many windows as it takes to cover the image, the last one reading past the right and
bottom border. So a 224 image gives AlexNet's conv1 55 windows, as a 227 image does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.errors import InputError

Shape = tuple[int, ...]  # one image's activations: (height, width, maps) or (units,)
Init = float | Literal["glorot"]  # deviation of N(0, std^2), or Glorot's uniform


@runtime_checkable
class Layer(Protocol):
    @property
    def name(self) -> str: ...

    def output(self, shape: Shape) -> Shape: ...

    def __call__(self, x: Array, *, train: bool, key: PRNGKeyArray | None) -> Array: ...


def windows(n: int, size: int, stride: int, pad: int = 0) -> tuple[int, int]:
    """How many windows cover `n` pixels, and the zeros that the last needs behind them.

    Raises InputError if not even one window fits.
    """
    if n + 2 * pad < size:
        raise InputError(f"a {size}x{size} window does not fit {n} pixels")
    count = 1 + -(-(n + 2 * pad - size) // stride)
    return count, (count - 1) * stride + size - pad - n


def weights(init: Init) -> nn.initializers.Initializer:
    """N(0, init^2), as both papers draw their weights, or Glorot's uniform."""
    if init == "glorot":
        return nn.initializers.glorot_uniform()
    return nn.initializers.normal(init)


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

    def output(self, shape: Shape) -> Shape:
        height, width, _ = shape
        rows, _ = windows(height, self.size, self.stride, self.pad)
        columns, _ = windows(width, self.size, self.stride, self.pad)
        return rows, columns, self.features

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch rows columns {self.features}"]:
        ends = [windows(n, self.size, self.stride, self.pad)[1] for n in x.shape[1:3]]
        convolve = nn.Conv(
            self.features,
            (self.size, self.size),
            self.stride,
            [(self.pad, end) for end in ends],
            feature_group_count=self.groups,
            kernel_init=weights(self.init),
            bias_init=nn.initializers.constant(self.bias),
            name=self.name,
        )
        return convolve(x)


@dataclass(frozen=True)
class Dense:
    """AlexNet §3.5: fully-connected layer. Flattens (H, W, C) -> (features,)."""

    name: str
    features: int
    init: Init = 0.01
    bias: float = 0.0

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "batch {self.features}"]:
        connect = nn.Dense(
            self.features,
            kernel_init=weights(self.init),
            bias_init=nn.initializers.constant(self.bias),
            name=self.name,
        )
        return connect(x.reshape(len(x), -1))


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
    """AlexNet §3.3: local response normalisation across maps. Keeps the shape.

    b_i = a_i / (k + alpha * sum_j a_j^2)^beta, the sum over the `size` maps around i
    that exist. `groups=2` keeps the windows within each GPU's half of the maps. The
    original program divides alpha by size; the paper's formula, and this, do not.
    """

    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1

    def output(self, shape: Shape) -> Shape:
        return shape

    def __call__(
        self,
        x: Float[Array, "batch height width maps"],
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch height width maps"]:
        halves = x.reshape(*x.shape[:-1], self.groups, -1)
        before = self.size // 2
        energy = lax.reduce_window(
            halves * halves,
            0.0,
            lax.add,
            (1, 1, 1, 1, self.size),
            (1, 1, 1, 1, 1),
            ((0, 0),) * 4 + ((before, self.size - 1 - before),),
        )
        return (halves * (self.k + self.alpha * energy) ** -self.beta).reshape(x.shape)


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
        ends = [windows(n, self.size, self.stride)[1] for n in x.shape[1:3]]
        init, combine = (-jnp.inf, lax.max) if self.kind == "max" else (0.0, lax.add)
        pooled = lax.reduce_window(
            x,
            init,
            combine,
            (1, self.size, self.size, 1),
            (1, self.stride, self.stride, 1),
            ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0)),
        )
        if self.kind == "max":
            return pooled
        rows, columns = (self._pixels_seen(n) for n in x.shape[1:3])
        return pooled / jnp.asarray(np.outer(rows, columns), x.dtype)[None, :, :, None]

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
