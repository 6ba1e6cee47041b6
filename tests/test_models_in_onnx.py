"""Every network against ONNX's reference evaluator, on random weights and images.

The graphs are written here as the papers and the original program list the layers, in
ONNX's own terms; local layers, which ONNX lacks, are loops.
"""

import functools

import jax
import numpy as np
import onnx
import pytest
from nets import random_params
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from alexvgg_jax.models import MODELS, build


def short(value):
    return "" if "Conv" in str(value) else str(value)


class LRN(OpRun):
    """ONNX's formula; onnx 1.23's own evaluator takes the images for the maps."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x**2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
        energy = sum(squares[:, i : i + x.shape[1]] for i in range(size))
        return ((x / (bias + alpha / size * energy) ** beta).astype(x.dtype),)


class Local(OpRun):
    """3x3 windows, padded by 1; separate kernels at each position."""

    op_domain = ""

    def _run(self, x, kernel, bias):
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        y = np.empty((len(x), bias.shape[2], *x.shape[2:]), x.dtype)
        for i, j in np.ndindex(x.shape[2:]):
            seen = padded[:, :, i : i + 3, j : j + 3].transpose(0, 2, 3, 1)
            y[:, :, i, j] = seen.reshape(len(x), -1) @ kernel[i, j] + bias[i, j]
        return (y,)


def by_onnx(layers, params, images, outputs):
    """What the graph computes, NHWC: outputs are the names among `outputs`."""
    graph = onnx.parser.parse_graph(f"g (float[N] images) => () {{ {layers} }}")
    for layer, values in params.items():
        kernel, bias = np.asarray(values["kernel"]), np.asarray(values["bias"])
        if kernel.ndim == 4 and not layer.startswith("local"):
            kernel = kernel.transpose(3, 2, 0, 1)
        for suffix, array in (("w", kernel), ("b", bias)):
            tensor = onnx.numpy_helper.from_array(array, f"{layer}_{suffix}")
            graph.initializer.append(tensor)
    names = [output for node in graph.node for output in node.output]
    shared = [name for name in names if name in outputs]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(s) for s in shared)
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    evaluator = ReferenceEvaluator(model, new_ops=[LRN, Local])
    found = evaluator.run(None, {"images": images.transpose(0, 3, 1, 2)})
    return {
        name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        for name, array in zip(shared, found, strict=True)
    }


def assert_agrees(name, layers, image_size, images=2, size=None, **switches):
    """Every layer but dropout; of images of another `size` than the net is built for,
    if it takes them."""
    net = build(name, image_size=image_size, classes=10, **switches)
    params = random_params(net)
    shape = (images, size or image_size, size or image_size, 3)
    x = 60 * np.random.default_rng(1).standard_normal(shape, np.float32)
    theirs = by_onnx(layers, params, x, net.shapes())
    logits, ours = jax.jit(functools.partial(net.apply, train=False))(params, x)
    np.testing.assert_array_equal(logits, ours[net.layers()[-1].name])
    assert set(ours) - set(theirs) <= {"drop6", "drop7"}
    for layer, expected in theirs.items():
        assert ours[layer].shape == expected.shape, layer
        gap = np.abs(ours[layer] - expected).max() / np.abs(expected).max()
        assert gap < 1e-4, (layer, gap)


# Pieces of graphs. Each makes a layer of the given name from `x`.


def conv(name, x, pad=0, groups=1, stride=1, end=None):
    pads = [pad, pad, pad if end is None else end, pad if end is None else end]
    return (
        f"{name} = Conv <strides = [{stride}, {stride}], pads = {pads}, "
        f"group = {groups}> ({x}, {name}_w, {name}_b)"
    )


def relu(name, x):
    return f"{name} = Relu({x})"


def pool(name, x, op="MaxPool", size=3):
    return (
        f"{name} = {op} <kernel_shape = [{size}, {size}], strides = [2, 2], "
        f"ceil_mode = 1> ({x})"
    )


def lrn(name, x, alpha=5e-4, bias=2.0, size=5):
    """ONNX divides alpha by the size."""
    return (
        f"{name} = LRN <size = {size}, alpha = {alpha}, beta = 0.75, "
        f"bias = {bias}> ({x})"
    )


def lrn_of_halves(name, x, alpha=5e-4):
    return f"""
        {name}a, {name}b = Split <axis = 1, num_outputs = 2> ({x})
        {lrn(name + "c", name + "a", alpha)}
        {lrn(name + "d", name + "b", alpha)}
        {name} = Concat <axis = 1> ({name}c, {name}d)
    """


def lrn_of_pixels(name, x, alpha, size):
    """`alpha` times the mean of the squares; the padding counts as pixels."""
    pads = [size // 2] * 4
    return f"""
        {name}a = Mul({x}, {x})
        {name}b = AveragePool <kernel_shape = [{size}, {size}], pads = {pads},
            count_include_pad = 1> ({name}a)
        {name}c = Constant <value_float = {alpha}> ()
        {name}d = Mul({name}b, {name}c)
        {name}e = Constant <value_float = 1.0> ()
        {name}f = Add({name}d, {name}e)
        {name}g = Constant <value_float = 0.75> ()
        {name}h = Pow({name}f, {name}g)
        {name} = Div({x}, {name}h)
    """


def flat(x):
    return f"last = Transpose <perm = [0, 2, 3, 1]> ({x}) flat = Flatten(last)"


def fc(name, x, scale=1.0):
    return f"{name} = Gemm <alpha = {scale}> ({x}, {name}_w, {name}_b)"


# AlexNet §3.5

CONV1 = conv("conv1", "images", stride=4, end=3)
LAYER1 = (CONV1 + relu("relu1", "conv1") + lrn_of_halves("norm1", "relu1")) + pool(
    "pool1", "norm1"
)
CONV2 = conv("conv2", "pool1", pad=2, groups=2) + relu("relu2", "conv2")
LAYER2 = CONV2 + lrn_of_halves("norm2", "relu2") + pool("pool2", "norm2")


def middle(x="pool2", groups=(1, 2, 2), pad5=1, left_out=None):
    """conv3 to conv5, and their pooling; `groups` of each."""
    text = ""
    for i, g in zip((3, 4, 5), groups, strict=True):
        if i != left_out:
            pad = pad5 if i == 5 else 1
            text += conv(f"conv{i}", x, pad=pad, groups=g)
            text += relu(f"relu{i}", f"conv{i}")
            x = f"relu{i}"
    return text, x


def head(scale=0.5, left_out=None, x="flat"):
    """`scale` is what tests multiply by for dropout: before fc7 and fc8."""
    text, factor = flat("pool5"), 1.0
    for i in (6, 7):
        if i != left_out:
            text += fc(f"fc{i}", x, factor) + relu(f"relu{i}", f"fc{i}")
            x, factor = f"relu{i}", scale
    return text + fc("fc8", x, factor)


def after_pool2(groups=(1, 2, 2), scale=0.5, pool_size=3, pad5=1, left_out=None):
    convolutions, x = middle("pool2", groups, pad5, left_out)
    return convolutions + pool("pool5", x, size=pool_size) + head(scale, left_out)


def one_tower():
    """Response windows over all maps, no groups: `layers-145-half.cfg`."""
    return (
        CONV1
        + relu("relu1", "conv1")
        + lrn("norm1", "relu1")
        + pool("pool1", "norm1")
        + conv("conv2", "pool1", pad=2)
        + relu("relu2", "conv2")
        + lrn("norm2", "relu2")
        + pool("pool2", "norm2")
        + after_pool2(groups=(1, 1, 1))
    )


def towers_apart():
    """Two nets side by side as far as fc7: `layers-150.cfg`."""
    text = LAYER1 + LAYER2 + middle(groups=(2, 2, 2))[0] + pool("pool5", "relu5")
    text += """
        half0, half1 = Split <axis = 1, num_outputs = 2> (pool5)
        nhwc0 = Transpose <perm = [0, 2, 3, 1]> (half0)
        nhwc1 = Transpose <perm = [0, 2, 3, 1]> (half1)
        tower5_0 = Flatten(nhwc0)
        tower5_1 = Flatten(nhwc1)
    """
    for i, scale in ((6, 1.0), (7, 0.5)):
        text += f"""
            w{i}_0, w{i}_1 = Split <axis = 1, num_outputs = 2> (fc{i}_w)
            b{i}_0, b{i}_1 = Split <axis = 0, num_outputs = 2> (fc{i}_b)
            part{i}_0 = Gemm <alpha = {scale}> (tower{i - 1}_0, w{i}_0, b{i}_0)
            part{i}_1 = Gemm <alpha = {scale}> (tower{i - 1}_1, w{i}_1, b{i}_1)
            tower{i}_0 = Relu(part{i}_0)
            tower{i}_1 = Relu(part{i}_1)
            fc{i} = Concat <axis = 1> (part{i}_0, part{i}_1)
            relu{i} = Relu(fc{i})
        """
    return text + fc("fc8", "relu7", 0.5)


SOURCE = (
    CONV1
    + lrn_of_halves("norm1", "conv1", alpha=1e-4)
    + pool("pool1", "norm1")
    + relu("relu1", "pool1")
    + conv("conv2", "relu1", pad=2, groups=2)
    + relu("relu2", "conv2")
    + lrn_of_halves("norm2", "relu2", alpha=1e-4)
    + lrn_of_pixels("spatial2", "norm2", alpha=1e-3, size=5)
    + pool("pool2", "spatial2")
    + after_pool2()
)
CAFFE_CONV1 = conv("conv1", "images", stride=4) + relu("relu1", "conv1")
CAFFE = (
    CAFFE_CONV1
    + lrn("norm1", "relu1", alpha=1e-4, bias=1.0)
    + pool("pool1", "norm1")
    + CONV2
    + lrn("norm2", "relu2", alpha=1e-4, bias=1.0)
    + pool("pool2", "norm2")
    + after_pool2(scale=1.0)
)
CAFFENET = (
    CAFFE_CONV1
    + pool("pool1", "relu1")
    + lrn("norm1", "pool1", alpha=1e-4, bias=1.0)
    + conv("conv2", "norm1", pad=2, groups=2)
    + relu("relu2", "conv2")
    + pool("pool2", "relu2")
    + lrn("norm2", "pool2", alpha=1e-4, bias=1.0)
    + middle("norm2")[0]
    + pool("pool5", "relu5")
    + head(scale=1.0)
)


def small(pool_size=3):
    """The paper's, but for conv1: 16 windows over 3 zeros, 28 pixels and 4 zeros."""
    return (
        conv("conv1", "images", stride=2, pad=3, end=4)
        + relu("relu1", "conv1")
        + lrn_of_halves("norm1", "relu1")
        + pool("pool1", "norm1", size=pool_size)
        + CONV2
        + lrn_of_halves("norm2", "relu2")
        + pool("pool2", "norm2", size=pool_size)
        + after_pool2(pool_size=pool_size)
    )


# A quarter of the kernels. `alexnet-paper` and `alexnet-owt` are complete.
QUARTER = {
    f"alexnet-{name}": {"width": 0.25} for name in ("source", "caffe", "caffenet")
}
ONE_WEIRD_TRICK = (
    conv("conv1", "images", stride=4, pad=2)
    + relu("relu1", "conv1")
    + pool("pool1", "relu1")
    + conv("conv2", "pool1", pad=2)
    + relu("relu2", "conv2")
    + pool("pool2", "relu2")
    + after_pool2(groups=(1, 1, 1), scale=1.0)
).replace("ceil_mode = 1", "ceil_mode = 0")


@pytest.mark.parametrize(
    "name, layers, size",
    [
        # A 76 image is one of 79 with 3 zeros more, as 224 is of 227.
        ("alexnet-paper", LAYER1 + LAYER2 + after_pool2(), 76),
        ("alexnet-source", SOURCE, 76),
        ("alexnet-caffe", CAFFE, 78),  # 3 pixels that no whole window sees
        ("alexnet-caffenet", CAFFENET, 79),
        ("alexnet-owt", ONE_WEIRD_TRICK, 100),  # pool1 leaves out a pixel
        ("alexnet-small", small(), 28),
    ],
    ids=short,
)
def test_alexnet(name, layers, size):
    """AlexNet §3.5; One weird trick: the six variants."""
    assert_agrees(name, layers, size, **QUARTER.get(name, {}))


NORM_FIRST = (
    CONV1
    + lrn_of_halves("norm1", "conv1")
    + relu("relu1", "norm1")
    + pool("pool1", "relu1")
)
NO_NORM = (
    CONV1
    + relu("relu1", "conv1")
    + pool("pool1", "relu1")
    + CONV2
    + pool("pool2", "relu2")
)
SMALL_POOLS = (
    CONV1
    + relu("relu1", "conv1")
    + lrn_of_halves("norm1", "relu1")
    + pool("pool1", "norm1", size=2)
    + conv("conv2", "pool1", pad=1, groups=2)
    + relu("relu2", "conv2")
    + lrn_of_halves("norm2", "relu2")
    + pool("pool2", "norm2", size=2)
    + after_pool2(pool_size=2, pad5=0)
)


@pytest.mark.parametrize(
    "switches, layers",
    [
        ({"after_conv1": ("norm", "act", "pool")}, NORM_FIRST + LAYER2 + after_pool2()),
        (
            {"after_conv1": ("act", "pool"), "after_conv2": ("act", "pool")},
            NO_NORM + after_pool2(),
        ),
        ({"pooling": (2, 2)}, SMALL_POOLS),
        ({"dropout": 0.2}, LAYER1 + LAYER2 + after_pool2(scale=0.8)),
        ({"towers": "half"}, one_tower()),
        ({"towers": "one"}, one_tower()),
        ({"towers": "apart"}, towers_apart()),
        ({"without": "conv2"}, LAYER1 + pool("pool2", "pool1") + after_pool2()),
        *(
            ({"without": f"{kind}{i}"}, LAYER1 + LAYER2 + after_pool2(left_out=i))
            for kind, i in (("conv", 3), ("conv", 4), ("conv", 5), ("fc", 6), ("fc", 7))
        ),
        ({"lrn_k": 3.0}, (LAYER1 + LAYER2 + after_pool2()).replace("= 2.0>", "= 3.0>")),
    ],
    ids=short,
)
def test_ablations_of_alexnet(switches, layers):
    """AlexNet §3.2, AlexNet §3.3, AlexNet §3.4, AlexNet §7: the switches."""
    assert_agrees("alexnet-paper", layers, 76, width=0.25, **switches)


# The original program's CIFAR-10 nets


def three_convolutions(norms=False):
    text, x = "", "images"
    for i, op in ((1, "MaxPool"), (2, "AveragePool"), (3, "AveragePool")):
        text += conv(f"conv{i}", x, pad=2) + relu(f"relu{i}", f"conv{i}")
        text += pool(f"pool{i}", f"relu{i}", op)
        x = f"pool{i}"
        if norms and i < 3:
            text += lrn_of_pixels(f"norm{i}", x, alpha=5e-5, size=3)
            x = f"norm{i}"
    return text + flat("pool3")


def convolutions_and_local_layers(norms=False):
    x1, x2 = ("norm1", "norm2") if norms else ("pool1", "relu2")
    text = conv("conv1", "images", pad=2) + relu("relu1", "conv1")
    text += pool("pool1", "relu1")
    text += lrn("norm1", "pool1", alpha=0.001, bias=1.0, size=9) if norms else ""
    text += conv("conv2", x1, pad=2) + relu("relu2", "conv2")
    text += lrn("norm2", "relu2", alpha=0.001, bias=1.0, size=9) if norms else ""
    text += pool("pool2", x2)
    text += """
        local3 = Local(pool2, local3_w, local3_b)
        relu3 = Relu(local3)
        local4 = Local(relu3, local4_w, local4_b)
        relu4 = Relu(local4)
    """
    return text + flat("relu4") + fc("fc10", "flat")


FC64 = fc("fc64", "flat") + relu("relu4", "fc64") + fc("fc10", "relu4")
FC10 = fc("fc10", "flat")


@pytest.mark.parametrize(
    "name, layers, size",
    [
        ("cifar-80sec", three_convolutions() + FC64, 32),
        ("cifar-19pct", three_convolutions() + FC10, 32),
        ("cifar-18pct", three_convolutions(norms=True) + FC10, 32),
        ("cifar-13pct", convolutions_and_local_layers(), 24),
        ("cifar-11pct", convolutions_and_local_layers(norms=True), 24),
    ],
    ids=short,
)
def test_cifar(name, layers, size):
    """cuda-convnet 80sec, cuda-convnet 19pct, cuda-convnet 18pct, cuda-convnet 13pct,
    cuda-convnet 11pct, AlexNet §3.1: 32, 16, 8 and 4 pixels, or 24,
    12 and 6; averages of clipped windows."""
    assert_agrees(name, layers, size)


# VGG Table 1


def vgg(sizes, norm=False):
    text, x = "", "images"
    for block, convolutions in enumerate(sizes.split("|"), start=1):
        for i, size in enumerate(map(int, convolutions.split()), start=1):
            it = f"{block}_{i}"
            text += conv(f"conv{it}", x, pad=size // 2) + relu(f"relu{it}", f"conv{it}")
            x = f"relu{it}"
            if norm and it == "1_1":
                text += lrn("norm1_1", x)
                x = "norm1_1"
        text += pool(f"pool{block}", x, size=2)
        x = f"pool{block}"
    return text


TABLE1 = {
    "vgg-a": "3 | 3 | 3 3 | 3 3 | 3 3",
    "vgg-a-lrn": "3 | 3 | 3 3 | 3 3 | 3 3",
    "vgg-b": "3 3 | 3 3 | 3 3 | 3 3 | 3 3",
    "vgg-b-5x5": "5 | 5 | 5 | 5 | 5",
    "vgg-c": "3 3 | 3 3 | 3 3 1 | 3 3 1 | 3 3 1",
    "vgg-d": "3 3 | 3 3 | 3 3 3 | 3 3 3 | 3 3 3",
    "vgg-e": "3 3 | 3 3 | 3 3 3 3 | 3 3 3 3 | 3 3 3 3",
}


@pytest.mark.parametrize("name", TABLE1)
def test_vgg(name):
    """VGG Table 1, VGG §4.1 5x5: kernel sizes of each block; 2x2 maximum after each.

    33 pixels leave 2x2 in pool5, so that fc6 sees rows and columns.
    """
    features = vgg(TABLE1[name], norm=name == "vgg-a-lrn")
    assert_agrees(name, features + head(scale=1.0), 33, width=0.125)


@pytest.mark.parametrize(
    "switches, op, other",
    [
        ({"pool": "average"}, "MaxPool", "AveragePool"),
        ({"clip_windows": True}, "ceil_mode = 1", "ceil_mode = 0"),
    ],
    ids=str,
)
def test_pooling_of_vgg(switches, op, other):
    """Of 33 pixels, 2x2 are left in pool5, or 1x1 of complete windows."""
    layers = (vgg(TABLE1["vgg-a"]) + head(scale=1.0)).replace(op, other)
    assert_agrees("vgg-a", layers, 33, width=0.125, **switches)


@pytest.mark.parametrize("size", [64, 90])
def test_dense_vgg(size):
    """VGG §3.2: fc6 as a 2x2 convolution here (7x7 at 224 pixels), fc7 and fc8 as 1x1;
    logits are the mean of the class score map."""
    layers = vgg(TABLE1["vgg-a"])
    x = "pool5"
    for name, shape in (
        ("fc6", [2, 2, 64, 512]),
        ("fc7", [1, 1, 512, 512]),
        ("fc8", [1, 1, 512, 10]),
    ):
        layers += f"""
            {name}_shape = Constant <value_ints = {shape}> ()
            {name}_hwio = Reshape({name}_w, {name}_shape)
            {name}_oihw = Transpose <perm = [3, 2, 0, 1]> ({name}_hwio)
            {name} = Conv({x}, {name}_oihw, {name}_b)
        """
        if name != "fc8":
            layers += relu(f"relu{name[2]}", name)
            x = f"relu{name[2]}"
    layers += "mean = GlobalAveragePool(fc8) average = Flatten(mean)"
    assert_agrees("vgg-a", layers, 64, size=size, head="dense", width=0.125)


@pytest.mark.parametrize("size", [64, 90])
def test_vgg_without_hidden_layers(size):
    """VGG Table 1: its features, averaged, and one fully-connected layer."""
    layers = vgg(TABLE1["vgg-a"])
    layers += "mean = GlobalAveragePool(pool5) average = Flatten(mean)"
    layers += fc("fc8", "average")
    assert_agrees("vgg-a", layers, 64, size=size, head="gap", width=0.25)


def test_small_pools_of_the_small_net():
    """AlexNet §3.4: 2/2 there changes no other layer."""
    assert_agrees("alexnet-small", small(pool_size=2), 28, pooling=(2, 2))


# AlexNet §3.1: tanh


@pytest.mark.parametrize(
    "name, layers, size, switches",
    [
        ("alexnet-paper", LAYER1 + LAYER2 + after_pool2(), 76, {"width": 0.25}),
        ("alexnet-owt", ONE_WEIRD_TRICK, 80, {}),
        ("vgg-a", vgg(TABLE1["vgg-a"]) + head(scale=1.0), 33, {"width": 0.25}),
        ("cifar-80sec", three_convolutions() + FC64, 32, {}),
        ("cifar-18pct", three_convolutions(norms=True) + FC10, 32, {}),
        ("cifar-11pct", convolutions_and_local_layers(norms=True), 24, {}),
    ],
    ids=short,
)
def test_tanh(name, layers, size, switches):
    """AlexNet §3.1: in every layer that had a ReLU."""
    layers = layers.replace("Relu(", "Tanh(").replace("relu", "tanh")
    assert_agrees(name, layers, size, activation="tanh", **switches)


def test_every_model_is_compared():
    compared = {"alexnet-paper", "alexnet-source", "alexnet-caffe", "alexnet-caffenet"}
    compared |= {"alexnet-owt", "alexnet-small", "cifar-80sec", *TABLE1}
    compared |= {f"cifar-{n}pct" for n in (19, 18, 13, 11)}
    assert compared == set(MODELS)
