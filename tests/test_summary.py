"""The summary of a net, compared with the net itself and with the papers."""

import io
import math

import counts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import trace
from rich.console import Console

from alexvgg_jax.models import MODELS, build, summary


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_of_the_net(name):
    """AlexNet §3.5, VGG Table 2, One weird trick: exact numbers of parameters."""
    net = build(name)
    costs, params = summary.costs(net), net.param_shapes()
    assert {cost.name: cost.shape for cost in costs} == trace(net, train=False)
    for cost in costs:
        leaves = jax.tree.leaves(params.get(cost.name, {}))
        assert cost.parameters == sum(leaf.size for leaf in leaves)
        assert cost.activation_bytes == 4 * math.prod(cost.shape)
    if name in counts.PARAMETERS:
        assert sum(cost.parameters for cost in costs) == counts.PARAMETERS[name]


def test_a_dense_head_costs_more_for_a_larger_image():
    """VGG §3.2: the parameters stay, and fc6 is computed at 2x2 positions of 256."""
    net = build("vgg-d", head="dense")
    costs, larger = (
        {cost.name: cost for cost in summary.costs(net, size)} for size in (None, 256)
    )
    assert larger["fc6"].shape == (2, 2, 4096)
    assert larger["fc6"].parameters == costs["fc6"].parameters
    assert larger["fc6"].multiply_adds == 4 * costs["fc6"].multiply_adds
    assert larger["average"].receptive_field == 256


def multiply_adds_of(net):
    return {cost.name: cost.multiply_adds for cost in summary.costs(net)}


def test_multiply_adds_of_alexnet():
    """AlexNet §3.5: layer by layer; with two groups a kernel sees half the maps."""
    multiply_adds = {
        c.name: c.multiply_adds for c in summary.costs(build("alexnet-paper"))
    }
    assert {name: count for name, count in multiply_adds.items() if count} == {
        "conv1": 55 * 55 * 96 * 11 * 11 * 3,
        "conv2": 27 * 27 * 256 * 5 * 5 * 48,
        "conv3": 13 * 13 * 384 * 3 * 3 * 256,
        "conv4": 13 * 13 * 384 * 3 * 3 * 192,
        "conv5": 13 * 13 * 256 * 3 * 3 * 192,
        "fc6": 6 * 6 * 256 * 4096,
        "fc7": 4096 * 4096,
        "fc8": 4096 * 1000,
    }
    assert sum(multiply_adds.values()) == 724_406_816


def test_multiply_adds_of_local_layers():
    """cuda-convnet 11pct: as many as a convolution's, with separate kernels."""
    multiply_adds = {
        c.name: c.multiply_adds for c in summary.costs(build("cifar-11pct"))
    }
    assert multiply_adds["local3"] == 6 * 6 * 64 * 3 * 3 * 64
    assert multiply_adds["local4"] == 6 * 6 * 32 * 3 * 3 * 64
    assert multiply_adds["fc10"] == 6 * 6 * 32 * 10


def test_multiply_adds_of_towers_apart():
    """AlexNet §3.2: each unit of fc6 and fc7 sees its own tower only."""
    net = build("alexnet-paper", towers="apart")
    multiply_adds = multiply_adds_of(net)
    assert multiply_adds["fc6"] == 2 * (6 * 6 * 128) * 4096
    assert multiply_adds["fc7"] == 2 * 4096 * 2048
    assert multiply_adds["fc8"] == 4096 * 1000


def test_multiply_adds_of_vgg():
    """VGG Table 1: column D."""
    costs = summary.costs(build("vgg-d"))
    assert sum(cost.multiply_adds for cost in costs) == 15_470_264_320


@pytest.mark.parametrize(
    "name, layer, pixels",
    [
        ("vgg-d", "conv1_2", 5),
        ("vgg-d", "conv5_3", 196),
        ("vgg-d", "pool5", 212),
        ("vgg-d", "fc6", 224),
        ("vgg-d", "fc8", 224),
        ("alexnet-paper", "conv1", 11),
        ("alexnet-paper", "norm1", 11),
        ("alexnet-paper", "pool1", 19),
        ("alexnet-paper", "pool5", 195),
        ("alexnet-paper", "fc6", 224),
    ],
)
def test_receptive_fields(name, layer, pixels):
    fields = {cost.name: cost.receptive_field for cost in summary.costs(build(name))}
    assert fields[layer] == pixels


def test_three_small_kernels_see_what_a_large_one_sees():
    """VGG §2.3: two 3x3 convolutions see 5x5 pixels, three see 7x7."""
    costs = {cost.name: cost for cost in summary.costs(build("vgg-d"))}
    seen_by_pool2 = costs["pool2"].receptive_field
    for i, kernel in enumerate((3, 5, 7), start=1):
        more = costs[f"conv3_{i}"].receptive_field - seen_by_pool2
        assert more == (kernel - 1) * 4  # pixels of the image between those of pool2


@pytest.mark.parametrize(
    "name, layers, switches",
    [
        ("alexnet-paper", "conv1 pool5", {"width": 1 / 4}),
        ("alexnet-paper", "pool5", {"width": 1 / 4, "pooling": (2, 2)}),
        ("alexnet-source", "spatial2", {"width": 1 / 4}),
        ("alexnet-caffenet", "pool5", {"width": 1 / 4}),
        ("alexnet-owt", "pool5", {}),
        ("vgg-a", "pool5", {"width": 1 / 16}),
        ("vgg-b-5x5", "pool5", {"width": 1 / 16}),
        ("vgg-e", "conv5_4", {"width": 1 / 16}),
        ("cifar-80sec", "pool3", {}),
        ("cifar-18pct", "pool3", {}),
        ("cifar-11pct", "local4", {}),
    ],
)
def test_gradient_touches_the_receptive_field(name, layers, switches):
    """AlexNet §3.4, VGG §2.3: pixels that one output sees, measured from gradients."""
    for layer in layers.split():
        assert_field_is_touched(name, layer, switches)


def assert_field_is_touched(name, layer, switches):
    """In an image so large that the middle output sees no border."""
    costs = summary.costs(build(name, image_size=600, **switches))
    (field,) = (cost.receptive_field for cost in costs if cost.name == layer)
    net = build(name, image_size=max(field + min(80, field), 64), **switches)
    top, left = (n // 2 for n in net.shapes()[layer][:2])
    rng = np.random.default_rng(0)
    last = list(net.shapes()).index(layer)
    params, images = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        (
            {
                layer.name: net.param_shapes().get(layer.name, {})
                for layer in net.layers()[: last + 1]
            },
            jax.ShapeDtypeStruct((2, *net.input_shape), jnp.float32),
        ),
    )

    @jax.jit
    @jax.grad
    def gradient(images, params):
        output, _ = net.apply(params, images, train=False, until=layer)
        return output[:, top, left].sum()

    touched = np.asarray(gradient(images, params)) != 0
    for axes in ((0, 2, 3), (0, 1, 3)):
        (pixels,) = np.nonzero(touched.any(axis=axes))
        assert pixels[-1] - pixels[0] + 1 == len(pixels) == field


def test_table_has_every_layer_and_the_totals():
    net = build("alexnet-paper")
    out = io.StringIO()
    Console(file=out, width=120).print(summary.table("alexnet-paper", net))
    printed = {
        line.split()[0]: line.split()[1:]
        for line in out.getvalue().split("\n")
        if line.strip()
    }
    assert "alexnet-paper, one image of 224x224x3" in out.getvalue()
    assert printed.keys() >= {"layer", "total", *net.shapes()}
    assert printed["conv1"] == ["55x55x96", "34,944", "105,415,200", "1,161,600", "11"]
    assert printed["pool5"] == ["6x6x256", "36,864", "195"]
    activations = 4 * sum(math.prod(shape) for shape in net.shapes().values())
    assert printed["total"] == ["60,965,224", "724,406,816", f"{activations:,}"]
