"""What the summary says of a net, against the net itself and the papers."""

import dataclasses
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from alexvgg_jax import paper
from alexvgg_jax.models import MODELS, build, summary


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_nets(name):
    net = build(name)
    params = jax.eval_shape(net.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32)
    _, features = jax.eval_shape(
        lambda params, images: net.apply(params, images, train=False), params, images
    )
    rows = summary.rows(net)
    assert [row.name for row in rows] == list(net.shapes())
    assert {row.name: (1, *row.shape) for row in rows} == {
        layer: value.shape for layer, value in features.items()
    }
    for row in rows:
        leaves = jax.tree.leaves(params.get(row.name, {}))
        assert row.parameters == sum(leaf.size for leaf in leaves)
        assert row.activation_bytes == 4 * math.prod(row.shape)


@pytest.mark.parametrize("name", paper.PARAMETERS)
def test_sum_of_parameters(name):
    """AlexNet §3.5, VGG Table 2, One weird trick: exact numbers of parameters."""
    parameters = sum(row.parameters for row in summary.rows(build(name)))
    assert parameters == paper.PARAMETERS[name]


def test_multiply_adds_of_alexnet():
    """AlexNet §3.5: layer by layer; with two groups a kernel sees half the maps."""
    found = {r.name: r.multiply_adds for r in summary.rows(build("alexnet-paper"))}
    assert {name: count for name, count in found.items() if count} == {
        "conv1": 55 * 55 * 96 * 11 * 11 * 3,
        "conv2": 27 * 27 * 256 * 5 * 5 * 48,
        "conv3": 13 * 13 * 384 * 3 * 3 * 256,
        "conv4": 13 * 13 * 384 * 3 * 3 * 192,
        "conv5": 13 * 13 * 256 * 3 * 3 * 192,
        "fc6": 6 * 6 * 256 * 4096,
        "fc7": 4096 * 4096,
        "fc8": 4096 * 1000,
    }
    assert sum(found.values()) == 724_406_816


def test_multiply_adds_of_local_layers():
    """cuda-convnet 11pct: as many as a convolution's, with kernels of their own."""
    found = {r.name: r.multiply_adds for r in summary.rows(build("cifar-11pct"))}
    assert found["local3"] == 6 * 6 * 64 * 3 * 3 * 64
    assert found["local4"] == 6 * 6 * 32 * 3 * 3 * 64
    assert found["fc10"] == 6 * 6 * 32 * 10


def test_multiply_adds_of_towers_apart():
    """AlexNet §3.2: each unit of fc6 and fc7 sees its own tower only."""
    net = build("alexnet-paper", towers="apart")
    found = {row.name: row.multiply_adds for row in summary.rows(net)}
    assert found["fc6"] == 2 * (6 * 6 * 128) * 4096
    assert found["fc7"] == 2 * 4096 * 2048
    assert found["fc8"] == 4096 * 1000


def test_multiply_adds_of_vgg():
    """VGG Table 1: column D."""
    found = summary.rows(build("vgg-d"))
    assert sum(row.multiply_adds for row in found) == 15_470_264_320


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
    fields = {row.name: row.receptive_field for row in summary.rows(build(name))}
    assert fields[layer] == pixels


def test_three_small_kernels_see_what_a_large_one_sees():
    """VGG §2.3: two 3x3 convolutions see 5x5 pixels, three see 7x7."""
    rows = {row.name: row for row in summary.rows(build("vgg-d"))}
    seen_by_pool2 = rows["pool2"].receptive_field
    for i, kernel in enumerate((3, 5, 7), start=1):
        more = rows[f"conv3_{i}"].receptive_field - seen_by_pool2
        assert more == (kernel - 1) * 4  # pixels of the image between those of pool2


@pytest.mark.parametrize(
    "name, layers, switches",
    [
        ("alexnet-paper", "conv1 pool2 pool5", {}),
        ("alexnet-paper", "pool2 pool5", {"pooling": "2/2"}),
        ("alexnet-source", "spatial2 pool5", {}),
        ("alexnet-caffe", "pool5", {}),
        ("alexnet-caffenet", "pool5", {}),
        ("alexnet-owt", "pool5", {}),
        ("vgg-a", "conv3_2 pool5", {"width": 1 / 16}),
        ("vgg-b", "pool5", {"width": 1 / 16}),
        ("vgg-b-5x5", "pool5", {"width": 1 / 16}),
        ("vgg-c", "pool5", {"width": 1 / 16}),
        ("vgg-d", "pool5", {"width": 1 / 16}),
        ("vgg-e", "conv5_4", {"width": 1 / 16}),
        ("cifar-80sec", "conv1 pool2 pool3", {}),
        ("cifar-18pct", "norm2 pool3", {}),
        ("cifar-13pct", "local4", {}),
        ("cifar-11pct", "norm2 local4", {}),
    ],
)
def test_gradient_touches_the_receptive_field(name, layers, switches):
    """AlexNet §3.4, VGG §2.3: pixels that one output sees, measured from gradients."""
    for layer in layers.split():
        assert_field_is_touched(name, layer, switches)


def assert_field_is_touched(name, layer, switches):
    """Of an image so large that the middle output sees no border."""
    whole = summary.rows(build(name, image_size=600, **switches))
    (field,) = (row.receptive_field for row in whole if row.name == layer)
    net = build(name, image_size=max(field + min(80, field), 64), **switches)
    (row,) = (row for row in summary.rows(net) if row.name == layer)
    rows = net.rows[: list(net.shapes()).index(layer) + 1]
    net = dataclasses.replace(net, rows=rows)
    rng = np.random.default_rng(0)
    params, images = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        (
            jax.eval_shape(net.init, jax.random.key(0)),
            jax.ShapeDtypeStruct((2, *net.input_shape), jnp.float32),
        ),
    )
    top, left = (n // 2 for n in row.shape[:2])

    @jax.jit
    @jax.grad
    def slopes(images, params):
        reached, _ = net.apply(params, images, train=False)
        return reached[:, top, left].sum()

    touched = np.asarray(slopes(images, params)) != 0
    for axes in ((0, 2, 3), (0, 1, 3)):
        (pixels,) = np.nonzero(touched.any(axis=axes))
        assert pixels[-1] - pixels[0] + 1 == len(pixels) == row.receptive_field


def test_table_has_every_layer_and_the_totals():
    net = build("alexnet-paper")
    out = io.StringIO()
    Console(file=out, width=120).print(summary.table(net))
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
