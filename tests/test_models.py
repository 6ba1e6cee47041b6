"""Whole networks: the papers' counts and shapes, and ONNX graphs of the same nets."""

import dataclasses
import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from alexvgg_jax import paper
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, Model, build, layers
from alexvgg_jax.models.layers import Conv, Dense, Dropout, Pool, SlidingDense

KEY = jax.random.key(0)


@pytest.fixture
def unchecked():
    """As where nobody checks types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
    """AlexNet §3.5, VGG Table 2, One weird trick, cuda-convnet 80sec, cuda-convnet
    19pct, cuda-convnet 18pct, cuda-convnet 13pct, cuda-convnet 12pct, cuda-convnet
    11pct: exact numbers of parameters."""
    leaves = jax.tree.leaves(counted(name))
    assert sum(leaf.size for leaf in leaves) == paper.PARAMETERS[name]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "switches, parameters",
    [
        ({"towers": "half"}, 59_798_312),  # layers-145-half.cfg
        ({"towers": "one"}, 62_378_344),
        ({"pooling": "2/2"}, 60_965_224),  # layers-147.cfg keeps the map sizes
        # pool5 halved to 2 x (4608 -> 4096 -> 2048), fc8 from both
        (
            {"towers": "apart"},
            2 * (11**2 * 3 * 48 + 48 + 25 * 48 * 160 + 160)
            + 2 * (9 * 160 * 192 + 192 + 9 * 192 * 192 + 192 + 9 * 192 * 128 + 128)
            + 2 * (4608 * 4096 + 4096 + 4096 * 2048 + 2048)
            + 4096 * 1000
            + 1000,
        ),
        ({"without": "conv4"}, 60_965_224 - 663_936),
        ({"without": "fc7"}, 60_965_224 - 16_781_312),
        ({"layer1": "act pool", "layer2": "act pool"}, 60_965_224),
    ],
    ids=str,
)
def test_parameters_of_ablations(switches, parameters):
    """AlexNet §3.2, AlexNet §7: kernels and units spread over the towers."""
    leaves = jax.tree.leaves(counted("alexnet-paper", **switches))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.parametrize("gone", ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7"])
def test_a_layer_left_out(gone):
    """AlexNet §7: the layer, its activation, its normalisation and its dropout."""
    i = gone[-1]
    left = [name for name in ALEXNET_LAYERS.split() if name[-1] != i or "pool" in name]
    assert [*build("alexnet-paper", without=gone).shapes()] == left
    assert len(left) == 22 - (3 if gone in ("conv2", "fc6", "fc7") else 2)


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


@pytest.mark.parametrize(
    "name, size",
    [
        ("alexnet-paper", 224),
        ("alexnet-paper", 227),
        ("alexnet-source", 224),
        ("alexnet-caffe", None),
        ("alexnet-caffenet", None),
        ("alexnet-caffe", 230),
    ],
)
def test_alexnet_shapes(name, size):
    """AlexNet §3.5: figure 2's maps, of a 224 image and of one with 3 zeros more; of
    Caffe's 227, where 3 pixels more change nothing."""
    net = build(name) if size is None else build(name, image_size=size)
    assert net.image_size == (size or 227)
    features = traced(net, train=False)
    assert features == net.shapes()
    assert paper.ALEXNET_SHAPES.items() <= features.items()


def test_source_reads_zeros_behind_224_pixels():
    """AlexNet §3.5: `layers-145.cfg` on 224 pixels is the same net on 227."""
    net = build("alexnet-source")
    small = jax.random.normal(KEY, (1, 224, 224, 3))
    large = jnp.pad(small, ((0, 0), (0, 3), (0, 3), (0, 0)))
    params = {name: weights(net)[name] for name in ("conv1", "conv2")}
    ours, expected = (
        jax.jit(functools.partial(net.apply, train=False, until="pool2"))(params, x)[0]
        for x in (small, large)
    )
    assert ours.shape == (1, *paper.ALEXNET_SHAPES["pool2"])
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


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
SOURCE_LAYERS = """
    conv1 norm1 pool1 relu1 conv2 relu2 norm2 spatial2 pool2
    conv3 relu3 conv4 relu4 conv5 relu5 pool5
    fc6 relu6 drop6 fc7 relu7 drop7 fc8
"""
ONE_WEIRD_TRICK_LAYERS = """
    conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5
    drop6 fc6 relu6 drop7 fc7 relu7 fc8
"""
LOCAL_LAYERS = """
    conv1 relu1 pool1 norm1 conv2 relu2 norm2 pool2 local3 relu3 local4 relu4 fc10
"""
CIFAR_LAYERS = """
    conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 pool3 fc64 relu4 fc10
"""


@pytest.mark.parametrize(
    "name, layers",
    [
        ("alexnet-paper", ALEXNET_LAYERS),
        ("alexnet-source", SOURCE_LAYERS),
        ("alexnet-owt", ONE_WEIRD_TRICK_LAYERS),
        ("vgg-a-lrn", VGG_A_LRN_LAYERS),
        ("cifar-11pct", LOCAL_LAYERS),
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


@pytest.mark.parametrize(
    "name, middle, hidden, one",
    [
        ("alexnet-source", 0.03, 0.01, 1.0),  # layers-145.cfg
        ("alexnet-caffe", 0.01, 0.005, 0.1),
        ("alexnet-caffenet", 0.01, 0.005, 1.0),
    ],
)
def test_initialisation_of_variants(name, middle, hidden, one):
    """AlexNet §5 biases: what the program and Caffe set instead."""
    rows = {row.name: row for row in build(name).rows if isinstance(row, Conv | Dense)}
    drawn = {row: rows[row].init for row in rows}
    assert drawn == {
        **dict.fromkeys(("conv1", "conv2", "fc8"), 0.01),
        **dict.fromkeys(("conv3", "conv4", "conv5"), middle),
        **dict.fromkeys(("fc6", "fc7"), hidden),
    }
    ones = {row for row in rows if rows[row].bias == one}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert all(rows[row].bias == 0 for row in rows.keys() - ones)


@pytest.mark.parametrize(
    ("init", "flax"),
    [
        (0.01, nn.initializers.normal(0.01)),
        ("glorot", nn.initializers.glorot_uniform()),
    ],
)
@pytest.mark.parametrize("shape", [(11, 11, 3, 96), (5, 4), (4, 4, 3, 3, 8, 16)])
def test_kernels_are_drawn_as_flax_draws_them(init, flax, shape):
    """Of one key the same numbers, but for rounding."""
    drawn = layers.draw_kernel(init, KEY, shape, jnp.float32)
    np.testing.assert_allclose(drawn, flax(KEY, shape, jnp.float32), rtol=1e-6)


def test_vgg_initialisation():
    """VGG §3.1: N(0, variance 1e-2), biases 0."""
    for layer in jax.jit(narrow("vgg-a", 17).init)(KEY).values():
        assert_normal(layer["kernel"], 0.1)
        assert np.all(layer["bias"] == 0)


def test_glorot_initialisation():
    """VGG §3.1: the switch that makes pre-training unnecessary, in every layer."""
    for head in ("gap", "dense", "fc"):
        net = build("vgg-a", init="glorot", head=head)
        drawn = [r for r in net.rows if isinstance(r, Conv | Dense | SlidingDense)]
        assert len(drawn) == (9 if head == "gap" else 11)
        assert {row.init for row in drawn} == {"glorot"}
    stem = dataclasses.replace(net, rows=(drawn[0], drawn[-1]), image_size=5)
    for layer in stem.init(KEY).values():
        kernel = np.asarray(layer["kernel"])
        *window, ins, outs = kernel.shape
        bound = math.sqrt(6 / (math.prod(window) * (ins + outs)))
        assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
        assert abs(np.std(kernel) * math.sqrt(3) / bound - 1) < 5 / kernel.size**0.5
        assert np.all(layer["bias"] == 0)


FOUR_LAYERS = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}
LOCAL = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}


@pytest.mark.parametrize(
    "name, deviations",
    [
        (
            "cifar-80sec",
            {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
        ),
        *((name, FOUR_LAYERS) for name in ("figure1", "cifar-19pct", "cifar-18pct")),
        *((name, LOCAL) for name in ("cifar-13pct", "cifar-11pct")),
    ],
)
def test_cifar_initialisation(name, deviations):
    """cuda-convnet 80sec, AlexNet §3.1, cuda-convnet 19pct, cuda-convnet 18pct,
    cuda-convnet 13pct, cuda-convnet 12pct, cuda-convnet 11pct: as in their files."""
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


def test_dropout_masks_differ_on_both_sides_of_a_pooling_layer():
    """AlexNet §4.2: the blocks that `remat` computes again draw masks of their own."""
    rows = (Dropout("drop1"), Pool("pool1", 1, 1), Dropout("drop2"))
    net = Model("two blocks", rows, image_size=40)
    _, features = net.apply({}, jnp.ones((1, 40, 40, 3)), train=True, key=KEY)
    kept = [np.mean(features[name] != 0) for name in ("drop1", "drop2")]
    np.testing.assert_allclose(kept, [0.5, 0.25], atol=0.05)


@pytest.mark.parametrize("name", ["alexnet-paper", "vgg-d"])
def test_training_needs_a_key(name):
    """AlexNet §4.2, VGG §3.1: dropout after the first two fully-connected layers."""
    with pytest.raises(InputError, match="drop6.*key="):
        traced(build(name), train=True)


@pytest.mark.parametrize("name", ["cifar-80sec", "figure1"])
def test_nets_without_dropout_train_without_a_key(name):
    assert traced(build(name), train=True) == build(name).shapes()


def test_inverted_dropout():
    """AlexNet §4.2 multiplies by 0.5 in tests; VGG §3.1 follows Caffe, which does not.

    Seen from the rows: whole nets, in test mode, are compared with ONNX elsewhere.
    """
    for name, inverted in (
        ("alexnet-paper", False),
        ("alexnet-source", False),
        ("alexnet-caffe", True),
        ("alexnet-owt", True),
        ("vgg-d", True),
    ):
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


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"activation": "gelu"}, "activation 'gelu': choose from relu, tanh"),
        ({"column": "F"}, "column 'F': choose from A, B, B 5x5, C, D, E"),
        ({"head": "conv"}, "head 'conv': choose from fc, dense, gap"),
        ({"init": "he"}, "init 'he': choose from paper, glorot"),
        ({"classes": 0}, "classes 0: a whole number"),
        ({"dropout": "half"}, "dropout 'half': a number"),
        ({"lrn": "no"}, "lrn 'no': True or False"),
        ({"classes": True}, "classes True: a whole number"),
        ({"dropout": 1.0}, "dropout 1.0: from 0 to below 1"),
        ({"width": 0.0}, "width 0.0: above 0"),
        ({"width": float("nan")}, "width nan: a number from 0 up"),
        ({"width": float("inf")}, "width inf: a number from 0 up"),
        ({"width": True}, "width True: a number"),
        ({"dropout": -0.5}, "dropout -0.5: a number from 0 up"),
        ({"dropout": 5.0, "head": "gap"}, "dropout 5.0: from 0 to below 1"),
    ],
)
def test_a_switch_takes_only_values_that_mean_something(switches, message):
    with pytest.raises(InputError, match=message):
        build("vgg-a", **switches)


@pytest.mark.parametrize("gone", ["conv2", "conv5"])
def test_small_pooling_needs_the_padding_of_net_147(gone):
    """AlexNet §3.4: without it the maps would be 7x7 in pool5, not 6x6."""
    with pytest.raises(InputError, match=f"without {gone}: not with pooling 2/2"):
        build("alexnet-paper", pooling="2/2", without=gone)
    net = build("alexnet-paper", pooling="2/2", without="conv3")
    assert net.shapes()["pool5"] == (6, 6, 256)
    small = build("alexnet-small", image_size=28, pooling="2/2", without=gone).shapes()
    assert [small[f"pool{n}"][0] for n in "125"] == [8, 4, 2]


@pytest.mark.parametrize("name", ["cifar-13pct", "cifar-11pct"])
def test_local_layers_take_one_size(name):
    """cuda-convnet 13pct: a kernel for every place; the layers before take any."""
    net = build(name)
    assert traced(net, 32, train=False, until="pool2")["pool2"] == (8, 8, 64)
    for layer in ("local3", "local4", "fc10"):
        with pytest.raises(InputError, match="built for 24x24 images, got 32x32"):
            traced(net, 32, train=False, until=layer)


def test_parameters_of_another_net_are_named():
    net = build("cifar-80sec")
    images = jnp.zeros((1, 32, 32, 3))
    message = "cifar-80sec: params of another net: .*(conv1|local3)"
    for other in (build("cifar-13pct").init(KEY), {}):
        with pytest.raises(InputError, match=message):
            net.apply(other, images, train=False)
    more = net.init(KEY) | {"conv9": {"kernel": images, "bias": images}}
    with pytest.raises(InputError, match="no layer 'conv9' here"):
        net.apply(more, images, train=False)
    assert net.apply(more, images, train=False, until="conv1")[0].shape[3] == 32


def test_normalisation_needs_a_constant():
    """AlexNet §3.3: where all maps are zero, 0 / 0."""
    with pytest.raises(InputError, match="lrn_k 0.0: above 0"):
        build("alexnet-paper", lrn_k=0.0)


def test_bytes_are_no_images(unchecked):
    net = build("cifar-80sec")
    with pytest.raises(InputError, match="floats with the mean .*, got uint8"):
        net.apply({}, jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False)


@pytest.mark.parametrize("name", ["cifar-80sec", "cifar-11pct", "alexnet-paper"])
def test_a_batch_of_none(name):
    net = build(name)
    images = jax.ShapeDtypeStruct((0, *net.input_shape), jnp.float32)
    apply = functools.partial(net.apply, train=False)
    logits, _ = jax.eval_shape(apply, counted(name), images)
    assert logits.shape == (0, *net.shapes()[net.rows[-1].name])


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 3, 32, 32)])
def test_images_of_another_layout_are_named(shape, unchecked):
    net = build("cifar-80sec")
    params = net.init(KEY)
    with pytest.raises(InputError, match="NHWC in RGB"):
        net.apply(params, jnp.zeros(shape), train=False)


# Parts of a net, and images of any size


def operations(function, *arguments):
    """How often each primitive is called, before any compiler drops what is unused."""
    closed = jax.make_jaxpr(function)(*arguments)
    return Counter(equation.primitive.name for equation in closed.jaxpr.eqns)


def test_nothing_behind_until_is_computed():
    """VGG Table 1: relu3_3 is behind seven convolutions, of an image of any size."""
    net = build("vgg-d")
    params = counted("vgg-d")
    reached = {name: params[name] for name in list(params)[:7]}
    assert "conv3_3" in reached
    images = jax.ShapeDtypeStruct((1, 100, 60, 3), jnp.float32)
    apply = functools.partial(net.apply, train=False, until="relu3_3")
    found, features = jax.eval_shape(apply, reached, images)
    assert list(features)[-1] == "relu3_3"
    assert found.shape == features["relu3_3"].shape == (1, 25, 15, 256)
    counts = operations(apply, reached, images)
    assert counts["conv_general_dilated"] == 7
    assert counts["dot_general"] == 0


def test_until_is_the_feature_of_the_whole_net():
    net = build("cifar-11pct")
    params = net.init(KEY)
    images = jax.random.normal(KEY, (2, 24, 24, 3))
    _, features = net.apply(params, images, train=False)
    for layer in ("relu1", "local3", "fc10"):
        found, _ = net.apply(params, images, train=False, until=layer)
        np.testing.assert_array_equal(found, features[layer])


def test_an_unknown_layer_names_the_closest():
    net = build("vgg-d")
    with pytest.raises(InputError, match="vgg-d: no layer 'relu33'; perhaps 'relu3_3'"):
        traced(net, train=False, until="relu33")


@pytest.mark.parametrize(
    "name, width", [("vgg-a", 1 / 16), ("vgg-c", 1 / 16), ("vgg-d", 1.0)]
)
def test_dense_head_is_the_fully_connected_one(name, width):
    """VGG §3.2: at 224 pixels the same logits, from the same parameters."""
    fc, dense = (build(name, width=width, head=head) for head in ("fc", "dense"))
    params = weights(fc)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(dense.init, KEY)
    )
    images = 60 * jax.random.normal(KEY, (2, 224, 224, 3))
    expected, ours = (
        jax.jit(functools.partial(net.apply, train=False))(params, images)[0]
        for net in (fc, dense)
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * scale)


def test_a_dense_head_slides_over_a_larger_image():
    """VGG §3.2: D's parameters over 256 pixels, two by two places."""
    net = build("vgg-d", head="dense").over(256)
    assert net.shapes()["fc6"] == (2, 2, 4096)
    leaves = jax.tree.leaves(jax.eval_shape(net.init, KEY))
    assert sum(leaf.size for leaf in leaves) == paper.PARAMETERS["vgg-d"]
    assert net.over(224) == build("vgg-d", head="dense")
    with pytest.raises(InputError, match="built for 224x224 images, got 256x256"):
        build("vgg-d").over(256)


@pytest.mark.parametrize("size", [17, 32, 33, 100])
def test_heads_share_parameters_at_any_size(size):
    """VGG §3.2: fc6 slides a window as large as what pool5 leaves."""
    fc, dense = (counted("vgg-a", image_size=size, head=h) for h in ("fc", "dense"))
    assert jax.tree.map(jnp.shape, fc) == jax.tree.map(jnp.shape, dense)
    assert build("vgg-a", image_size=size, head="dense").shapes()["fc8"] == (1, 1, 1000)


def test_dense_head_of_a_larger_image():
    """VGG §3.2: 256 pixels make a map of 2x2 class scores."""
    shapes = traced(build("vgg-d", head="dense"), 256, train=False)
    assert shapes["fc6"] == shapes["fc7"] == (2, 2, 4096)
    assert shapes["fc8"] == (2, 2, 1000)
    assert shapes["average"] == (1000,)


def test_global_average_needs_no_hidden_layers():
    """VGG Table 2: without fc6 and fc7, 15 of D's 138 million parameters are left."""
    params = counted("vgg-d", head="gap")
    hidden = 25088 * 4096 + 4096 + 4096**2 + 4096
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == paper.PARAMETERS["vgg-d"] - hidden - (4096 - 512) * 1000
    assert traced(build("vgg-d", head="gap"), 100, train=False)["fc8"] == (1000,)


@pytest.mark.parametrize("name", ["vgg-a", "vgg-d", "vgg-e"])
def test_vgg_shapes(name):
    """VGG Table 1: maps of 224 pixels, halved behind each of five blocks."""
    shapes = build(name).shapes()
    sizes = [shapes[f"conv{block}_1"] for block in range(1, 6)]
    pixels, maps = (224, 112, 56, 28, 14), (64, 128, 256, 512, 512)
    assert sizes == [(n, n, m) for n, m in zip(pixels, maps, strict=True)]
    assert shapes["pool5"] == (7, 7, 512)
    assert [shapes[fc] for fc in ("fc6", "fc7", "fc8")] == [(4096,), (4096,), (1000,)]


@pytest.mark.parametrize("name", ["vgg-d", "alexnet-owt", "alexnet-paper"])
def test_the_dropout_switch_reaches_every_dropout(name):
    """AlexNet §4.2, VGG §3.1: behind, or before, both hidden layers."""
    rows = build(name, dropout=0.2).rows
    assert [row.rate for row in rows if isinstance(row, Dropout)] == [0.2, 0.2]


def test_initialisation_of_one_weird_trick():
    """One weird trick: N(0, 0.01^2) and no biases in every layer."""
    rows = [r for r in build("alexnet-owt").rows if isinstance(r, Conv | Dense)]
    assert {(row.init, row.bias) for row in rows} == {(0.01, 0.0)}


def test_width():
    """VGG Table 1: a quarter of the kernels and of the hidden units."""
    shapes = build("vgg-d", width=0.25).shapes()
    maps = [shapes[f"conv{block}_1"][-1] for block in range(1, 6)]
    assert maps == [16, 32, 64, 128, 128]
    assert (shapes["fc6"], shapes["fc8"]) == ((1024,), (1000,))
    shapes = build("vgg-d", width=0.03).shapes()
    maps = [shapes[f"conv{block}_1"][-1] for block in range(1, 6)]
    assert maps == [2, 4, 8, 15, 15]  # 1.92, 3.84, 7.68 and 15.36 rounded
    assert build("vgg-d", width=1e-4).shapes()["conv1_1"][-1] == 1


# Activations computed again


def test_remat_changes_no_gradient():
    """AlexNet §4.2: the masks of dropout are those of the forward pass, too."""
    images = jax.random.normal(KEY, (2, 52, 52, 3))
    params = weights(narrow("alexnet-paper", 52))

    def loss(params, net):
        logits, _ = net.apply(params, images, train=True, key=KEY)
        return jnp.square(logits).mean()

    kept, again = (
        jax.jit(jax.grad(functools.partial(loss, net=net)))(params)
        for net in (
            narrow("alexnet-paper", 52),
            narrow("alexnet-paper", 52, remat=True),
        )
    )
    for ours, expected in zip(*map(jax.tree.leaves, (again, kept)), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * scale)


def test_the_backward_pass_of_remat_keeps_no_activations():
    """VGG Table 1: only what pooling leaves, of the thirteen convolutions of D."""
    params = counted("vgg-d", width=1 / 16)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def kept(remat):
        net = build("vgg-d", width=1 / 16, remat=remat)

        def forward(params, images):
            return jax.vjp(lambda p: net.apply(p, images, train=False)[0], params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(forward, params, images))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        return sum(leaf.size for leaf in leaves) - parameters

    pools = [build("vgg-d", width=1 / 16).shapes()[f"pool{i}"] for i in range(1, 6)]
    bound = sum(math.prod(shape) for shape in pools) + 224 * 224 * 3 + 100_000
    assert kept(True) < bound < kept(False) / 3


# Mixed precision


def equations(jaxpr):
    """Those of the functions that it calls, too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", ["cifar-18pct", "cifar-11pct", "alexnet-caffe"])
def test_bfloat16_is_for_products_only(name):
    """AlexNet §3.3: every layer's output is bfloat16, responses are normalised in
    float32, parameters and gradients are float32, and logits agree to some percent."""
    size = 79 if name == "alexnet-caffe" else build(name).image_size
    exact, mixed = (
        build(name, image_size=size, compute=c) for c in ("float32", "bfloat16")
    )
    params = weights(exact)
    images = 60 * jax.random.normal(KEY, (2, size, size, 3))

    def loss(params, net):
        logits, features = net.apply(params, images, train=False)
        return jnp.square(logits).mean(), (logits, features)

    def squares(params):
        return loss(params, mixed)[0]

    (expected, _), (found, features) = (
        jax.jit(functools.partial(loss, net=net))(params)[1] for net in (exact, mixed)
    )
    assert found.dtype == jnp.float32
    assert {f.dtype for f in features.values()} == {jnp.dtype("bfloat16")}
    gap = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < gap < 0.05
    slopes = jax.eval_shape(jax.grad(squares), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {jnp.dtype("float32")}
    sums, products = 0, 0
    for equation in equations(jax.make_jaxpr(squares)(params).jaxpr):
        dtypes = {str(v.aval.dtype) for v in equation.invars}
        if equation.primitive.name in ("rsqrt", "pow", "reduce_window_sum"):
            assert "bfloat16" not in dtypes, equation
            sums += 1
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            assert dtypes == {"bfloat16"}, equation
            products += 1
    assert sums >= 2 and products >= len(params)


def test_an_unknown_precision(unchecked):
    with pytest.raises(InputError, match="compute 'fp8': choose from float32, bfloat"):
        build("vgg-d", compute="fp8")
