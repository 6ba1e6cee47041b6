"""Faster forms for CPUs of the operations in `operations.py`.

XLA compiles some of the definitions to slow programs for CPUs. The forms here have the
same values and derivatives. JAX derives the backward pass by transposing the tangents,
so each tangent is written to have a fast transpose. Times are for two cores.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Window = tuple[int, ...]  # a size for each axis


def computed_once(*arrays: Array) -> tuple[Array, ...]:
    return lax.optimization_barrier(arrays)


def convolve_groups(
    convolve: Callable[[Array, Array], Array], x: Array, kernel: Array, groups: int
) -> Array:
    """`convolve` applied to each group of maps and kernels.

    XLA has no fast path for groups on CPUs: the gradient for the kernels of AlexNet's
    conv2 takes 1710 ms at batch 32, and 108 ms this way.
    """
    maps, kernels = (jnp.split(array, groups, axis=3) for array in (x, kernel))
    return jnp.concatenate(list(map(convolve, maps, kernels)), axis=3)


def multiply(x: Array, kernel: Array) -> Array:
    """The matrix product as a convolution of a 1x1 kernel over a column of pixels.

    For a product XLA first packs the whole kernel. For a convolution it packs block by
    block: 15 ms instead of 32 for AlexNet's fc6 at batch 32.
    """
    pixels, kernel = jnp.expand_dims(x, (0, 2)), jnp.expand_dims(kernel, (0, 1))
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        pixels, kernel, (1, 1), "VALID", dimension_numbers=layout
    )
    return y[0, :, 0]


WIDE = 8192  # floats: 32 KiB, the size of a first-level cache


def at_least_float32(x: Array) -> Array:
    """`x` in the dtype of sums: float64 stays, and all others become float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def add_bias_tangent(y: Array, bias: Array) -> Array:
    """The tangent of `add_bias` for the tangents `y` and `bias`.

    Its transpose sums over all positions. XLA sums column by column, with a stride in
    memory. The transpose of this function first sums wide rows of many positions: 0.8
    ms instead of 18 for AlexNet's conv1 at batch 32.
    """
    images, *shape = y.shape
    per_image = math.prod(shape) // bias.size  # a row must not span two devices
    together = max(
        n for n in range(1, max(WIDE // bias.size, 1) + 1) if per_image % n == 0
    )
    exact = at_least_float32(y)
    row = jnp.broadcast_to(bias.astype(exact.dtype), (together, *bias.shape))
    row = row.reshape(together * bias.size)
    rows = jnp.broadcast_to(row, (images * (per_image // together), *row.shape))
    return computed_once((exact + rows.reshape(y.shape)).astype(y.dtype))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def normalise(x: Array, window: Window, alpha: float, beta: float, k: float) -> Array:
    """`operations.normalise` with few powers, which take most of the time on CPUs.

    d^-0.75 is rsqrt(d) times its own root. The derivative reuses d, and sums over the
    windows once.
    """
    return x * _power(_denominator(x, window, alpha, k), beta)


@normalise.defjvp
def _normalise_jvp(
    window: Window,
    alpha: float,
    beta: float,
    k: float,
    primals: tuple,
    tangents: tuple,
) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    d = _denominator(x, window, alpha, k)
    power = _power(d, beta)
    # Reversed, because the transpose reverses the order of the axes once more.
    change = _sum_windows(2 * alpha * beta * x * tangent, window, reverse=True)
    return x * power, (tangent - change / d * x) * power


def _denominator(x: Array, window: Window, alpha: float, k: float) -> Array:
    return k + alpha * _sum_windows(x * x, window)


def _power(d: Array, beta: float) -> Array:
    """d^-beta."""
    if beta != 0.75:
        return d**-beta
    root = lax.rsqrt(d)
    return root * lax.sqrt(root)


def _sum_windows(x: Array, window: Window, reverse: bool = False) -> Array:
    """Sums over `window`, one axis at a time: 3 + 3 numbers instead of 3 x 3."""
    axes = [axis for axis, n in enumerate(window) if n > 1]
    for axis in reversed(axes) if reverse else axes:
        n = window[axis]
        pads = [(0, 0)] * x.ndim
        pads[axis] = (n // 2, n - 1 - n // 2)
        along = tuple(n if i == axis else 1 for i in range(x.ndim))
        x = lax.reduce_window(x, 0.0, lax.add, along, (1,) * x.ndim, pads)
    return x


Ends = tuple[int, int]  # pixels that the last windows reach beyond the maps


def max_pool(x: Array, size: int, stride: int, ends: Ends) -> Array:
    """`operations.max_pool` with a fast derivative.

    XLA's own gradient, select-and-scatter, is serial on CPUs. Here the forward pass
    keeps the position of each window's maximum, and the backward pass gathers from
    shifted gradients: a third less time for a training step of the CIFAR-10 nets. The
    maximum over shifted maps also takes 1.3 ms instead of 6.3 after AlexNet's conv1.
    """
    largest, winner = _max_and_winner(lax.stop_gradient(x), size, stride, ends)
    return _with_derivative(x, largest, winner, size, stride)


def _max_and_winner(
    x: Array, size: int, stride: int, ends: Ends
) -> tuple[Array, Array]:
    """The maximum of each window, and its position in the window, row by row."""
    pads = ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0))
    (padded,) = computed_once(jnp.pad(x, pads, constant_values=-jnp.inf))
    rows, columns = ((n - size) // stride + 1 for n in padded.shape[1:3])
    taps = [
        padded[:, i::stride, j::stride][:, :rows, :columns]
        for i, j in itertools.product(range(size), repeat=2)
    ]
    (largest,) = computed_once(functools.reduce(jnp.maximum, taps))
    number = jnp.int8 if size**2 < 128 else jnp.int32
    winner = jnp.full(largest.shape, size**2, number)
    for position, tap in reversed(list(enumerate(taps))):
        winner = jnp.where(tap == largest, number(position), winner)
    return largest, winner


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _with_derivative(
    x: Array, largest: Array, winner: Array, size: int, stride: int
) -> Array:
    """`largest`, with the derivative of the winners in `x`."""
    return largest


@_with_derivative.defjvp
def _with_derivative_jvp(
    size: int,
    stride: int,
    primals: tuple,
    tangents: tuple,
) -> tuple[Array, Array]:
    tangent = _at_winners(tangents[0], primals[2], size, stride)
    return _with_derivative(*primals, size, stride), tangent


def _at_winners(x: Array, winner: Array, size: int, stride: int) -> Array:
    """The value of `x` at each window's winner.

    The transpose computes each phase of the input (pixels that are equal modulo
    `stride`) as a sum of shifted gradients, and interleaves the phases.
    """
    reach = (size - 1) // stride  # how many earlier windows see a pixel
    margin = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    winner = jnp.pad(winner, margin)
    rows, columns = (n - reach for n in winner.shape[1:3])
    batch, height, width, maps = x.shape
    # Pixels that no window sees are cut off; the last phases may end early.
    x = x[:, : rows * stride, : columns * stride]
    pads = [(0, 0), (0, rows * stride - x.shape[1]), (0, columns * stride - x.shape[2])]
    x = jnp.pad(x, (*pads, (0, 0)))
    x = x.reshape(batch, rows, stride, columns, stride, maps)
    total = jnp.zeros((batch, *winner.shape[1:3], maps), x.dtype)
    for p, of_row in enumerate(lax.split(x, (1,) * stride, axis=2)):
        for q, phase in enumerate(lax.split(of_row, (1,) * stride, axis=4)):
            phase = phase.reshape(batch, rows, columns, maps)
            taps = itertools.product(range(p, size, stride), range(q, size, stride))
            # Reversed, because the transpose adds up in the reverse order.
            for i, j in reversed(list(taps)):
                top, left = reach - i // stride, reach - j // stride
                here = (
                    slice(None),
                    slice(top, top + rows),
                    slice(left, left + columns),
                )
                chosen = jnp.where(winner[here] == i * size + j, phase, 0.0)
                around = ((top, reach - top), (left, reach - left))
                total += jnp.pad(chosen, ((0, 0), *around, (0, 0)))
    inner = (slice(reach, n - reach) for n in winner.shape[1:3])
    return total[:, *inner]
