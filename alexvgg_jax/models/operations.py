"""The operations that take most of the time, as pure functions.

Each is defined by a few lines of `lax` (`..._defined`). GPUs and TPUs run the
definitions. CPUs run the faster forms in `cpu.py`, with the same values and
derivatives. The choice is made when a program is lowered for its platform.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import cpu
from alexvgg_jax.models.cpu import Window


def computed_once(*arrays: Array) -> tuple[Array, ...]:
    """The same arrays, and on CPUs a barrier: all are computed before any is used.

    The gradients pass a barrier too. Without it, XLA for CPUs repeats a chain of
    elementwise operations for each use of its result by the gradients of a convolution.
    It also copies weights before updating them, because the gradient of a layer's input
    may still read them. The barriers take 12% off AlexNet's training step on two cores,
    and 25% off the CIFAR-10 nets'. They need the options in `step.compiler_options`.
    There are none inside `jax.shard_map`, where a barrier can change an array's type.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    return lax.platform_dependent(
        *arrays, cpu=cpu.computed_once, default=lambda *arrays: arrays
    )


def windows(
    n: int, size: int, stride: int, pad: int = 0, ceil: bool = True
) -> tuple[int, int]:
    """The number of windows that cover `n` pixels, and the zeros needed at the end.

    With `ceil=False`, as in convolutions of Caffe and PyTorch, only complete windows
    count. A negative number of zeros then means pixels that no window sees. Raises
    InputError if no window fits.
    """
    spare = n + 2 * pad - size
    if spare < 0:
        raise InputError(f"a {size}x{size} window does not fit {n} pixels")
    count = 1 + (-(-spare // stride) if ceil else spare // stride)
    return count, (count - 1) * stride + size - pad - n


def convolve(
    x: Float[Array, "batch height width maps"],
    kernel: Float[Array, "down across maps_of_group kernels"],
    stride: int = 1,
    pads: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    groups: int = 1,
) -> Float[Array, "batch rows columns kernels"]:
    """Cross-correlation, NHWC with HWIO: group g of kernels sees group g of maps."""
    definition = partial(convolve_defined, stride=stride, pads=pads)
    if groups == 1:
        return definition(x, kernel)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(cpu.convolve_groups, definition, groups=groups),
        default=partial(definition, groups=groups),
    )


def convolve_defined(
    x: Float[Array, "batch height width maps"],
    kernel: Float[Array, "down across maps_of_group kernels"],
    stride: int,
    pads: Sequence[tuple[int, int]],
    groups: int = 1,
) -> Float[Array, "batch rows columns kernels"]:
    """The definition of `convolve`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@jax.custom_jvp
def multiply(
    x: Float[Array, "batch units"], kernel: Float[Array, "units features"]
) -> Float[Array, "batch features"]:
    """The matrix product of a batch of units and a fully-connected layer's kernel."""
    return lax.platform_dependent(x, kernel, cpu=cpu.multiply, default=jnp.matmul)


@multiply.defjvp
def _multiply_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The tangent is plain products, and so is the backward pass on all platforms."""
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    return multiply(x, kernel), x_tangent @ kernel + x @ kernel_tangent


@jax.custom_jvp
def add_bias(
    y: Float[Array, "batch *shape"], bias: Float[Array, "..."]
) -> Float[Array, "batch *shape"]:
    """`y` plus a bias for each map, or for each position and map."""
    return add_bias_defined(y, bias)


def add_bias_defined(
    y: Float[Array, "batch *shape"], bias: Float[Array, "..."]
) -> Float[Array, "batch *shape"]:
    """The definition of `add_bias`. The bias has the shape of the last axes of `y`."""
    # At least float32, and so the sum in the gradient: a bfloat16 sum over a batch's
    # pixels stops growing at a tenth of its value.
    exact = cpu.at_least_float32(y)
    places = jnp.expand_dims(bias.astype(exact.dtype), range(y.ndim - bias.ndim))
    return (exact + places).astype(y.dtype)


@add_bias.defjvp
def _add_bias_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    tangent = lax.platform_dependent(
        *tangents, cpu=cpu.add_bias_tangent, default=add_bias_defined
    )
    return add_bias(*primals), tangent


def normalise(
    x: Float[Array, "*shape"], window: Window, alpha: float, beta: float, k: float
) -> Float[Array, "*shape"]:
    """x / (k + alpha * the sum of x^2 over `window`, centred and clipped)^beta."""
    return lax.platform_dependent(
        x,
        cpu=lambda x: cpu.normalise(x, window, alpha, beta, k),
        default=lambda x: normalise_defined(x, window, alpha, beta, k),
    )


def normalise_defined(
    x: Float[Array, "*shape"], window: Window, alpha: float, beta: float, k: float
) -> Float[Array, "*shape"]:
    """The definition of `normalise`: AlexNet §3.3."""
    pads = tuple((n // 2, n - 1 - n // 2) for n in window)
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, pads)
    return x * (k + alpha * squares) ** -beta


def reduce_windows(
    x: Float[Array, "batch height width maps"],
    init: float,
    combine: Callable,
    size: int,
    stride: int,
) -> Float[Array, "batch rows columns maps"]:
    """The numbers of each window combined, starting from `init`.

    The last windows may reach beyond the maps. Raises InputError if no window fits.
    """
    pads = ((0, 0), *((0, end) for end in _ends(x, size, stride)), (0, 0))
    return lax.reduce_window(
        x, init, combine, (1, size, size, 1), (1, stride, stride, 1), pads
    )


def _ends(x: Array, size: int, stride: int) -> tuple[int, int]:
    """How far the last windows reach beyond the maps, down and across."""
    return windows(x.shape[1], size, stride)[1], windows(x.shape[2], size, stride)[1]


def max_pool(
    x: Float[Array, "batch height width maps"], size: int, stride: int
) -> Float[Array, "batch rows columns maps"]:
    """The maximum of each window. The first of equal maxima gets the gradient."""
    ends = _ends(x, size, stride)
    return lax.platform_dependent(
        x,
        cpu=lambda x: cpu.max_pool(x, size, stride, ends),
        default=lambda x: max_pool_defined(x, size, stride),
    )


def max_pool_defined(
    x: Float[Array, "batch height width maps"], size: int, stride: int
) -> Float[Array, "batch rows columns maps"]:
    """The definition of `max_pool`."""
    return reduce_windows(x, -jnp.inf, lax.max, size, stride)
