"""Each operation's form for CPUs against its plain definition: value and gradient."""

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
    on_cpu,
)

pytestmark = pytest.mark.skipif(not on_cpu(), reason="they run on CPUs only")


def assert_same(ours, definition, *arguments, relative=2e-6):
    """Value, and the gradient of all arguments for a random one of the value."""
    rng = np.random.default_rng(7)
    expected, backward = jax.vjp(jax.jit(definition), *arguments)
    found, our_backward = jax.vjp(jax.jit(ours), *arguments)
    gradient = jnp.asarray(rng.normal(size=expected.shape), expected.dtype)
    gaps = [(found, expected)]
    gaps += zip(our_backward(gradient), backward(gradient), strict=True)
    for a, b in gaps:
        assert a.dtype == b.dtype
        largest = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * largest)


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
    net = build("alexnet-paper", image_size=52, classes=10)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.02, leaf.shape), jnp.float32),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    images = normal(2, 52, 52, 3, scale=60)

    def loss(params):
        logits, _ = net.apply(params, images, train=False)
        return jnp.square(logits).mean()

    on_cpus = jax.jit(jax.grad(loss))(params)
    monkeypatch.setattr(operations, "on_cpu", lambda: False)
    jax.clear_caches()
    elsewhere = jax.jit(jax.grad(loss))(params)
    for ours, expected in zip(*map(jax.tree.leaves, (on_cpus, elsewhere)), strict=True):
        gap = np.linalg.norm(ours - expected)
        assert gap < 1e-3 * np.linalg.norm(expected)
