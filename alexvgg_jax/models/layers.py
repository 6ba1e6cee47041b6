"""The layers of both papers as rows: what a network is, and what each layer computes.

A network is a tuple of rows such as `Conv("conv1", 96, 11, stride=4)`. A row knows its
output shape (`output`) and computes it (`__call__`, inside a Linen compact method,
where `nn.Conv` finds its parameters by the row's name). Images are NHWC, kernels HWIO.

Every window follows the rule of the original program (`layer.py`, LocalLayerParser):
as many windows as it takes to cover the image, the last one reading past the right and
bottom border. So a 224 image gives AlexNet's conv1 55 windows, as a 227 image does.
"""

import functools
import itertools
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
        if self.kind == "max":
            on_cpu = jax.default_backend() == "cpu"
            return (max_pool_on_cpu if on_cpu else max_pool)(x, self.size, self.stride)
        pooled = _reduce_windows(x, 0.0, lax.add, self.size, self.stride)
        rows, columns = (self._pixels_seen(n) for n in x.shape[1:3])
        return pooled / jnp.asarray(np.outer(rows, columns), x.dtype)[None, :, :, None]

    def _pixels_seen(self, n: int) -> np.ndarray:
        count, _ = windows(n, self.size, self.stride)
        return np.minimum(self.size, n - self.stride * np.arange(count))


def _reduce_windows(
    x: Array, init: float, combine: Callable, size: int, stride: int
) -> Array:
    ends = ((0, windows(n, size, stride)[1]) for n in x.shape[1:3])
    pads = ((0, 0), *ends, (0, 0))
    return lax.reduce_window(
        x, init, combine, (1, size, size, 1), (1, stride, stride, 1), pads
    )


def max_pool(x: Array, size: int, stride: int) -> Array:
    """The largest value of each window; of equal ones, the first gets the gradient."""
    return _reduce_windows(x, -jnp.inf, lax.max, size, stride)


def max_pool_on_cpu(x: Array, size: int, stride: int) -> Array:
    """`max_pool`, its gradient without XLA's serial select-and-scatter on CPUs.

    The forward pass keeps which tap of its window won. The backward pass computes each
    phase of the input (pixels alike modulo `stride`) from shifted gradients: a third
    off the whole training step of the CIFAR-10 nets on two cores.
    """
    return _max_pool_on_cpu(x, size, stride, x.shape[1], x.shape[2])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool_on_cpu(
    x: Array, size: int, stride: int, height: int, width: int
) -> Array:
    return max_pool(x, size, stride)


def _max_pool_forward(
    x: Array, size: int, stride: int, height: int, width: int
) -> tuple[Array, Array]:
    pooled = max_pool(x, size, stride)
    rows, columns = pooled.shape[1:3]
    ends = [(0, windows(n, size, stride)[1]) for n in (height, width)]
    pads = ((0, 0), *ends, (0, 0))
    padded = jnp.pad(x, pads, constant_values=-jnp.inf)
    winner = jnp.full(pooled.shape, size**2, jnp.int8)
    for tap in reversed(range(size**2)):
        i, j = divmod(tap, size)
        at_tap = padded[:, i::stride, j::stride][:, :rows, :columns]
        winner = jnp.where(at_tap == pooled, jnp.int8(tap), winner)
    return pooled, winner


def _max_pool_backward(
    size: int, stride: int, height: int, width: int, winner: Array, gradient: Array
) -> tuple[Array]:
    reach = (size - 1) // stride  # windows before its own that see a pixel
    pads = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    gradient, winner = jnp.pad(gradient, pads), jnp.pad(winner, pads)
    rows, columns = (n - reach for n in gradient.shape[1:3])

    def from_tap(i: int, j: int) -> Array:
        top, left = reach - i // stride, reach - j // stride
        here = (slice(None), slice(top, top + rows), slice(left, left + columns))
        return jnp.where(winner[here] == i * size + j, gradient[here], 0.0)

    def phase(p: int, q: int) -> Array:
        taps = itertools.product(range(p, size, stride), range(q, size, stride))
        return functools.reduce(jnp.add, (from_tap(i, j) for i, j in taps))

    phases = [
        jnp.stack([phase(p, q) for q in range(stride)], axis=3) for p in range(stride)
    ]
    interleaved = jnp.stack(phases, axis=2)  # batch, rows, p, columns, q, maps
    batch, maps = gradient.shape[0], gradient.shape[3]
    whole = interleaved.reshape(batch, rows * stride, columns * stride, maps)
    ends = [
        (0, max(n - m, 0))
        for n, m in zip((height, width), whole.shape[1:3], strict=True)
    ]
    whole = jnp.pad(whole, ((0, 0), *ends, (0, 0)))  # pixels that no window reaches
    return (whole[:, :height, :width],)


_max_pool_on_cpu.defvjp(_max_pool_forward, _max_pool_backward)


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
