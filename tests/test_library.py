"""Nets inside other people's programs."""

import contextlib
import copy
import functools
import multiprocessing
import operator
import pickle
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from nets import random_params, stack

from alexvgg_jax.data.decode import BadImages
from alexvgg_jax.errors import Diverged, InputError, Stopped
from alexvgg_jax.models import build
from alexvgg_jax.models.layers import LRN, Activation, Conv, Dense, Local, Pool

NET = stack(
    Conv("conv1", 8),
    Activation("relu1", "relu"),
    LRN("norm1", alpha=0.1),
    Pool("pool1"),
    Local("local2", 4, pad=1),
    LRN("norm2", size=3, alpha=0.1, over="pixels"),
    Pool("pool2", kind="average"),
    Dense("fc3", 3),
    image_size=12,
)
IMAGES = jnp.asarray(
    np.random.default_rng(0).normal(0, 60, (4, *NET.input_shape)), jnp.float32
)


@functools.cache
def params():
    return random_params(NET)


def loss(params, images):
    logits, _ = NET.apply(params, images, train=False)
    return (logits**2).mean()


GRADIENT = jax.jit(jax.grad(loss))


def assert_close(left, right):
    for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", ["alexnet-paper", "vgg-d", "cifar-11pct"])
def test_nets_are_values(name):
    net = build(name)
    same = pickle.loads(pickle.dumps(net))
    assert same == copy.copy(net) == copy.deepcopy(net) == net
    assert hash(same) == hash(net)
    assert pickle.loads(pickle.dumps(net.module())) == net.module()


def test_nets_and_errors_go_to_other_processes():
    """That are started anew, as on Windows and in PyTorch's loaders."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(operator.attrgetter("classes"), build("vgg-a")).result()
    for error in (Diverged("NaN", 3), Stopped("end", 4), InputError("bad")):
        copied = pickle.loads(pickle.dumps(error))
        assert str(copied) == str(error)
        assert copied.__dict__ == error.__dict__
    bad = pickle.loads(pickle.dumps(BadImages([InputError("a.png: bad")])))
    assert str(bad).startswith("a.png: bad (") and len(bad.errors) == 1


def test_numpy_numbers_as_switches(unchecked):
    net = build("alexnet-small", classes=np.int64(7), width=np.float32(0.25))
    assert net == build("alexnet-small", classes=7, width=0.25)
    with pytest.raises(InputError, match="classes 7.0: a whole number"):
        build("alexnet-small", classes=np.float32(7))


@pytest.mark.parametrize(
    ("usual", "ours"),
    [
        ("vgg16", "here it is .*vgg-d"),
        ("vgg19", "here it is .*vgg-e"),
        ("alexnet", "here it is .*paper"),
        ("AlexNet", "here it is .*paper"),
        ("vgg-16", "here it is .*vgg-d"),
        ("VGG_16", "here it is .*vgg-d"),
        ("vgg11_bn", "vgg-a'; .*folds its batch normalisation"),
        ("VGG-D", "perhaps 'vgg-d'"),
        (16, "choose from"),
        (None, "choose from"),
    ],
)
def test_the_usual_names_are_answered(usual, ours, unchecked):
    with pytest.raises(InputError, match=f"{usual}.*{ours}"):
        build(usual)


def test_float64_images_of_numpy_are_float32():
    """Warnings are errors here; jax has one for a conversion to float64."""
    logits, _ = NET.apply(params(), np.asarray(IMAGES, np.float64), train=False)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, NET.apply(params(), IMAGES, train=False)[0])


def test_float64_images_are_computed_in_float64():
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: leaf.astype(np.float64), params())
        image = jnp.asarray(IMAGES, np.float64)
        wide = (image, image + 1e-9)
        (first, features), (second, _) = (
            NET.apply(double, images, train=False) for images in wide
        )
        assert {value.dtype for value in features.values()} == {np.dtype(np.float64)}
        assert 0 < np.abs(first - second).max() < 1e-6  # lost in float32
    assert_close(first, NET.apply(params(), IMAGES, train=False)[0])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_gradients_on_a_mesh(kind):
    """`jax.make_mesh` makes explicit axes."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    whole = jax.device_put(params(), NamedSharding(mesh, P()))
    images = jax.device_put(IMAGES, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        gradients = GRADIENT(whole, images)
    assert_close(gradients, GRADIENT(params(), IMAGES))


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_on_explicit_axes_without_jit(inside):
    net = stack(*NET.layers()[:4], Dense("fc2", 3), image_size=12)  # has a Conv
    values = random_params(net)

    def loss(params, images):
        return net.apply(params, images, train=False)[0].mean()

    # Outside `set_mesh`, JAX differentiates nothing on more than one device.
    mesh = jax.make_mesh((1 + inside,), ("data",), axis_types=(AxisType.Explicit,))
    whole = jax.device_put(values, NamedSharding(mesh, P()))
    images = jax.device_put(IMAGES, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
        gradients = jax.grad(loss)(whole, images)
    assert_close(gradients, jax.jit(jax.grad(loss))(values, IMAGES))


@pytest.mark.parametrize(
    "name", ["alexnet-paper", "alexnet-owt", "vgg-a", "cifar-80sec", "cifar-11pct"]
)
def test_nets_can_be_differentiated_on_explicit_axes(name):
    net = build(name, classes=3)

    def loss(params, images):
        return net.apply(params, images, train=False)[0].mean()

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        net.param_shapes(),
    )
    images = jax.ShapeDtypeStruct((2, *net.input_shape), np.float32, sharding=split)
    gradients = jax.eval_shape(jax.grad(loss), params, images)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, params)


def test_a_program_for_any_batch():
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *NET.input_shape), np.float32)
    slope = jax.jit(jax.value_and_grad(loss))
    program = export.export(slope)(params(), images)
    for count in (1, 4):
        expected = slope(params(), IMAGES[:count])
        assert_close(program.call(params(), IMAGES[:count]), expected)


def test_without_jit():
    with jax.disable_jit():
        gradients = jax.grad(loss)(params(), IMAGES)
    assert_close(gradients, GRADIENT(params(), IMAGES))
