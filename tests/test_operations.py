"""Each operation's form for CPUs against its definition: value and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.models import build, operations
from alexvgg_jax.models.operations import (
    add_bias,
    add_bias_defined,
    convolve,
    convolve_defined,
    max_pool,
    max_pool_defined,
    multiply,
    normalise,
    normalise_defined,
)

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="these forms run on CPUs only"
)


def assert_same(ours, definition, *arguments, relative=2e-6):
    """Compare values and gradients, and `ours` in forward and in reverse mode."""
    rng = np.random.default_rng(7)

    def random(x):
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)

    output = jax.eval_shape(definition, *arguments)
    gradient, tangents = random(output), tuple(map(random, arguments))

    def value_and_gradients(f, *arguments):
        value, backward = jax.vjp(f, *arguments)
        return value, *backward(gradient)

    expected = jax.jit(functools.partial(value_and_gradients, definition))(*arguments)
    result, tangent = jax.jit(
        lambda *arguments: (
            value_and_gradients(ours, *arguments),
            jax.jvp(ours, arguments, tangents)[1],
        )
    )(*arguments)
    for a, b in zip(result, expected, strict=True):
        assert a.dtype == b.dtype
        largest = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * largest)
    assert tangent.shape == output.shape and tangent.dtype == output.dtype
    forward = np.vdot(np.float64(gradient), tangent)
    reverse = sum(map(np.vdot, map(np.float64, tangents), result[1:]))
    scale = np.linalg.norm(gradient) * np.linalg.norm(tangent)
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-5 * scale)


def normal(*shape, scale=1.0):
    rng = np.random.default_rng(0)
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("stride, pads", [(1, ((1, 1), (1, 1))), (2, ((0, 1), (0, 2)))])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups(stride, pads, groups):
    """AlexNet §3.2: a convolution for each group of kernels."""
    how = {"stride": stride, "pads": pads, "groups": groups}
    kernel = normal(3, 3, 8 // groups, 12)
    ours, definition = (
        functools.partial(f, **how) for f in (convolve, convolve_defined)
    )
    assert_same(ours, definition, normal(2, 9, 8, 8), kernel)


@pytest.mark.parametrize("batch, units, features", [(32, 40, 17), (1, 5, 3), (0, 4, 2)])
def test_products(batch, units, features):
    """AlexNet §3.5: a fully-connected layer's."""
    assert_same(multiply, jnp.matmul, normal(batch, units), normal(units, features))


@pytest.mark.parametrize(
    "shape, bias",
    [
        ((2, 9, 7, 96), (96,)),
        ((2, 9, 7, 9000), (9000,)),  # wider than the rows of the sum
        ((3, 1), (1,)),
        ((97, 10), (10,)),  # a prime number of places
        ((4, 6, 5, 8), (6, 5, 8)),
        ((0, 4), (4,)),
    ],
)
def test_bias(shape, bias):
    """AlexNet §5 biases: one of every map, or of every place and map."""
    assert_same(add_bias, add_bias_defined, normal(*shape), normal(*bias))


def test_gradient_of_a_bias_in_double_precision():
    """AlexNet §5 biases: the sum over 32 images of 55x55, to a float's last digits."""
    y, bias = normal(32, 55, 55, 96), normal(96)
    gradient = 1 + normal(*y.shape)
    ours = jax.jit(lambda y, b, g: jax.vjp(add_bias, y, b)[1](g)[1])(y, bias, gradient)
    expected = np.asarray(gradient, np.float64).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("add", [add_bias, add_bias_defined])
def test_gradient_of_a_bias_in_bfloat16(add):
    """AlexNet §5 biases: summed in float32, where bfloat16 stops at a tenth of it."""
    y, bias = (
        normal(*shape).astype(jnp.bfloat16) for shape in ((8, 55, 55, 96), (96,))
    )
    gradient = (0.3 + normal(*y.shape)).astype(jnp.bfloat16)
    found = jax.jit(lambda y, b, g: jax.vjp(add, y, b)[1](g)[1])(y, bias, gradient)
    expected = np.asarray(gradient, np.float64).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0.01)


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize(
    "window", [(1, 1, 1, 1, 5), (1, 1, 1, 1, 4), (1, 3, 3, 1, 1), (1, 4, 4, 1, 1)]
)
def test_response_normalisation(window, beta):
    """AlexNet §3.3: even windows too, which are not their own mirror image."""
    constants = {"window": window, "alpha": 1e-3, "beta": beta, "k": 2.0}
    ours, definition = (
        functools.partial(f, **constants) for f in (normalise, normalise_defined)
    )
    assert_same(ours, definition, normal(2, 6, 5, 2, 8, scale=60), relative=1e-5)


@pytest.mark.parametrize(
    "size, stride, height, width",
    [
        (*window, *pixels)
        for window in [(3, 2), (2, 2), (3, 1), (3, 3), (4, 2)]
        for pixels in [(8, 8), (9, 7), (5, 6)]
    ]
    + [(2, 3, 8, 8), (12, 5, 22, 17)],  # pixels between windows; windows of 144
)
def test_pooling_with_ties(size, stride, height, width):
    """AlexNet §3.4: equal winners included, the first of them gets the gradient."""
    random = np.random.default_rng(0)
    # Negative, so that no padding wins.
    x = jnp.asarray(random.integers(-4, 0, (2, height, width, 3)), jnp.float32)
    ours, definition = (
        functools.partial(f, size=size, stride=stride)
        for f in (max_pool, max_pool_defined)
    )
    assert_same(ours, definition, x)


def test_other_platforms_run_the_definitions(monkeypatch):
    """AlexNet §3.5: the whole net, forward and backward."""
    net = build("alexnet-paper", image_size=52, classes=10, width=0.125)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.05, leaf.shape), jnp.float32),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    images = normal(2, 52, 52, 3, scale=60)

    def loss(params):
        logits, _ = net.apply(params, images, train=False)
        return jnp.square(logits).mean()

    on_cpus = jax.jit(jax.grad(loss))(params)
    monkeypatch.setattr(
        operations.lax,
        "platform_dependent",
        lambda *arguments, cpu, default: default(*arguments),
    )
    jax.clear_caches()
    elsewhere = jax.jit(jax.grad(loss))(params)
    for ours, expected in zip(*map(jax.tree.leaves, (on_cpus, elsewhere)), strict=True):
        gap = np.linalg.norm(ours - expected)
        assert gap < 1e-3 * np.linalg.norm(expected)


def windows_of(x, size, stride):
    """The pixels of each window, in a new last axis."""
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    taps = [
        x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(taps, axis=-1)


OPERATIONS = {
    "convolve": (
        lambda x, kernel: convolve(x, kernel, groups=2),
        lambda x, kernel: convolve_defined(x, kernel, 1, ((0, 0), (0, 0)), 2),
        (normal(1, 3, 3, 4), normal(2, 2, 2, 2)),
    ),
    "multiply": (multiply, jnp.matmul, (normal(2, 3), normal(3, 4))),
    "add_bias": (add_bias, add_bias_defined, (normal(2, 2, 2, 3), normal(3))),
    "normalise over maps": (
        lambda x: normalise(x, (1, 1, 1, 4), 0.1, 0.75, 2.0),
        lambda x: normalise_defined(x, (1, 1, 1, 4), 0.1, 0.75, 2.0),
        (normal(1, 2, 2, 6),),
    ),
    "normalise over pixels": (
        lambda x: normalise(x, (1, 3, 2, 1), 0.1, 0.5, 2.0),
        lambda x: normalise_defined(x, (1, 3, 2, 1), 0.1, 0.5, 2.0),
        (normal(1, 4, 4, 2),),
    ),
    "max_pool": (
        lambda x: max_pool(x, 3, 2),
        lambda x: windows_of(x, 3, 2).max(axis=-1),
        (normal(1, 5, 5, 2),),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_higher_derivatives(name):
    """In float64: Hessians, forward against reverse mode, under vmap and checkpoint."""
    ours, definition, arguments = OPERATIONS[name]

    def derivatives(f, *arguments):
        def loss(*arguments):
            return jnp.sin(f(*arguments)).sum()

        numbers = tuple(range(len(arguments)))
        tangent = jax.linearize(f, *arguments)[1](*arguments)
        again = jax.grad(jax.checkpoint(loss), numbers)(*arguments)
        first = jax.jacfwd(f, numbers)(*arguments), jax.jacrev(f, numbers)(*arguments)
        return tangent, again, first, jax.hessian(loss, numbers)(*arguments)

    with jax.enable_x64():
        batches = [jnp.stack([x, -x]).astype(jnp.float64) for x in arguments]
        result, expected = (
            jax.jit(jax.vmap(functools.partial(derivatives, f)))(*batches)
            for f in (ours, definition)
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9),
            result,
            expected,
        )


def test_second_derivative_of_tied_maxima():
    """The first of equal maxima takes the whole derivative, in every order."""
    x = jnp.ones((1, 2, 2, 1))
    hessian = jax.hessian(lambda x: (max_pool(x, 2, 2) ** 3).sum())(x)
    np.testing.assert_array_equal(hessian.ravel(), [6.0] + 15 * [0.0])
