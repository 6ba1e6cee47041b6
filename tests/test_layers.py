"""Each layer against ONNX's reference evaluator and plain float64 loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import linen as nn
from onnx.reference import ReferenceEvaluator

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Pool,
    activation,
    max_pool,
    max_pool_on_cpu,
    windows,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class Alone(nn.Module):
    row: Conv | Dense

    @nn.compact
    def __call__(self, x):
        return self.row(x, train=False, key=None)


def compute(row, x):
    """A row without parameters, in float32 and as in tests."""
    return row(jnp.asarray(x), train=False, key=None)


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


def gradient(row, x, weights):
    """Of the row's output, summed with weights."""
    weights = jnp.asarray(weights)
    return jax.grad(lambda x: jnp.sum(compute(row, x) * weights))(jnp.asarray(x))


def assert_close(ours, theirs, relative=1e-5):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=relative * np.abs(theirs).max()
    )


def covering(n, size, stride, pad=0):
    """How many windows it takes to cover n pixels with `pad` more at both ends."""
    count = 1
    while (count - 1) * stride + size < n + 2 * pad:
        count += 1
    return count


def test_windows_cover_the_image_and_no_more():
    for n, size, stride, pad in itertools.product(
        range(1, 20), range(1, 6), range(1, 5), range(3)
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
        (15, 14, 11, 4, 0, 1),  # the last window reads zeros behind the border
        (16, 13, 11, 4, 0, 2),
        (5, 7, 1, 1, 0, 1),
    ],
)
def test_convolution(height, width, size, stride, pad, groups, rng):
    """AlexNet §3.2: with two groups, each half of the kernels sees half the maps."""
    x = rng.normal(size=(2, height, width, 6))
    kernel = rng.normal(size=(size, size, 6 // groups, 4))
    bias = rng.normal(size=4)
    row = Conv("conv", 4, size, stride, pad, groups)
    params = {"conv": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    ours = Alone(row).apply({"params": params}, jnp.asarray(x))
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
    assert row.output(x.shape[1:]) == ours.shape[1:]


def test_first_convolution_reads_224_pixels_as_227(rng):
    """AlexNet §3.5: 55 x 55 outputs need 227 pixels; the 3 behind 224 are zeros."""
    row = Conv("conv1", 96, 11, stride=4)
    small = jnp.asarray(rng.normal(size=(1, 224, 224, 3)))
    large = jnp.pad(small, ((0, 0), (0, 3), (0, 3), (0, 0)))
    params = Alone(row).init(jax.random.key(0), small)
    ours = Alone(row).apply(params, small)
    assert ours.shape == (1, 55, 55, 96)
    assert_close(ours, np.asarray(Alone(row).apply(params, large)))


def test_dense_reads_rows_then_columns_then_maps(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    kernel = rng.normal(size=(3, 4, 5, 7))
    bias = rng.normal(size=7)
    params = {
        "fc": {"kernel": jnp.asarray(kernel.reshape(60, 7)), "bias": jnp.asarray(bias)}
    }
    ours = Alone(Dense("fc", 7)).apply({"params": params}, jnp.asarray(x))
    assert_close(ours, np.einsum("nhwc,hwcf->nf", x, kernel) + bias)


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
        (7, 9, 3, 2),  # every window is whole
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
    row = Pool("pool", size, stride, kind)
    ours = compute(row, x)
    assert_close(ours, pool(x, size, stride, kind))
    op = {"max": "MaxPool", "average": "AveragePool"}[kind]
    theirs = by_onnx(op, x, kernel_shape=[size] * 2, strides=[stride] * 2, ceil_mode=1)
    assert_close(ours, theirs)
    assert row.output(x.shape[1:]) == ours.shape[1:]


@POOLS
@KINDS
def test_gradient_of_pooling(height, width, size, stride, kind, rng):
    """AlexNet §3.4: central differences in float64, far from any tie."""
    x = rng.permutation(np.arange(2.0 * height * width)).reshape(1, height, width, 2)
    weights = rng.normal(size=pool(x, size, stride, kind).shape)
    ours = gradient(Pool("pool", size, stride, kind), x, weights)
    theirs = slopes(lambda x: np.sum(pool(x, size, stride, kind) * weights), x, 0.25)
    assert_close(ours, theirs)


def test_one_of_tied_pixels_takes_the_whole_gradient(rng):
    """AlexNet §3.4: after a ReLU whole windows are zero."""
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
    row, x = Dropout("drop", rate=0.3), jnp.full((100, 200), 2.0)
    trained = row(x, train=True, key=jax.random.key(0))
    assert set(np.unique(trained)) == {0.0, 2.0}
    assert abs(np.mean(trained == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_allclose(compute(row, x), 2 * 0.7, rtol=1e-6)


def test_inverted_dropout():
    """AlexNet §4.2, as Caffe does it: scaled in training, untouched in tests."""
    row, x = Dropout("drop", rate=0.3, inverted=True), jnp.full((100, 200), 2.0)
    trained = row(x, train=True, key=jax.random.key(0))
    np.testing.assert_allclose(np.unique(trained), [0, 2 / 0.7], rtol=1e-6)
    assert abs(np.mean(trained == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_array_equal(compute(row, x), x)


def test_dropout_mask_is_the_keys():
    row, x = Dropout("drop"), jnp.ones((10, 20))
    first, again, other = (
        np.asarray(row(x, train=True, key=jax.random.key(seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize("inverted", [False, True])
def test_dropout_without_key_names_its_layer(inverted):
    row = Dropout("drop6", inverted=inverted)
    with pytest.raises(InputError, match="drop6.*key="):
        row(jnp.ones((1, 2)), train=True, key=None)


def test_activations():
    """AlexNet §3.1: max(0, x), and tanh(x)."""
    x = np.linspace(-3, 3, 13)
    relu, tanh = activation("relu", "1"), activation("tanh", "5_1")
    assert (relu.name, tanh.name) == ("relu1", "tanh5_1")
    assert_close(compute(relu, x), np.maximum(0, x))
    assert_close(compute(tanh, x), np.tanh(x))


@pytest.mark.parametrize("size, stride", [(3, 2), (2, 2), (3, 1), (3, 3), (4, 2)])
@pytest.mark.parametrize("height, width", [(8, 8), (9, 7), (5, 6)])
def test_the_cpu_gradient_of_max_pooling_is_its_definitions(
    size, stride, height, width
):
    """AlexNet §3.4: equal winners included, the first of them gets the gradient."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(0, 4, (2, height, width, 3)), jnp.float32)

    def gradient(pool):
        pooled, backward = jax.vjp(lambda x: pool(x, size, stride), x)
        weights = jnp.arange(pooled.size, dtype=jnp.float32).reshape(pooled.shape)
        return pooled, backward(weights)[0]

    ours, definition = (
        jax.jit(gradient, static_argnums=0)(pool)
        for pool in (max_pool_on_cpu, max_pool)
    )
    np.testing.assert_array_equal(ours[0], definition[0])
    np.testing.assert_allclose(ours[1], definition[1], rtol=1e-6)
