"""Forward mode, higher derivatives and export of complete nets."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from nets import stack

from alexvgg_jax.models import MODELS, build
from alexvgg_jax.models.layers import (
    LRN,
    Activation,
    Conv,
    Dense,
    Dropout,
    GlobalAverage,
    Local,
    Pool,
    SlidingDense,
)

MAPS = stack(
    Conv("conv1", 8),
    Activation("relu1", "relu"),
    LRN("norm1"),
    Pool("pool1"),
    Conv("conv2", 4, groups=2),
    Dropout("drop2"),
    Dense("fc3", 3),
    image_size=8,
)
PIXELS = stack(
    Local("local1", 4, pad=1),
    Activation("tanh1", "tanh"),
    LRN("norm1", size=3, over="pixels"),
    Pool("pool1", kind="average"),
    SlidingDense("fc2", 8, size=2),
    GlobalAverage("average"),
    Dense("fc3", 3),
    image_size=5,
)


def random_like(tree, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree
    )


@functools.cache
def problem(net):
    """A net's loss as a function of its parameters, parameters, and a tangent."""
    images = random_like(jnp.zeros((2, *net.input_shape)), 0, 50.0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    key = jax.random.key(1)

    def loss(params):
        logits, _ = net.apply(params, images, train=True, key=key)
        return jnp.tanh(logits).mean()

    return loss, random_like(shapes, 1, 0.05), random_like(shapes, 2, 0.05)


def dot(a, b):
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("name", MODELS)
def test_every_net_has_forward_mode(name):
    """Also under `vmap` and `checkpoint`, and in float64. It is only traced: the
    numbers are tested on small nets below."""
    net = build(name, classes=3)
    with jax.enable_x64(True):
        params, images = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float64),
            (net.param_shapes(), jnp.zeros((2, *net.input_shape), jnp.float32)),
        )
        two = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), params
        )

        @jax.checkpoint
        def loss(params, images):
            logits, _ = net.apply(params, images, train=True, key=jax.random.key(1))
            return logits.mean()

        def products(params, images, tangents):
            gradient = functools.partial(jax.grad(loss), images=images)
            return jax.vmap(lambda each: jax.jvp(gradient, (params,), (each,)))(
                tangents
            )

        gradients, product = jax.eval_shape(products, params, images, two)
    assert gradients == product == two


@pytest.mark.parametrize("net", [MAPS, PIXELS])
def test_directional_derivatives(net):
    """First and second derivatives agree in forward, reverse and mixed mode."""
    loss, params, tangent = problem(net)

    @jax.jit
    def derivatives(params, tangent):
        def forward(params):
            return jax.jvp(loss, (params,), (tangent,))[1]

        gradient, product = jax.jvp(jax.grad(loss), (params,), (tangent,))
        first = (
            forward(params),
            jax.linearize(loss, params)[1](tangent),
            dot(gradient, tangent),
        )
        second = (
            jax.jvp(forward, (params,), (tangent,))[1],
            dot(product, tangent),
            dot(jax.grad(forward)(params), tangent),
        )
        return first, second

    for same in derivatives(params, tangent):
        assert same[0] != 0
        np.testing.assert_allclose(same, same[0], rtol=1e-3)


def test_jacobian_and_hessian():
    """For the last bias of a net: jacfwd, jacrev, and a symmetric Hessian."""
    loss, params, _ = problem(MAPS)
    last = list(params)[-1]

    def of_bias(bias):
        return loss({**params, last: {**params[last], "bias": bias}})

    @jax.jit
    def derivatives(bias):
        first = jax.jacfwd(of_bias)(bias), jax.jacrev(of_bias)(bias)
        return first, jax.hessian(of_bias)(bias)

    (forward, reverse), hessian = derivatives(params[last]["bias"])
    np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-4, atol=1e-7)
    assert np.abs(hessian).max() > 0


def test_one_exported_program_for_all_platforms():
    """The gradient, lowered once for CPUs, GPUs and TPUs, is right on this platform."""
    loss, params, _ = problem(MAPS)
    gradient = jax.jit(jax.grad(loss))
    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(params)
    text = exported.mlir_module()
    for operation in ("optimization_barrier", "select_and_scatter"):
        assert operation in text  # the form for CPUs, and the definition
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        exported.call(params),
        gradient(params),
    )
