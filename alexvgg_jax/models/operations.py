"""The operations that take the time, as pure functions.

Each is defined by a few plain lines of `lax` (`..._defined`), which GPUs and TPUs run
as they are. On CPUs, XLA takes the long way round for some; those have a second form
with the same value and gradient. `on_cpu` is the only place that asks where we are.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexvgg_jax.errors import InputError


def on_cpu() -> bool:
    """Whether programs are compiled for a CPU: `jax.default_device`, if that is set."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    platform = getattr(device, "platform", device) or jax.default_backend()
    return platform == "cpu"


def computed_once(*arrays: Array) -> tuple[Array, ...]:
    """The same arrays, and so their gradients: all of them before any use of one.

    On CPUs XLA computes a chain of elementwise operations anew for each layout and sum
    that a convolution's gradients need it in, and it copies weights to update them
    while the gradient of a layer's input may still read them. A layer whose input and
    parameters go through here does neither: 12% off AlexNet's training step on two
    cores, a quarter off the CIFAR-10 nets'. (`compiler_options` keeps the barriers.)
    """
    return lax.optimization_barrier(arrays) if on_cpu() else arrays


def windows(
    n: int, size: int, stride: int, pad: int = 0, ceil: bool = True
) -> tuple[int, int]:
    """How many windows cover `n` pixels, and the zeros that the last needs behind them.

    With `ceil=False` (Caffe's and torch's convolutions) only whole windows count, and
    less than no zeros are pixels that none of them sees. Raises InputError if not even
    one window fits.
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
    """Cross-correlation, NHWC with HWIO; group g of kernels sees group g of the maps.

    On CPUs XLA has no fast path for groups: as a convolution a group, the gradient of
    AlexNet's conv2 with respect to its kernels takes a 16th of the time (108 ms against
    1710 at batch 32 on two cores).
    """
    if groups > 1 and on_cpu():
        parts = zip(
            jnp.split(x, groups, axis=3), jnp.split(kernel, groups, axis=3), strict=True
        )
        convolved = [convolve_defined(*part, stride, pads, 1) for part in parts]
        return jnp.concatenate(convolved, axis=3)
    return convolve_defined(x, kernel, stride, pads, groups)


def convolve_defined(
    x: Float[Array, "batch height width maps"],
    kernel: Float[Array, "down across maps_of_group kernels"],
    stride: int,
    pads: Sequence[tuple[int, int]],
    groups: int,
) -> Float[Array, "batch rows columns kernels"]:
    """What `convolve` computes, in XLA's own terms."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def multiply(
    x: Float[Array, "batch units"], kernel: Float[Array, "units features"]
) -> Float[Array, "batch features"]:
    """Matrix product, of a batch of units with a fully-connected layer's kernel.

    On CPUs XLA first packs the whole kernel anew for it. There, the forward pass is a
    convolution of a 1x1 kernel over a column of pixels, which packs it block by block:
    15 ms instead of 32 for AlexNet's fc6 at batch 32 on two cores.
    """
    if on_cpu():
        return _multiply_on_cpu(x, kernel)
    return x @ kernel


@jax.custom_vjp
def _multiply_on_cpu(x: Array, kernel: Array) -> Array:
    pixels, kernel = jnp.expand_dims(x, (0, 2)), jnp.expand_dims(kernel, (0, 1))
    return convolve(pixels, kernel)[0, :, 0]


def _multiply_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _multiply_on_cpu(x, kernel), (x, kernel)


def _multiply_backward(
    kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    return gradient @ kernel.T, x.T @ gradient


_multiply_on_cpu.defvjp(_multiply_forward, _multiply_backward)


def add_bias(
    y: Float[Array, "batch *shape"], bias: Float[Array, "..."]
) -> Float[Array, "batch *shape"]:
    """A bias for every map, or for every place and map.

    Its gradient is a sum over all places. On CPUs XLA walks through memory column by
    column for that; there, the sum is taken over wide rows of many places first (0.8 ms
    instead of 18 for AlexNet's conv1 at batch 32 on two cores).
    """
    if on_cpu():
        return _add_bias_on_cpu(y, bias)
    return add_bias_defined(y, bias)


def add_bias_defined(
    y: Float[Array, "batch *shape"], bias: Float[Array, "..."]
) -> Float[Array, "batch *shape"]:
    """What `add_bias` computes: its shape is the last axes of y's."""
    # In float32 at least, and so the gradient's sum: in bfloat16 one over a batch's
    # pixels stops growing, at a tenth of its value.
    exact = jnp.float64 if y.dtype == jnp.float64 else jnp.float32
    places = jnp.expand_dims(bias.astype(exact), range(y.ndim - bias.ndim))
    return (y.astype(exact) + places).astype(y.dtype)


@jax.custom_vjp
def _add_bias_on_cpu(y: Array, bias: Array) -> Array:
    return add_bias_defined(y, bias)


def _add_bias_forward(y: Array, bias: Array) -> tuple[Array, Array]:
    return add_bias_defined(y, bias), bias


WIDE = 8192  # floats: 32 KiB, what the first-level cache holds


def _add_bias_backward(bias: Array, gradient: Array) -> tuple[Array, Array]:
    (gradient,) = computed_once(gradient)
    places = gradient.size // bias.size
    of_an_image = places // max(len(gradient), 1)  # whose rows are all on one device
    together = max(
        n for n in range(1, max(WIDE // bias.size, 1) + 1) if of_an_image % n == 0
    )
    wide = gradient.reshape(places // together, together * bias.size).sum(axis=0)
    return gradient, wide.reshape(together, *bias.shape).sum(axis=0)


_add_bias_on_cpu.defvjp(_add_bias_forward, _add_bias_backward)


Window = tuple[int, ...]  # a size for each axis


def normalise(
    x: Float[Array, "*shape"], window: Window, alpha: float, beta: float, k: float
) -> Float[Array, "*shape"]:
    """x / (k + alpha * the sum of x^2 over `window`, centred and clipped)^beta.

    The gradient that XLA derives computes two powers an element; on CPUs those are most
    of the time. There, d^-0.75 is rsqrt(d) times its own root, and the gradient keeps d
    and sums over the windows once.
    """
    if on_cpu():
        return _normalise_on_cpu(x, window, alpha, beta, k)
    return normalise_defined(x, window, alpha, beta, k)


def normalise_defined(
    x: Float[Array, "*shape"], window: Window, alpha: float, beta: float, k: float
) -> Float[Array, "*shape"]:
    """What `normalise` computes, as AlexNet §3.3 has it."""
    pads = tuple((n // 2, n - 1 - n // 2) for n in window)
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, pads)
    return x * (k + alpha * squares) ** -beta


def _sum_windows(x: Array, window: Window, mirrored: bool = False) -> Array:
    """Sums axis by axis: 3 + 3 numbers instead of 3 x 3."""
    for axis, n in enumerate(window):
        if n > 1:
            before, behind = n // 2, n - 1 - n // 2
            pads = [(0, 0)] * x.ndim
            pads[axis] = (behind, before) if mirrored else (before, behind)
            along = tuple(n if i == axis else 1 for i in range(x.ndim))
            x = lax.reduce_window(x, 0.0, lax.add, along, (1,) * x.ndim, pads)
    return x


def _power(d: Array, beta: float) -> Array:
    """d^-beta."""
    if beta != 0.75:
        return d**-beta
    root = lax.rsqrt(d)
    return root * lax.sqrt(root)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _normalise_on_cpu(
    x: Array, window: Window, alpha: float, beta: float, k: float
) -> Array:
    return _normalise_forward(x, window, alpha, beta, k)[0]


def _normalise_forward(
    x: Array, window: Window, alpha: float, beta: float, k: float
) -> tuple[Array, tuple[Array, Array]]:
    d = k + alpha * _sum_windows(x * x, window)
    return x * _power(d, beta), (x, d)


def _normalise_backward(
    window: Window,
    alpha: float,
    beta: float,
    k: float,
    kept: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array]:
    x, d = kept
    scaled = gradient * _power(d, beta)
    others = _sum_windows(scaled * x / d, window, mirrored=True)
    return (scaled - 2 * alpha * beta * x * others,)


_normalise_on_cpu.defvjp(_normalise_forward, _normalise_backward)


def reduce_windows(
    x: Float[Array, "batch height width maps"],
    init: float,
    combine: Callable,
    size: int,
    stride: int,
) -> Float[Array, "batch rows columns maps"]:
    """The numbers of each window combined, from `init` on; the last windows may reach
    beyond the maps. Raises InputError if not even one fits."""
    ends = ((0, windows(n, size, stride)[1]) for n in x.shape[1:3])
    pads = ((0, 0), *ends, (0, 0))
    return lax.reduce_window(
        x, init, combine, (1, size, size, 1), (1, stride, stride, 1), pads
    )


def max_pool(
    x: Float[Array, "batch height width maps"], size: int, stride: int
) -> Float[Array, "batch rows columns maps"]:
    """The largest value of each window; of equal ones, the first gets the gradient.

    XLA's own gradient, select-and-scatter, is serial on CPUs. There, the forward pass
    keeps which tap of its window won, and the backward pass computes each phase of the
    input (pixels alike modulo `stride`) from shifted gradients: a third off the whole
    training step of the CIFAR-10 nets on two cores. The taps being there, the maximum
    is taken of them: 1.3 ms instead of 6.3 behind AlexNet's conv1.
    """
    if on_cpu():
        return _max_pool_on_cpu(x, size, stride, x.shape[1], x.shape[2])
    return max_pool_defined(x, size, stride)


def max_pool_defined(
    x: Float[Array, "batch height width maps"], size: int, stride: int
) -> Float[Array, "batch rows columns maps"]:
    """What `max_pool` computes."""
    return reduce_windows(x, -jnp.inf, lax.max, size, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool_on_cpu(
    x: Array, size: int, stride: int, height: int, width: int
) -> Array:
    return max_pool_defined(x, size, stride)


def _taps(x: Array, size: int, stride: int) -> list[Array]:
    """The pixels that all windows have in their first place, their second, ..."""
    (rows, bottom), (columns, right) = (windows(n, size, stride) for n in x.shape[1:3])
    pads = ((0, 0), (0, bottom), (0, right), (0, 0))
    (padded,) = computed_once(jnp.pad(x, pads, constant_values=-jnp.inf))
    places = itertools.product(range(size), repeat=2)
    return [padded[:, i::stride, j::stride][:, :rows, :columns] for i, j in places]


def _max_pool_forward(
    x: Array, size: int, stride: int, height: int, width: int
) -> tuple[Array, Array]:
    taps = _taps(x, size, stride)
    (pooled,) = computed_once(functools.reduce(jnp.maximum, taps))
    number = jnp.int8 if size**2 < 128 else jnp.int32
    winner = jnp.full(pooled.shape, size**2, number)
    for place, tap in reversed(list(enumerate(taps))):
        winner = jnp.where(tap == pooled, number(place), winner)
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
        gradients = [from_tap(i, j) for i, j in taps]
        if not gradients:  # pixels between the windows
            return jnp.zeros_like(gradient[:, :rows, :columns])
        return functools.reduce(jnp.add, gradients)

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
