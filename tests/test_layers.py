"""Each layer against ONNX's reference evaluator and plain float64 loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    GlobalAverage,
    Local,
    Pool,
    SlidingDense,
    activation,
)
from alexvgg_jax.models.operations import windows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def compute(layer, x, kernel=None, bias=None):
    """The output of a layer in tests, in float32."""
    params = {}
    if kernel is not None:
        params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return layer(params, jnp.asarray(x), train=False, key=None)


def by_onnx(op, x, *weights, **attributes):
    """One ONNX operator on NHWC images; its other inputs are as ONNX lays them out."""
    names = ["x", "kernel", "bias"][: 1 + len(weights)]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)
        for name in (*names, "y")
    ]
    graph = onnx.helper.make_graph([node], op, infos[:-1], infos[-1:])
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    inputs = dict(zip(names, (x.transpose(0, 3, 1, 2), *weights), strict=True))
    (y,) = ReferenceEvaluator(model).run(None, inputs)
    return y.transpose(0, 2, 3, 1)


def slopes(function, x, step):
    """Central differences of a scalar function at every element of x."""
    found = np.empty_like(x)
    for i in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[i] += step
        behind[i] -= step
        found[i] = (function(ahead) - function(behind)) / (2 * step)
    return found


def gradient(layer, x, weights):
    """The gradient of the sum of the outputs times `weights`."""
    weights = jnp.asarray(weights)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(compute(layer, x) * weights)))
    return slope(jnp.asarray(x))


def assert_close(ours, theirs, relative=1e-5):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=relative * np.abs(theirs).max()
    )


def covering(n, size, stride, pad=0):
    """The number of windows that cover n pixels with `pad` more at both ends."""
    count = 1
    while (count - 1) * stride + size < n + 2 * pad:
        count += 1
    return count


def test_windows_cover_the_image_and_no_more():
    for n, size, stride, pad in itertools.product(
        range(1, 14), range(1, 6), range(1, 5), range(3)
    ):
        if n + 2 * pad < size:
            with pytest.raises(InputError, match=f"{size}x{size} .* {n} pixels"):
                windows(n, size, stride, pad)
            continue
        count, end = windows(n, size, stride, pad)
        assert count == covering(n, size, stride, pad)
        assert pad + n + end == (count - 1) * stride + size


@pytest.mark.parametrize(
    "height, width, size, stride, pad, groups",
    [
        (8, 8, 3, 1, 1, 1),
        (9, 12, 5, 1, 2, 1),
        (9, 12, 5, 1, 2, 2),
        (11, 8, 3, 2, 0, 2),
        (10, 13, 4, 3, 1, 1),
        (15, 14, 11, 4, 0, 1),  # the last window reads zeros beyond the border
        (16, 13, 11, 4, 0, 2),
        (5, 7, 1, 1, 0, 1),
    ],
)
def test_convolution(height, width, size, stride, pad, groups, rng):
    """AlexNet §3.2: with two groups, each half of the kernels sees half the maps."""
    x = rng.normal(size=(2, height, width, 6))
    kernel = rng.normal(size=(size, size, 6 // groups, 4))
    bias = rng.normal(size=4)
    layer = Conv("conv", 4, size, stride, pad, groups)
    ours = compute(layer, x, kernel, bias)
    ends = [
        (covering(n, size, stride, pad) - 1) * stride + size - pad - n
        for n in (height, width)
    ]
    theirs = by_onnx(
        "Conv",
        x,
        kernel.transpose(3, 2, 0, 1),
        bias,
        strides=[stride] * 2,
        pads=[pad, pad, *ends],
        group=groups,
    )
    assert_close(ours, theirs)
    assert layer.output(x.shape[1:]) == ours.shape[1:]


def test_first_convolution_reads_224_pixels_as_227(rng):
    """AlexNet §3.5: 55 x 55 outputs need 227 pixels; the last 3 of them are zeros."""
    layer = Conv("conv1", 8, 11, stride=4)
    kernel, bias = rng.normal(size=(11, 11, 3, 8)), rng.normal(size=8)
    small = rng.normal(size=(1, 224, 224, 3))
    large = np.pad(small, ((0, 0), (0, 3), (0, 3), (0, 0)))
    ours = compute(layer, small, kernel, bias)
    assert ours.shape == (1, 55, 55, 8)
    assert_close(ours, np.asarray(compute(layer, large, kernel, bias)))


def test_dense_reads_rows_then_columns_then_maps(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    kernel = rng.normal(size=(3, 4, 5, 7))
    bias = rng.normal(size=7)
    ours = compute(Dense("fc", 7), x, kernel.reshape(60, 7), bias)
    assert_close(ours, np.einsum("nhwc,hwcf->nf", x, kernel) + bias)


def test_only_complete_windows():
    """One weird trick: torch's and Caffe's convolutions do not read past the border."""
    for n, size, stride, pad in itertools.product(
        range(5, 20), range(1, 6), range(1, 5), range(3)
    ):
        count, end = windows(n, size, stride, pad, ceil=False)
        assert pad + n + end == (count - 1) * stride + size
        assert -stride < end - pad <= 0


@pytest.mark.parametrize("height, width", [(12, 15), (13, 14)])
def test_convolution_of_complete_windows(height, width, rng):
    """One weird trick: conv1 of 11x11 at stride 4, as ONNX counts its windows."""
    x = rng.normal(size=(2, height, width, 3))
    kernel, bias = rng.normal(size=(5, 5, 3, 4)), rng.normal(size=4)
    layer = Conv("conv", 4, 5, stride=4, pad=1, ceil=False)
    ours = compute(layer, x, kernel, bias)
    weights = (kernel.transpose(3, 2, 0, 1), bias)
    theirs = by_onnx("Conv", x, *weights, strides=[4, 4], pads=[1] * 4)
    assert_close(ours, theirs)
    assert layer.output(x.shape[1:]) == ours.shape[1:]


def test_groups_of_units_see_their_own_maps(rng):
    """AlexNet §3.2: fully-connected layers of towers that do not talk."""
    x = rng.normal(size=(2, 3, 4, 6))
    kernel, bias = rng.normal(size=(36, 10)), rng.normal(size=10)
    ours = compute(Dense("fc", 10, groups=2), x, kernel, bias)
    theirs = [
        half.reshape(2, 36) @ kernel[:, units]
        for half, units in zip(
            np.split(x, 2, axis=3), (slice(0, 5), slice(5, 10)), strict=True
        )
    ]
    assert_close(ours, np.concatenate(theirs, axis=1) + bias)


def test_a_fully_connected_layer_slides(rng):
    """VGG §3.2: at each place, what Dense computes of the window there."""
    x = rng.normal(size=(2, 4, 5, 3))
    kernel, bias = rng.normal(size=(27, 7)), rng.normal(size=7)
    layer = SlidingDense("fc6", 7, size=3)
    ours = compute(layer, x, kernel, bias)
    assert layer.output(x.shape[1:]) == ours.shape[1:] == (2, 3, 7)
    for i, j in np.ndindex(2, 3):
        window = x[:, i : i + 3, j : j + 3]
        assert_close(ours[:, i, j], np.asarray(window.reshape(2, 27) @ kernel + bias))
        assert_close(ours[:, i, j], compute(Dense("fc6", 7), window, kernel, bias))


def test_global_average(rng):
    """VGG §3.2: the mean of a class score map."""
    x = rng.normal(size=(2, 4, 5, 3))
    layer = GlobalAverage("average")
    ours = compute(layer, x)
    assert_close(ours, x.sum(axis=(1, 2)) / 20)
    assert layer.output(x.shape[1:]) == ours.shape[1:]


def local(x, kernel, bias, size, pad):
    """Separate kernels at each position: kernel[row, column, seen, feature]."""
    padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    y = np.empty((len(x), *bias.shape))
    for i, j, f in np.ndindex(bias.shape):
        seen = padded[:, i : i + size, j : j + size].reshape(len(x), -1)
        y[:, i, j, f] = seen @ kernel[i, j, :, f] + bias[i, j, f]
    return y


LOCALS = pytest.mark.parametrize(
    "height, width, size, pad", [(6, 6, 3, 1), (5, 4, 3, 1), (4, 5, 3, 0), (5, 6, 4, 1)]
)


@LOCALS
def test_local_layer(height, width, size, pad, rng):
    """cuda-convnet 13pct: a convolution with separate kernels, against loops."""
    layer = Local("local", 4, size, pad)
    x = rng.normal(size=(2, height, width, 3))
    rows, columns, _ = layer.output(x.shape[1:])
    kernel = rng.normal(size=(rows, columns, size**2 * 3, 4))
    bias = rng.normal(size=(rows, columns, 4))
    ours = compute(layer, x, kernel, bias)
    assert_close(ours, local(x, kernel, bias, size, pad))


@pytest.mark.parametrize("height, width, size, pad", [(5, 4, 3, 1), (4, 5, 3, 0)])
def test_gradient_of_local_layer(height, width, size, pad, rng):
    """cuda-convnet 13pct: central differences in float64, of all three arguments."""
    layer = Local("local", 2, size, pad)
    x = rng.normal(size=(1, height, width, 2))
    rows, columns, _ = layer.output(x.shape[1:])
    kernel = rng.normal(size=(rows, columns, size**2 * 2, 2))
    bias = rng.normal(size=(rows, columns, 2))
    weights = rng.normal(size=(1, rows, columns, 2))
    arguments = tuple(map(jnp.asarray, (x, kernel, bias)))
    ours = jax.grad(
        lambda *a: jnp.sum(compute(layer, *a) * jnp.asarray(weights)), argnums=(0, 1, 2)
    )(*arguments)
    given = [x, kernel, bias]
    for i, found in enumerate(ours):

        def summed(varied, i=i):
            y = local(
                *(varied if i == k else a for k, a in enumerate(given)), size, pad
            )
            return np.sum(y * weights)

        assert_close(found, slopes(summed, given[i], 0.5))


def test_one_kernel_everywhere_makes_a_local_layer_a_convolution(rng):
    """cuda-convnet 13pct: the order of rows, columns and maps in a local kernel."""
    x = rng.normal(size=(2, 6, 6, 3))
    kernel, bias = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    ours = compute(
        Local("local", 4, 3, pad=1),
        x,
        np.broadcast_to(kernel.reshape(27, 4), (6, 6, 27, 4)),
        np.broadcast_to(bias, (6, 6, 4)),
    )
    assert_close(ours, compute(Conv("conv", 4, 3, pad=1), x, kernel, bias))


def lrn_of_pixels(a, size, alpha, beta, k):
    b = np.empty_like(a)
    for i, j in np.ndindex(a.shape[1:3]):
        top, left = max(0, i - size // 2), max(0, j - size // 2)
        window = a[:, top : i + size // 2 + 1, left : j + size // 2 + 1]
        energy = (window**2).sum(axis=(1, 2))
        b[:, i, j] = a[:, i, j] / (k + alpha * energy) ** beta
    return b


LRN_OF_PIXELS = pytest.mark.parametrize(
    "c",
    [
        {"size": 3, "alpha": 5e-5 / 9, "beta": 0.75, "k": 1.0},  # cuda-convnet 18pct
        {"size": 5, "alpha": 1e-3 / 25, "beta": 0.75, "k": 1.0},  # layers-145.cfg
    ],
)


@LRN_OF_PIXELS
def test_response_normalisation_over_pixels(c, rng):
    """cuda-convnet 18pct: windows in one map, centred and clipped, against loops."""
    x = 100 * rng.normal(size=(2, 7, 4, 3))
    ours = compute(LRN("norm", **c, over="pixels"), x)
    assert_close(ours, lrn_of_pixels(x, **c))


@LRN_OF_PIXELS
def test_gradient_of_response_normalisation_over_pixels(c, rng):
    """cuda-convnet 18pct: central differences in float64."""
    x = 100 * rng.normal(size=(1, 5, 4, 2))
    weights = rng.normal(size=x.shape)
    ours = gradient(LRN("norm", **c, over="pixels"), x, weights)
    theirs = slopes(lambda x: np.sum(lrn_of_pixels(x, **c) * weights), x, 1e-2)
    assert_close(ours, theirs)


def lrn(a, size, alpha, beta, k, groups):
    b = np.empty_like(a)
    maps = a.shape[-1] // groups
    for i in range(a.shape[-1]):
        first = i // maps * maps
        near = range(max(first, i - size // 2), min(first + maps, i + size // 2 + 1))
        energy = sum(a[..., j] ** 2 for j in near)
        b[..., i] = a[..., i] / (k + alpha * energy) ** beta
    return b


LRN_CONSTANTS = pytest.mark.parametrize(
    "constants",
    [
        {},  # the paper's
        {"size": 9, "alpha": 0.001 / 9, "k": 1.0},  # cuda-convnet 11pct
        {"size": 3, "alpha": 5e-4, "beta": 0.5, "k": 1.5},
    ],
)
PAPER_LRN = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}


@LRN_CONSTANTS
@pytest.mark.parametrize("groups", [1, 2])
def test_response_normalisation(constants, groups, rng):
    """AlexNet §3.3: alpha multiplies the sum of the squares, undivided by n."""
    # As many images as maps in a group: onnx 1.23 takes the one for the other.
    x = 100 * rng.normal(size=(8, 3, 2, 8 * groups))
    ours = compute(LRN("norm", groups=groups, **constants), x)
    c = PAPER_LRN | constants
    assert_close(ours, lrn(x, **c, groups=groups))
    halves = [
        by_onnx(
            "LRN",
            half,
            size=c["size"],
            alpha=c["alpha"] * c["size"],
            beta=c["beta"],
            bias=c["k"],
        )
        for half in np.split(x, groups, axis=-1)
    ]
    assert_close(ours, np.concatenate(halves, axis=-1))


@LRN_CONSTANTS
@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_of_response_normalisation(constants, groups, rng):
    """AlexNet §3.3: central differences of the paper's formula in float64."""
    x = 100 * rng.normal(size=(1, 2, 1, 12))
    weights = rng.normal(size=x.shape)
    ours = gradient(LRN("norm", groups=groups, **constants), x, weights)
    c = PAPER_LRN | constants
    theirs = slopes(lambda x: np.sum(lrn(x, **c, groups=groups) * weights), x, 1e-2)
    assert_close(ours, theirs)


def pool(x, size, stride, kind):
    reduce = {"max": np.max, "average": np.mean}[kind]
    tops, lefts = (
        [stride * i for i in range(covering(n, size, stride))] for n in x.shape[1:3]
    )
    # A slice ends at the border, as a window does.
    pooled = [
        [reduce(x[:, i : i + size, j : j + size], axis=(1, 2)) for j in lefts]
        for i in tops
    ]
    return np.array(pooled).transpose(2, 0, 1, 3)


POOLS = pytest.mark.parametrize(
    "height, width, size, stride",
    [
        (7, 9, 3, 2),  # every window is complete
        (8, 6, 3, 2),  # the last ones are clipped
        (8, 7, 3, 2),
        (6, 8, 2, 2),
        (5, 8, 2, 2),
        (5, 7, 2, 2),
        (3, 4, 3, 2),
    ],
)
KINDS = pytest.mark.parametrize("kind", ["max", "average"])


@POOLS
@KINDS
def test_pooling(height, width, size, stride, kind, rng):
    """AlexNet §3.4: windows overlap if size > stride, and end at the border."""
    x = rng.normal(size=(2, height, width, 3)) - 10  # zeros would be maxima
    layer = Pool("pool", size, stride, kind)
    ours = compute(layer, x)
    assert_close(ours, pool(x, size, stride, kind))
    op = {"max": "MaxPool", "average": "AveragePool"}[kind]
    theirs = by_onnx(op, x, kernel_shape=[size] * 2, strides=[stride] * 2, ceil_mode=1)
    assert_close(ours, theirs)
    assert layer.output(x.shape[1:]) == ours.shape[1:]


@POOLS
@KINDS
def test_pooling_of_complete_windows(height, width, size, stride, kind, rng):
    """As in PyTorch: pixels that no complete window sees are left out."""
    x = rng.normal(size=(2, height, width, 3))
    layer = Pool("pool", size, stride, kind, ceil=False)
    op = {"max": "MaxPool", "average": "AveragePool"}[kind]
    theirs = by_onnx(op, x, kernel_shape=[size] * 2, strides=[stride] * 2, ceil_mode=0)
    assert_close(compute(layer, x), theirs)
    assert layer.output(x.shape[1:]) == theirs.shape[1:]


@POOLS
@KINDS
def test_gradient_of_pooling(height, width, size, stride, kind, rng):
    """AlexNet §3.4: central differences in float64, far from any tie."""
    x = rng.permutation(np.arange(2.0 * height * width)).reshape(1, height, width, 2)
    weights = rng.normal(size=pool(x, size, stride, kind).shape)
    ours = gradient(Pool("pool", size, stride, kind), x, weights)
    theirs = slopes(lambda x: np.sum(pool(x, size, stride, kind) * weights), x, 0.25)
    assert_close(ours, theirs)


@POOLS
def test_gradient_of_pooling_with_ties(height, width, size, stride, rng):
    """AlexNet §3.4: of equal pixels the first in reading order takes the gradient."""
    x = rng.integers(0, 3, (2, height, width, 2)).astype(float)
    weights = rng.normal(size=pool(x, size, stride, "max").shape)
    theirs = np.zeros_like(x)
    for n, i, j, m in np.ndindex(weights.shape):
        top, left = stride * i, stride * j
        window = x[n, top : top + size, left : left + size, m]
        row, column = np.unravel_index(window.argmax(), window.shape)
        theirs[n, top + row, left + column, m] += weights[n, i, j, m]
    assert_close(gradient(Pool("pool", size, stride), x, weights), theirs)


def test_only_one_of_tied_pixels_takes_the_gradient(rng):
    """AlexNet §3.4: after a ReLU complete windows are zero."""
    x = np.zeros((1, 6, 8, 2))
    weights = rng.normal(size=(1, 3, 4, 2))
    grad = np.asarray(gradient(Pool("pool", 2, 2), x, weights))
    blocks = grad.reshape(1, 3, 2, 4, 2, 2)
    assert np.all(np.count_nonzero(blocks, axis=(2, 4)) == 1)
    assert_close(blocks.sum(axis=(2, 4)), weights)

    overlapping = np.asarray(gradient(Pool("pool"), x, np.ones((1, 3, 4, 2))))
    assert overlapping.sum() == 3 * 4 * 2
    assert np.all(overlapping == overlapping.round())


def test_dropout_of_the_paper():
    """AlexNet §4.2: units are zero or untouched in training, scaled in tests."""
    layer, x = Dropout("drop", rate=0.3), jnp.full((100, 200), 2.0)
    trained = layer({}, x, train=True, key=jax.random.key(0))
    assert set(np.unique(trained)) == {0.0, 2.0}
    assert abs(np.mean(trained == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_allclose(compute(layer, x), 2 * 0.7, rtol=1e-6)


def test_inverted_dropout():
    """AlexNet §4.2, as Caffe does it: scaled in training, untouched in tests."""
    layer, x = Dropout("drop", rate=0.3, inverted=True), jnp.full((100, 200), 2.0)
    trained = layer({}, x, train=True, key=jax.random.key(0))
    np.testing.assert_allclose(np.unique(trained), [0, 2 / 0.7], rtol=1e-6)
    assert abs(np.mean(trained == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_array_equal(compute(layer, x), x)


def test_the_key_decides_the_dropout_mask():
    layer, x = Dropout("drop"), jnp.ones((10, 20))
    first, again, other = (
        np.asarray(layer({}, x, train=True, key=jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize("inverted", [False, True])
def test_dropout_without_key_names_its_layer(inverted):
    layer = Dropout("drop6", inverted=inverted)
    with pytest.raises(InputError, match="drop6.*key="):
        layer({}, jnp.ones((1, 2)), train=True, key=None)


def test_activations():
    """AlexNet §3.1: max(0, x), and tanh(x)."""
    x = np.linspace(-3, 3, 13)
    relu, tanh = activation("relu", "1"), activation("tanh", "5_1")
    assert (relu.name, tanh.name) == ("relu1", "tanh5_1")
    assert_close(compute(relu, x), np.maximum(0, x))
    assert_close(compute(tanh, x), np.tanh(x))
