"""The nets of MODELS: the papers' counts and shapes, and their switches."""

import functools
import math

import counts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import count, random_params, trace

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, build
from alexvgg_jax.models.layers import Dropout

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", counts.PARAMETERS)
def test_parameters(name):
    """AlexNet §3.5, VGG Table 2, One weird trick, cuda-convnet 80sec, cuda-convnet
    19pct, cuda-convnet 18pct, cuda-convnet 13pct, cuda-convnet 11pct: exact
    numbers of parameters."""
    assert count(build(name)) == counts.PARAMETERS[name]


def test_every_size_of_net_is_counted():
    assert MODELS.keys() - counts.PARAMETERS.keys() == {"alexnet-small"}


@pytest.mark.parametrize("name", MODELS)
def test_init_draws_what_param_shapes_states(name):
    net = build(name)
    assert jax.eval_shape(net.init, KEY) == net.param_shapes()


@pytest.mark.parametrize(
    "switches, parameters",
    [
        ({"towers": "half"}, 59_798_312),  # layers-145-half.cfg
        ({"towers": "one"}, 62_378_344),
        ({"pooling": (2, 2)}, 60_965_224),  # layers-147.cfg keeps the map sizes
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
        (
            {"after_conv1": ("act", "pool"), "after_conv2": ("act", "pool")},
            60_965_224,
        ),
    ],
    ids=str,
)
def test_parameters_of_ablations(switches, parameters):
    """AlexNet §3.2, AlexNet §7: kernels and units spread over the towers."""
    assert count(build("alexnet-paper", **switches)) == parameters


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7"])
def test_a_net_without_a_layer(layer):
    """AlexNet §7: the layer, its activation, its normalisation and its dropout."""
    i = layer[-1]
    left = [name for name in ALEXNET_LAYERS.split() if name[-1] != i or "pool" in name]
    assert [*build("alexnet-paper", without=layer).shapes()] == left
    assert len(left) == 22 - (3 if layer in ("conv2", "fc6", "fc7") else 2)


# VGG Table 1 and Table 2: weight layers, and millions of parameters.
VGG_TABLES = {
    "vgg-a": (11, 133),
    "vgg-a-lrn": (11, 133),
    "vgg-b": (13, 133),
    "vgg-c": (16, 134),
    "vgg-d": (16, 138),
    "vgg-e": (19, 144),
}


@pytest.mark.parametrize("name", VGG_TABLES)
def test_weight_layers_of_vgg(name):
    """VGG Table 1, VGG Table 2: 11 to 19 weight layers, named by block; 133 to 144
    million parameters."""
    net = build(name)
    params = net.param_shapes()
    assert (len(params), round(count(net) / 1e6)) == VGG_TABLES[name]
    assert {"conv1_1", "conv5_1", "fc6", "fc7", "fc8"} <= params.keys()


def test_one_by_one_convolutions():
    """VGG Table 1: C's third convolutions in blocks 3 to 5 are 1x1, D's 3x3."""
    c, d = build("vgg-c").param_shapes(), build("vgg-d").param_shapes()
    assert c.keys() == d.keys()
    for name in c.keys() - {"fc6", "fc7", "fc8"}:
        small = name in ("conv3_3", "conv4_3", "conv5_3")
        assert c[name]["kernel"].shape[:2] == ((1, 1) if small else (3, 3))
        assert d[name]["kernel"].shape[:2] == (3, 3)


@pytest.mark.parametrize("clipped", [False, True])
def test_dense_heads_have_the_same_parameters(clipped):
    """VGG §3.2: also where 80 pixels leave 3x3 or, of complete windows, 2x2."""
    switches = {"image_size": 80, "clip_windows": clipped}
    shapes = build("vgg-a", **switches).param_shapes()
    assert build("vgg-a", head="dense", **switches).param_shapes() == shapes
    side = 2 if clipped else 3
    assert shapes["fc6"]["kernel"].shape == (side**2 * 512, 4096)


@pytest.mark.parametrize("name", ["vgg-a", "vgg-d", "vgg-e"])
def test_vgg_shapes(name):
    """VGG Table 1: the maps of 224 pixels, halved after each of five blocks."""
    shapes = build(name).shapes()
    sizes = [shapes[f"conv{block}_1"] for block in range(1, 6)]
    pixels, maps = (224, 112, 56, 28, 14), (64, 128, 256, 512, 512)
    assert sizes == [(n, n, m) for n, m in zip(pixels, maps, strict=True)]
    assert shapes["pool5"] == (7, 7, 512)
    assert [shapes[fc] for fc in ("fc6", "fc7", "fc8")] == [(4096,), (4096,), (1000,)]


@pytest.mark.parametrize(
    "name, size",
    [
        ("alexnet-paper", 224),
        ("alexnet-paper", 227),
        ("alexnet-source", 224),
        ("alexnet-caffe", 227),
        ("alexnet-caffenet", 227),
        ("alexnet-caffe", 230),
    ],
)
def test_alexnet_shapes(name, size):
    """AlexNet §3.5: figure 2's maps, from 224 pixels and from 3 more; Caffe's 227 are
    complete windows, and 3 more pixels change nothing."""
    net = build(name, image_size=size)
    assert build(name).image_size == (227 if "caffe" in name else 224)
    features = trace(net, train=False)
    assert features == net.shapes()
    assert counts.ALEXNET_SHAPES.items() <= features.items()


def test_source_reads_zeros_after_224_pixels():
    """AlexNet §3.5: `layers-145.cfg` on 224 pixels is the same net on 227."""
    net = build("alexnet-source")
    small = jax.random.normal(KEY, (1, 224, 224, 3))
    large = jnp.pad(small, ((0, 0), (0, 3), (0, 3), (0, 0)))
    params = random_params(net, only=("conv1", "conv2"))
    apply = jax.jit(functools.partial(net.apply, train=False, until="pool2"))
    ours, expected = (apply(params, images)[0] for images in (small, large))
    assert ours.shape == (1, *counts.ALEXNET_SHAPES["pool2"])
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_alexnet_neurons():
    """AlexNet §3.5: 650,000 neurons, with 55 x 55 x 96 in conv1."""
    shapes = build("alexnet-paper").shapes()
    neurons = {name: math.prod(shapes[name]) for name in counts.ALEXNET_NEURONS}
    assert neurons == counts.ALEXNET_NEURONS | {"conv1": 290_400}
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
@pytest.mark.parametrize("options", [{"train": False}, {"train": True, "key": KEY}])
def test_features_are_in_order(name, layers, options):
    net = build(name)
    assert list(trace(net, **options)) == list(net.shapes()) == layers.split()


def test_tanh_instead_of_relu():
    """AlexNet §3.1: the same net with renamed layers and other values."""
    relu, tanh = build("cifar-19pct"), build("cifar-19pct", activation="tanh")
    assert [name.replace("tanh", "relu") for name in tanh.shapes()] == [*relu.shapes()]
    images = np.random.default_rng(1).standard_normal((2, 32, 32, 3), np.float32)
    params = random_params(relu)
    by_relu, by_tanh = (
        jax.jit(functools.partial(net.apply, train=False))(params, images)[1]
        for net in (relu, tanh)
    )
    conv1 = by_relu["conv1"]
    np.testing.assert_array_equal(by_relu["relu1"], np.maximum(0, conv1))
    np.testing.assert_allclose(by_tanh["tanh1"], np.tanh(conv1), rtol=1e-4, atol=1e-6)
    assert np.any(by_relu["fc10"] != by_tanh["fc10"])


@pytest.mark.parametrize("name", MODELS)
def test_classes(name):
    assert build(name, classes=7).shapes().popitem()[1] == (7,)


@pytest.mark.parametrize("name", ["vgg-d", "alexnet-owt", "alexnet-paper"])
def test_the_dropout_switch_reaches_every_dropout(name):
    """AlexNet §4.2, VGG §3.1: at both hidden layers."""
    layers = build(name, dropout=0.2).layers()
    assert [x.rate for x in layers if isinstance(x, Dropout)] == [0.2, 0.2]


@pytest.mark.parametrize(
    "name, inverted",
    [
        ("alexnet-paper", False),
        ("alexnet-source", False),
        ("alexnet-caffe", True),
        ("alexnet-owt", True),
        ("vgg-d", True),
    ],
)
def test_where_dropout_scales(name, inverted):
    """AlexNet §4.2 multiplies by 0.5 in tests. Caffe and VGG §3.1 do not."""
    drops = [layer for layer in build(name).layers() if isinstance(layer, Dropout)]
    assert [(drop.rate, drop.inverted) for drop in drops] == [(0.5, inverted)] * 2


# VGG's heads and widths


@pytest.mark.parametrize("name", ["vgg-a", "vgg-c", "vgg-d"])
def test_dense_head_is_the_fully_connected_head(name):
    """VGG §3.2: at 224 pixels the same logits, from the same parameters."""
    fc, dense = (build(name, width=1 / 16, head=head) for head in ("fc", "dense"))
    assert fc.param_shapes() == dense.param_shapes()
    params = random_params(fc)
    images = 60 * jax.random.normal(KEY, (1, 224, 224, 3))
    expected, ours = (
        jax.jit(functools.partial(net.apply, train=False))(params, images)[0]
        for net in (fc, dense)
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("size", [17, 32, 33, 100])
def test_heads_share_parameters_at_any_size(size):
    """VGG §3.2: fc6 slides a window as large as the output of pool5."""
    fc, dense = (build("vgg-a", image_size=size, head=h) for h in ("fc", "dense"))
    assert fc.param_shapes() == dense.param_shapes()
    assert dense.shapes()["fc8"] == (1, 1, 1000)


def test_a_dense_head_slides_over_a_larger_image():
    """VGG §3.2: 256 pixels make a map of 2x2 class scores, with D's parameters."""
    net = build("vgg-d", head="dense")
    shapes = trace(net, 256, train=False)
    assert shapes == net.shapes(256)
    assert shapes["fc6"] == shapes["fc7"] == (2, 2, 4096)
    assert (shapes["fc8"], shapes["average"]) == ((2, 2, 1000), (1000,))
    assert count(net) == counts.PARAMETERS["vgg-d"]
    with pytest.raises(InputError, match="built for 224x224 images, got 256x256"):
        build("vgg-d").shapes(256)


def test_global_average_needs_no_hidden_layers():
    """VGG Table 2: without fc6 and fc7, 15 of D's 138 million parameters are left."""
    net = build("vgg-d", head="gap")
    hidden = 25088 * 4096 + 4096 + 4096**2 + 4096
    assert count(net) == counts.PARAMETERS["vgg-d"] - hidden - (4096 - 512) * 1000
    assert trace(net, 100, train=False)["fc8"] == (1000,)


def test_width_of_vgg():
    """VGG Table 1: a quarter of the kernels and of the hidden units."""

    def maps(net):
        return [net.shapes()[f"conv{block}_1"][-1] for block in range(1, 6)]

    net = build("vgg-d", width=0.25)
    assert maps(net) == [16, 32, 64, 128, 128]
    assert (net.shapes()["fc6"], net.shapes()["fc8"]) == ((1024,), (1000,))
    # 1.92, 3.84, 7.68 and 15.36 rounded
    assert maps(build("vgg-d", width=0.03)) == [2, 4, 8, 15, 15]
    assert maps(build("vgg-d", width=1e-4)) == [1] * 5


def test_width_of_alexnet():
    """AlexNet §3.5: an even number of kernels, half for each tower."""
    shapes = build("alexnet-paper", width=0.25, classifier=0.5).shapes()
    kernels = [shapes[f"conv{i}"][-1] for i in range(1, 6)]
    assert kernels == [24, 64, 96, 96, 64]
    assert [shapes[fc] for fc in ("fc6", "fc7", "fc8")] == [(512,), (512,), (1000,)]
    assert build("alexnet-paper", width=1e-4).shapes()["conv1"][-1] == 2


# Wrong switches


def test_unknown_model():
    with pytest.raises(InputError, match="'vgg-f'; perhaps 'vgg-"):
        build("vgg-f")
    with pytest.raises(InputError, match="'zzz'; choose from alexnet-paper, .*cifar-"):
        build("zzz")


def test_unknown_switch():
    with pytest.raises(InputError, match="vgg-d: .*'drop_out'; perhaps 'dropout'"):
        build("vgg-d", drop_out=0.1)
    with pytest.raises(InputError, match="cifar-80sec: .*'dropout'; choose from class"):
        build("cifar-80sec", dropout=0.1)


@pytest.mark.parametrize(
    ("name", "switches", "message"),
    [
        ("vgg-a", {"activation": "gelu"}, "activation 'gelu': choose from relu, tanh"),
        ("vgg-a", {"column": "F"}, "column 'F': choose from A, B, B 5x5, C, D, E"),
        ("vgg-a", {"head": "conv"}, "head 'conv': choose from fc, dense, gap"),
        ("vgg-a", {"weight_init": "paper"}, "init 'paper': choose from glorot, he"),
        ("vgg-a", {"compute": "fp8"}, "'fp8': choose from float32, bfloat16"),
        ("vgg-a", {"classes": 0}, "classes 0: a whole number from 1 up"),
        ("vgg-a", {"classes": 2.0}, "classes 2.0: a whole number"),
        ("vgg-a", {"classes": True}, "classes True: a whole number"),
        ("vgg-a", {"lrn": "no"}, "lrn 'no': True or False"),
        ("vgg-a", {"remat": 1}, "remat 1: True or False"),
        ("vgg-a", {"dropout": "half"}, "dropout 'half': a number from 0 up"),
        ("vgg-a", {"dropout": -0.5}, "dropout -0.5: a number from 0 up"),
        ("vgg-a", {"dropout": 1.0}, "dropout 1.0: from 0 to below 1"),
        ("vgg-a", {"dropout": 5.0, "head": "gap"}, "dropout 5.0: from 0 to below 1"),
        ("vgg-a", {"width": 0.0}, "width 0.0: must be above 0"),
        ("vgg-a", {"width": 1e308}, "width 1e.308: must be above 0"),
        ("vgg-a", {"width": "x"}, "width 'x': a number from 0 up"),
        ("vgg-a", {"width": True}, "width True: a number from 0 up"),
        ("vgg-a", {"width": math.nan}, "width nan: a number from 0 up"),
        ("vgg-a", {"width": math.inf}, "width inf: a number from 0 up"),
        ("alexnet-paper", {"dropout": 1.0}, "dropout 1.0: from 0 to below 1"),
        # with k = 0, pixels that are zero in all maps would be 0 / 0
        ("alexnet-paper", {"lrn_k": 0.0}, "lrn_k 0.0: must be above 0"),
        ("alexnet-paper", {"classifier": 0.0}, "classifier 0.0: must be above 0"),
        ("alexnet-paper", {"towers": "two"}, "'two': choose from joined, apart, half"),
        ("alexnet-paper", {"without": "conv1"}, "'conv1': choose from conv2, conv3"),
        ("alexnet-paper", {"without": ""}, "without '': choose from conv2, conv3"),
        ("alexnet-paper", {"conv1": "11/4"}, "conv1 '11/4': a tuple like"),
        ("alexnet-paper", {"conv1": 11}, "conv1 11: a tuple like"),
        ("alexnet-paper", {"conv1": (11,)}, r"conv1 \(11,\): a tuple like"),
        ("alexnet-paper", {"conv1": (5, 0)}, r"conv1 \(5, 0\): a whole number from 1"),
        ("alexnet-paper", {"pooling": [3, 2]}, r"pooling \[3, 2\]: a tuple like"),
        ("alexnet-paper", {"after_conv1": "act pool"}, "'act pool': a tuple like"),
        ("alexnet-paper", {"after_conv1": ("act", "p")}, "choose from act, norm, spa"),
        (
            "alexnet-paper",
            {"after_conv1": ("act", "pool", "act")},
            "after_conv1 act pool act: each at most once",
        ),
        (
            "alexnet-paper",
            {"after_conv2": ("norm", "norm")},
            "after_conv2 norm norm: each at most once",
        ),
        ("cifar-11pct", {"local3": 0}, "local3 0: a whole number from 1 up"),
    ],
)
def test_wrong_switches_are_named(name, switches, message, unchecked):
    with pytest.raises(InputError, match=message) as error:
        build(name, **switches)
    assert "\n" not in str(error.value)


def test_switches_that_are_tuples():
    """AlexNet §3.3, AlexNet §3.4: steps in their order; windows as size and stride."""
    net = build("alexnet-small", conv1=(7, 2), after_conv1=("act", "pool"))
    shapes = net.shapes()
    assert list(shapes)[:4] == ["conv1", "relu1", "pool1", "conv2"]
    assert net.param_shapes()["conv1"]["kernel"].shape == (7, 7, 3, 24)
    bare = build("alexnet-paper", after_conv1=(), after_conv2=("spatial",))
    assert list(bare.shapes())[:4] == ["conv1", "conv2", "spatial2", "conv3"]


@pytest.mark.parametrize("layer", ["conv2", "conv5"])
def test_small_pooling_needs_the_padding_of_net_147(layer):
    """AlexNet §3.4: without it the maps would be 7x7 in pool5, not 6x6."""
    with pytest.raises(InputError, match=f"without {layer}: not with pooling 2 2"):
        build("alexnet-paper", pooling=(2, 2), without=layer)
    net = build("alexnet-paper", pooling=(2, 2), without="conv3")
    assert net.shapes()["pool5"] == (6, 6, 256)
    small = build("alexnet-small", pooling=(2, 2), without=layer).shapes()
    assert [small[f"pool{n}"][0] for n in "125"] == [8, 4, 2]


@pytest.mark.parametrize(
    "name, smallest, layer",
    [
        ("alexnet-paper", 52, "pool5"),
        ("vgg-e", 17, "pool5"),
        ("cifar-19pct", 12, "pool3"),
    ],
)
def test_too_small_image(name, smallest, layer):
    build(name, image_size=smallest)
    with pytest.raises(InputError, match=f"small, at {layer} .* {smallest} pixels a s"):
        build(name, image_size=smallest - 1)


def test_first_layer_too_small():
    with pytest.raises(InputError, match="conv1 a 11x11 window does not fit 10 pixels"):
        build("alexnet-paper", image_size=10)
