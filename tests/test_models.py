"""Whole networks: the papers' counts and shapes, and ONNX graphs of the same nets."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from alexvgg_jax import paper
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, Model, build
from alexvgg_jax.models.layers import Conv, Dense, Dropout

KEY = jax.random.key(0)


def counted(name, **switches):
    """Shapes of the parameters, without drawing them."""
    return jax.eval_shape(build(name, **switches).init, KEY)


def traced(net, size=None, **how):
    """The features' shapes in their own order, without computing them."""
    size = net.image_size if size is None else size
    shapes = {}

    def record(params, images):
        logits, features = net.apply(params, images, **how)
        shapes.update((name, value.shape[1:]) for name, value in features.items())
        return logits

    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    jax.eval_shape(record, jax.eval_shape(net.init, KEY), images)
    return shapes


def weights(net):
    """Random parameters that keep the size of activations; biases N(0, 2^2)."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        deviation = math.sqrt(2 / math.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 2
        return np.float32(deviation) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, jax.eval_shape(net.init, KEY))


@pytest.mark.parametrize("name", paper.PARAMETERS)
def test_parameters(name):
    """AlexNet §3.5, VGG Table 2, cuda-convnet 80sec: exact numbers of parameters."""
    leaves = jax.tree.leaves(counted(name))
    assert sum(leaf.size for leaf in leaves) == paper.PARAMETERS[name]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_parameters_of_figure_1():
    """AlexNet §3.1: three convolutions and one layer of ten, `layers-19pct.cfg`."""
    assert sum(leaf.size for leaf in jax.tree.leaves(counted("figure1"))) == 89_578


@pytest.mark.parametrize("column", paper.VGG_PARAMETERS_MILLIONS)
def test_parameters_in_millions(column):
    """VGG Table 2: 133 to 144 million parameters."""
    leaves = jax.tree.leaves(counted(f"vgg-{column.lower()}"))
    millions = round(sum(leaf.size for leaf in leaves) / 1e6)
    assert millions == paper.VGG_PARAMETERS_MILLIONS[column]


@pytest.mark.parametrize("column", ["A", "A-LRN", "B", "C", "D", "E"])
def test_weight_layers(column):
    """VGG Table 1: 11 to 19 weight layers, named by block."""
    params = counted(f"vgg-{column.lower()}")
    published = paper.claim("VGG Table 1").published
    assert len(params) == published[f"{column}, weight layers"]
    assert {"conv1_1", "conv5_2", "fc6", "fc7", "fc8"} <= params.keys()


def test_one_by_one_convolutions():
    """VGG Table 1: C's third convolutions in blocks 3 to 5 are 1x1, D's 3x3."""
    c, d = counted("vgg-c"), counted("vgg-d")
    assert c.keys() == d.keys()
    for name in c.keys() - {"fc6", "fc7", "fc8"}:
        small = name in ("conv3_3", "conv4_3", "conv5_3")
        assert c[name]["kernel"].shape[:2] == ((1, 1) if small else (3, 3))
        assert d[name]["kernel"].shape[:2] == (3, 3)


@pytest.mark.parametrize("size", [224, 227])
def test_alexnet_shapes(size):
    """AlexNet §3.5: figure 2's maps, of a 224 image and of one with 3 zeros more."""
    net = build("alexnet-paper", image_size=size)
    features = traced(net, train=False)
    assert features == net.shapes()
    assert paper.ALEXNET_SHAPES.items() <= features.items()


def test_alexnet_neurons():
    """AlexNet §3.5: 650,000 neurons, with 55 x 55 x 96 in conv1."""
    shapes = build("alexnet-paper").shapes()
    neurons = {name: math.prod(shapes[name]) for name in paper.ALEXNET_NEURONS}
    assert neurons == paper.ALEXNET_NEURONS | {"conv1": 290_400}
    assert sum(neurons.values()) == 659_272


ALEXNET_LAYERS = """
    conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2
    conv3 relu3 conv4 relu4 conv5 relu5 pool5
    fc6 relu6 drop6 fc7 relu7 drop7 fc8
"""
VGG_A_LRN_LAYERS = """
    conv1_1 relu1_1 norm1_1 pool1 conv2_1 relu2_1 pool2
    conv3_1 relu3_1 conv3_2 relu3_2 pool3 conv4_1 relu4_1 conv4_2 relu4_2 pool4
    conv5_1 relu5_1 conv5_2 relu5_2 pool5
    fc6 relu6 drop6 fc7 relu7 drop7 fc8
"""
CIFAR_LAYERS = """
    conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 pool3 fc64 relu4 fc10
"""


@pytest.mark.parametrize(
    "name, layers",
    [
        ("alexnet-paper", ALEXNET_LAYERS),
        ("vgg-a-lrn", VGG_A_LRN_LAYERS),
        ("cifar-80sec", CIFAR_LAYERS),
    ],
)
@pytest.mark.parametrize("how", [{"train": False}, {"train": True, "key": KEY}])
def test_features_in_order(name, layers, how):
    net = build(name)
    assert list(traced(net, **how)) == list(net.shapes()) == layers.split()


def test_tanh_instead_of_relu():
    """AlexNet §3.1: the same net, its layers renamed and its values changed."""
    relu, tanh = build("figure1"), build("figure1", activation="tanh")
    assert [name.replace("tanh", "relu") for name in tanh.shapes()] == [*relu.shapes()]
    images = np.random.default_rng(1).standard_normal((2, 32, 32, 3), np.float32)
    by_relu, by_tanh = (
        jax.jit(functools.partial(net.apply, train=False))(weights(relu), images)[1]
        for net in (relu, tanh)
    )
    conv1 = by_relu["conv1"]
    np.testing.assert_array_equal(by_relu["relu1"], np.maximum(0, conv1))
    np.testing.assert_allclose(by_tanh["tanh1"], np.tanh(conv1), rtol=1e-4, atol=1e-6)
    assert np.any(by_relu["fc10"] != by_tanh["fc10"])


def test_classes():
    for name in MODELS:
        assert build(name, classes=7).shapes().popitem()[1] == (7,)


# Initialisation


def assert_normal(kernel, deviation):
    """N(0, deviation^2), not truncated, to five standard errors."""
    kernel, n = np.asarray(kernel), kernel.size
    assert abs(np.mean(kernel)) < 5 * deviation / math.sqrt(n)
    assert abs(np.std(kernel) / deviation - 1) < 5 / math.sqrt(2 * n)
    beyond = 0.0455  # of a normal distribution, more than two deviations out
    share = np.mean(np.abs(kernel) > 2 * deviation)
    assert abs(share - beyond) < 5 * math.sqrt(beyond / n)


def narrow(name, size, **switches):
    """The net with 64 units in fc6, which spares fc7 most of its 4096 x 4096."""
    net = build(name, image_size=size, classes=10, **switches)
    rows = [
        dataclasses.replace(row, features=64) if row.name == "fc6" else row
        for row in net.rows
    ]
    return dataclasses.replace(net, rows=tuple(rows))


def test_alexnet_initialisation():
    """AlexNet §5 biases: N(0, 0.01^2); ones in conv2, 4, 5 and the hidden layers."""
    params = jax.jit(narrow("alexnet-paper", 52).init)(KEY)
    for name, layer in params.items():
        assert_normal(layer["kernel"], 0.01)
        ones = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
        assert np.all(layer["bias"] == (1 if ones else 0)), name


def test_vgg_initialisation():
    """VGG §3.1: N(0, variance 1e-2), biases 0."""
    for layer in jax.jit(narrow("vgg-a", 17).init)(KEY).values():
        assert_normal(layer["kernel"], 0.1)
        assert np.all(layer["bias"] == 0)


def test_glorot_initialisation():
    """VGG §3.1: the switch that makes pre-training unnecessary, in every layer."""
    net = build("vgg-a", init="glorot")
    drawn = [row for row in net.rows if isinstance(row, Conv | Dense)]
    assert {row.init for row in drawn} == {"glorot"}
    stem = dataclasses.replace(net, rows=(drawn[0], drawn[-1]), image_size=5)
    for layer in stem.init(KEY).values():
        kernel = np.asarray(layer["kernel"])
        *window, ins, outs = kernel.shape
        bound = math.sqrt(6 / (math.prod(window) * (ins + outs)))
        assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
        assert abs(np.std(kernel) * math.sqrt(3) / bound - 1) < 5 / kernel.size**0.5
        assert np.all(layer["bias"] == 0)


@pytest.mark.parametrize(
    "name, deviations",
    [
        (
            "cifar-80sec",
            {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
        ),
        ("figure1", {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}),
    ],
)
def test_cifar_initialisation(name, deviations):
    """cuda-convnet 80sec, AlexNet §3.1: `layers-80sec.cfg`, `layers-19pct.cfg`."""
    params = build(name).init(KEY)
    assert params.keys() == deviations.keys()
    for layer, deviation in deviations.items():
        assert_normal(params[layer]["kernel"], deviation)
        assert np.all(params[layer]["bias"] == 0)


def test_parameters_are_the_keys():
    net = build("cifar-80sec")
    first, again, other = (net.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for name in first:
        assert np.any(first[name]["kernel"] != other[name]["kernel"])


# Dropout


def test_dropout_masks_differ_from_layer_to_layer():
    """AlexNet §4.2: with one mask for both, drop7 would lose nothing more."""
    rows = (Dense("fc", 4000), Dropout("drop6"), Dropout("drop7"))
    net = Model("two dropouts", rows, image_size=1)
    images = jnp.ones((1, 1, 1, 3))
    _, features = net.apply(net.init(KEY), images, train=True, key=KEY)
    kept = [np.mean(features[name] != 0) for name in ("drop6", "drop7")]
    np.testing.assert_allclose(kept, [0.5, 0.25], atol=0.05)


@pytest.mark.parametrize("name", ["alexnet-paper", "vgg-d"])
def test_training_needs_a_key(name):
    """AlexNet §4.2, VGG §3.1: dropout after the first two fully-connected layers."""
    with pytest.raises(InputError, match="drop6.*key="):
        traced(build(name), train=True)


@pytest.mark.parametrize("name", ["cifar-80sec", "figure1"])
def test_nets_without_dropout_train_without_a_key(name):
    assert traced(build(name), train=True) == build(name).shapes()


def test_inverted_dropout_only_in_vgg():
    """AlexNet §4.2 multiplies by 0.5 in tests; VGG §3.1 follows Caffe, which does not.

    Seen from the rows: whole nets, in test mode, are compared with ONNX below.
    """
    for name, inverted in (("alexnet-paper", False), ("vgg-d", True)):
        drops = [row for row in build(name).rows if isinstance(row, Dropout)]
        assert [(d.rate, d.inverted) for d in drops] == [(0.5, inverted)] * 2


# Bad input


def test_unknown_model():
    with pytest.raises(InputError, match="'vgg-f'; perhaps 'vgg-"):
        build("vgg-f")
    with pytest.raises(InputError, match="'zzz'; choose from alexnet-paper, .*figure1"):
        build("zzz")


def test_unknown_switch():
    with pytest.raises(InputError, match="vgg-d: .*'drop_out'; perhaps 'dropout'"):
        build("vgg-d", drop_out=0.1)
    with pytest.raises(InputError, match="cifar-80sec: .*'dropout'; choose from class"):
        build("cifar-80sec", dropout=0.1)


@pytest.mark.parametrize(
    "name, smallest, layer",
    [("alexnet-paper", 52, "pool5"), ("vgg-e", 17, "pool5"), ("figure1", 12, "pool3")],
)
def test_too_small_image(name, smallest, layer):
    build(name, image_size=smallest)
    with pytest.raises(InputError, match=f"{name}: .* {layer} .* {smallest} pixels"):
        build(name, image_size=smallest - 1)


def test_first_layer_too_small():
    with pytest.raises(InputError, match="conv1 a 11x11 window does not fit 10 pixels"):
        build("alexnet-paper", image_size=10)


@pytest.mark.parametrize("size", [223, 228, 256, 32])
def test_image_of_another_size(size):
    """AlexNet §3.5: 224 to 227 pixels make 55 windows, and only these."""
    net = build("alexnet-paper")
    assert traced(net, 227, train=False) == net.shapes()
    with pytest.raises(InputError, match="alexnet-paper: .*(too small|got 2..x2..;)"):
        traced(net, size, train=False)


# The same nets in ONNX, by its reference evaluator. Layers are written as the papers
# and the original program list them, in ONNX's own terms.


class LRN(OpRun):
    """ONNX's formula; onnx 1.23's own evaluator takes the images for the maps."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x**2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
        energy = sum(squares[:, i : i + x.shape[1]] for i in range(size))
        return ((x / (bias + alpha / size * energy) ** beta).astype(x.dtype),)


def assert_agrees(name, layers, *, image_size, images=2, **switches):
    """Every feature that the ONNX graph also names, for random weights and images."""
    net = build(name, image_size=image_size, classes=10, **switches)
    params = weights(net)
    shape = (images, *net.input_shape)
    x = 60 * np.random.default_rng(1).standard_normal(shape, np.float32)

    graph = onnx.parser.parse_graph(f"g (float[N] images) => () {{ {layers} }}")
    for layer, values in params.items():
        kernel = values["kernel"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        for suffix, array in (("w", kernel), ("b", values["bias"])):
            tensor = onnx.numpy_helper.from_array(array, f"{layer}_{suffix}")
            graph.initializer.append(tensor)
    names = [output for node in graph.node for output in node.output]
    shared = [output for output in names if output in net.shapes()]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(s) for s in shared)
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    evaluator = ReferenceEvaluator(model, new_ops=[LRN])
    theirs = evaluator.run(None, {"images": x.transpose(0, 3, 1, 2)})

    logits, ours = jax.jit(functools.partial(net.apply, train=False))(params, x)
    np.testing.assert_array_equal(logits, ours[shared[-1]])
    assert {row.name for row in net.rows} - set(shared) <= {"drop6", "drop7"}
    for layer, expected in zip(shared, theirs, strict=True):
        if expected.ndim == 4:
            expected = expected.transpose(0, 2, 3, 1)
        assert ours[layer].shape == expected.shape, layer
        gap = np.abs(ours[layer] - expected).max() / np.abs(expected).max()
        assert gap < 1e-4, (layer, gap)


ALEXNET = """
    conv1 = Conv <strides = [4, 4], pads = [0, 0, 3, 3]> (images, conv1_w, conv1_b)
    relu1 = Relu(conv1)
    a1, b1 = Split <axis = 1, num_outputs = 2> (relu1)
    c1 = LRN <size = 5, alpha = 5e-4, beta = 0.75, bias = 2.0> (a1)
    d1 = LRN <size = 5, alpha = 5e-4, beta = 0.75, bias = 2.0> (b1)
    norm1 = Concat <axis = 1> (c1, d1)
    pool1 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (norm1)
    conv2 = Conv <group = 2, pads = [2, 2, 2, 2]> (pool1, conv2_w, conv2_b)
    relu2 = Relu(conv2)
    a2, b2 = Split <axis = 1, num_outputs = 2> (relu2)
    c2 = LRN <size = 5, alpha = 5e-4, beta = 0.75, bias = 2.0> (a2)
    d2 = LRN <size = 5, alpha = 5e-4, beta = 0.75, bias = 2.0> (b2)
    norm2 = Concat <axis = 1> (c2, d2)
    pool2 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (norm2)
    conv3 = Conv <pads = [1, 1, 1, 1]> (pool2, conv3_w, conv3_b)
    relu3 = Relu(conv3)
    conv4 = Conv <group = 2, pads = [1, 1, 1, 1]> (relu3, conv4_w, conv4_b)
    relu4 = Relu(conv4)
    conv5 = Conv <group = 2, pads = [1, 1, 1, 1]> (relu4, conv5_w, conv5_b)
    relu5 = Relu(conv5)
    pool5 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (relu5)
    last = Transpose <perm = [0, 2, 3, 1]> (pool5)
    flat = Flatten(last)
    fc6 = Gemm(flat, fc6_w, fc6_b)
    relu6 = Relu(fc6)
    fc7 = Gemm <alpha = 0.5> (relu6, fc7_w, fc7_b)
    relu7 = Relu(fc7)
    fc8 = Gemm <alpha = 0.5> (relu7, fc8_w, fc8_b)
"""


def test_alexnet_agrees_with_onnx():
    """AlexNet §3.5: a 76 image is one of 79 with 3 zeros more, as 224 is of 227."""
    assert_agrees("alexnet-paper", ALEXNET, image_size=76)


CIFAR = """
    conv1 = Conv <pads = [2, 2, 2, 2]> (images, conv1_w, conv1_b)
    relu1 = Relu(conv1)
    pool1 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (relu1)
    conv2 = Conv <pads = [2, 2, 2, 2]> (pool1, conv2_w, conv2_b)
    relu2 = Relu(conv2)
    pool2 = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (relu2)
    conv3 = Conv <pads = [2, 2, 2, 2]> (pool2, conv3_w, conv3_b)
    relu3 = Relu(conv3)
    pool3 = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (relu3)
    last = Transpose <perm = [0, 2, 3, 1]> (pool3)
    flat = Flatten(last)
"""


def test_cifar_80sec_agrees_with_onnx():
    """cuda-convnet 80sec: 32, 16, 8 and 4 pixels, averages of clipped windows."""
    head = """
        fc64 = Gemm(flat, fc64_w, fc64_b)
        relu4 = Relu(fc64)
        fc10 = Gemm(relu4, fc10_w, fc10_b)
    """
    assert_agrees("cifar-80sec", CIFAR + head, image_size=32)


def test_figure_1_agrees_with_onnx():
    """AlexNet §3.1: as 80sec, without its hidden fully-connected layer."""
    head = "fc10 = Gemm(flat, fc10_w, fc10_b)"
    assert_agrees("figure1", CIFAR + head, image_size=32)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("vgg-a-lrn", "3 | 3 | 3 3 | 3 3 | 3 3"),
        ("vgg-c", "3 3 | 3 3 | 3 3 1 | 3 3 1 | 3 3 1"),
        ("vgg-d", "3 3 | 3 3 | 3 3 3 | 3 3 3 | 3 3 3"),
    ],
)
def test_vgg_agrees_with_onnx(name, sizes):
    """VGG Table 1: kernel sizes of each block; 2x2 maximum after each."""
    layers, before = [], "images"
    for block, convolutions in enumerate(sizes.split("|"), start=1):
        for i, size in enumerate(convolutions.split(), start=1):
            it, pad = f"{block}_{i}", int(size) // 2
            layers.append(
                f"conv{it} = Conv <kernel_shape = [{size}, {size}], pads = [{pad}, "
                f"{pad}, {pad}, {pad}]> ({before}, conv{it}_w, conv{it}_b) "
                f"relu{it} = Relu(conv{it})"
            )
            before = f"relu{it}"
            if name == "vgg-a-lrn" and it == "1_1":
                layers.append("norm1_1 = LRN <size = 5, alpha = 5e-4, bias = 2.0,")
                layers.append("beta = 0.75> (relu1_1)")
                before = "norm1_1"
        layers.append(
            f"pool{block} = MaxPool <kernel_shape = [2, 2], strides = [2, 2], "
            f"ceil_mode = 1> ({before})"
        )
        before = f"pool{block}"
    head = """
        last = Transpose <perm = [0, 2, 3, 1]> (pool5)
        flat = Flatten(last)
        fc6 = Gemm(flat, fc6_w, fc6_b)
        relu6 = Relu(fc6)
        fc7 = Gemm(relu6, fc7_w, fc7_b)
        relu7 = Relu(fc7)
        fc8 = Gemm(relu7, fc8_w, fc8_b)
    """
    # 33 pixels leave 2x2 in pool5, so that fc6 sees rows and columns.
    assert_agrees(name, "\n".join(layers) + head, image_size=33, images=1)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"activation": "gelu"}, "activation 'gelu': choose from relu, tanh"),
        ({"column": "F"}, "column 'F': choose from A, B, C, D, E"),
        ({"init": "he"}, "init 'he': choose from paper, glorot"),
        ({"classes": 0}, "classes 0: a whole number"),
        ({"dropout": "half"}, "dropout 'half': a number"),
        ({"lrn": "no"}, "lrn 'no': True or False"),
        ({"classes": True}, "classes True: a whole number"),
        ({"dropout": 1.0}, "dropout 1.0: from 0 to below 1"),
    ],
)
def test_a_switch_takes_only_values_that_mean_something(switches, message):
    with pytest.raises(InputError, match=message):
        build("vgg-a", **switches)


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 3, 32, 32)])
def test_images_of_another_layout_are_named(shape):
    net = build("cifar-80sec")
    params = net.init(KEY)
    jaxtyping.config.update("jaxtyping_disable", True)  # as where nobody checks types
    try:
        with pytest.raises(InputError, match="NHWC in RGB"):
            net.apply(params, jnp.zeros(shape), train=False)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
