"""The distributions from which every net draws its first parameters."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nets import stack

from alexvgg_jax.models import MODELS, build
from alexvgg_jax.models.layers import Conv, Dense, Local, Weighted, draw_kernel
from alexvgg_jax.recipes import RECIPES

KEY = jax.random.key(0)
BIASED = {"conv2", "conv4", "conv5", "fc6", "fc7"}  # AlexNet §5


def weighted(net):
    return {x.name: x for x in net.layers() if isinstance(x, Weighted)}


def assert_normal(kernel, deviation):
    """N(0, deviation^2), not truncated, to five standard errors."""
    kernel, n = np.asarray(kernel), kernel.size
    assert abs(np.mean(kernel)) < 5 * deviation / math.sqrt(n)
    assert abs(np.std(kernel) / deviation - 1) < 5 / math.sqrt(2 * n)
    beyond = 0.0455  # of a normal distribution, more than two deviations out
    share = np.mean(np.abs(kernel) > 2 * deviation)
    assert abs(share - beyond) < 5 * math.sqrt(beyond / n)


def test_the_distributions():
    """AlexNet §5, VGG §3.1: zero-mean normal weights, Glorot's uniform, constant
    biases."""
    net = stack(
        Conv("conv", 64, 3, pad=1, init="glorot"),
        Local("local", 8, 3, pad=1, init=0.04, bias_init=1.0),
        Dense("fc", 100, init=0.01, bias_init=0.1),
        image_size=5,
    )
    params = net.init(KEY)
    assert_glorot(params["conv"]["kernel"])
    assert_normal(params["local"]["kernel"], 0.04)
    assert_normal(params["fc"]["kernel"], 0.01)
    for name, bias in (("conv", 0.0), ("local", 1.0), ("fc", 0.1)):
        assert np.all(params[name]["bias"] == np.float32(bias))


def assert_glorot(kernel):
    *window, inputs, outputs = kernel.shape
    bound = math.sqrt(6 / (math.prod(window) * (inputs + outputs)))
    assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
    assert abs(np.std(kernel) * math.sqrt(3) / bound - 1) < 5 / kernel.size**0.5


@pytest.mark.parametrize(
    "name, middle, hidden, bias",
    [
        ("alexnet-paper", 0.01, 0.01, 1.0),
        ("alexnet-source", 0.03, 0.01, 1.0),  # layers-145.cfg
        ("alexnet-caffe", 0.01, 0.005, 0.1),
        ("alexnet-caffenet", 0.01, 0.005, 1.0),
    ],
)
def test_alexnet_variants(name, middle, hidden, bias):
    """AlexNet §5 biases: the paper's, and those of the program and of Caffe."""
    layers = weighted(build(name))
    assert {name: layer.init for name, layer in layers.items()} == {
        **dict.fromkeys(("conv1", "conv2", "fc8"), 0.01),
        **dict.fromkeys(("conv3", "conv4", "conv5"), middle),
        **dict.fromkeys(("fc6", "fc7"), hidden),
    }
    biases = {name: layer.bias_init for name, layer in layers.items()}
    assert biases == {name: bias if name in BIASED else 0 for name in layers}


def test_one_weird_trick():
    """One weird trick: N(0, 0.01^2) and biases of zero in every layer."""
    layers = weighted(build("alexnet-owt")).values()
    assert {(layer.init, layer.bias_init) for layer in layers} == {(0.01, 0.0)}


@pytest.mark.parametrize("name", [name for name in MODELS if "vgg" in name])
@pytest.mark.parametrize(
    ("switches", "init"),
    [
        ({}, "glorot"),  # no pre-training needed
        ({"head": "gap"}, "glorot"),
        ({"head": "dense", "weight_init": "he"}, "he"),
        ({"weight_init": "variance"}, 0.1),  # "zero mean and 10^-2 variance"
        ({"weight_init": "deviation"}, 0.01),
    ],
)
def test_vgg(name, switches, init):
    """VGG §3.1, and biases 0."""
    layers = weighted(build(name, **switches)).values()
    assert {(layer.init, layer.bias_init) for layer in layers} == {(init, 0.0)}


def test_a_narrow_vgg_passes_on_as_much():
    """VGG §3.1: a quarter of the inputs, twice the deviation."""
    for weight_init, init in (("deviation", 0.02), ("variance", 0.2), ("he", "he")):
        layers = weighted(build("vgg-a", width=1 / 4, weight_init=weight_init))
        assert {layer.init for layer in layers.values()} == {init}


@pytest.mark.parametrize("name", ["vgg-d", "vgg-e"])
def test_the_logits_of_a_new_vgg(name):
    """VGG §3.1: the variance as stated makes them large; as a deviation it makes them
    vanish. Both at an eighth of the width."""
    logits, net = {}, build(name, image_size=32, width=1 / 8)
    images = 60 * jax.random.normal(KEY, (2, 32, 32, 3))
    apply = jax.jit(functools.partial(net.apply, train=False))
    for weight_init in ("glorot", "he", "variance", "deviation"):
        scores, _ = apply(replace(net, weight_init=weight_init).init(KEY), images)
        logits[weight_init] = float(jnp.abs(scores).max())
    assert 1e-2 < logits["glorot"] < 1
    assert logits["he"] < 1e3 < logits["variance"]
    assert logits["deviation"] < 1e-5


@pytest.mark.parametrize("name", ["photos-alexnet", "photos-vgg"])
def test_the_recipes_for_photographs_start_from_guessing(name):
    """A loss far above ln(10) makes steps too large, and logits of 0 have no signal."""
    net = replace(RECIPES[name].run.net, classes=10, image_size=64)
    images = 60 * jax.random.normal(KEY, (8, 64, 64, 3))
    logits, _ = jax.jit(functools.partial(net.apply, train=False))(
        net.init(KEY), images
    )
    assert 0.05 < logits.std() < 3


@pytest.mark.parametrize("init", ["glorot", "he"])
def test_alexnet_drawn_by_another_rule(init):
    """Every weight, and the same biases."""
    net = build("alexnet-paper", weight_init=init)
    layers = weighted(net)
    assert {layer.init for layer in layers.values()} == {init}
    assert layers["conv2"].bias_init == 1.0


@pytest.mark.parametrize(
    ("init", "flax"),
    [
        (0.01, nn.initializers.normal(0.01)),
        ("glorot", nn.initializers.glorot_uniform()),
        ("he", nn.initializers.variance_scaling(2.0, "fan_in", "normal")),
    ],
)
@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 2, 4)])
def test_kernels_are_drawn_as_flax_draws_them(init, flax, shape):
    """The same numbers from the same key, up to rounding."""
    drawn = draw_kernel(init, KEY, shape, jnp.float32)
    np.testing.assert_allclose(drawn, flax(KEY, shape, jnp.float32), rtol=1e-6)


FOUR_LAYERS = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}
LOCAL = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}


@pytest.mark.parametrize(
    "name, deviations",
    [
        (
            "cifar-80sec",
            {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
        ),
        *((name, FOUR_LAYERS) for name in ("cifar-19pct", "cifar-18pct")),
        *((name, LOCAL) for name in ("cifar-13pct", "cifar-11pct")),
    ],
)
def test_cifar(name, deviations):
    """cuda-convnet 80sec, AlexNet §3.1, cuda-convnet 19pct, cuda-convnet 18pct,
    cuda-convnet 13pct, cuda-convnet 11pct: as in their files."""
    layers = weighted(build(name))
    assert {name: layer.init for name, layer in layers.items()} == deviations
    assert {layer.bias_init for layer in layers.values()} == {0.0}


def test_the_key_decides_the_parameters():
    init = jax.jit(stack(Conv("conv", 4), Dense("fc", 10), image_size=5).init)
    first, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for name in first:
        assert np.any(first[name]["kernel"] != other[name]["kernel"])
