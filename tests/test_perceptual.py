"""LPIPS, content and style: formulas in NumPy, properties, ranges and derivatives."""

from dataclasses import replace
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack

from alexvgg_jax import perceptual
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.models.layers import Conv, Pool, activation
from alexvgg_jax.perceptual import (
    MEAN,
    content_distance,
    content_loss,
    features,
    grams,
    lpips,
    lpips_distance,
    lpips_features,
    lpips_heads,
    net_input,
    style_distance,
    style_loss,
    unit_vectors,
)

NET = build("alexnet-owt")
BYTES = {"range": (0, 255)}
SIZE = (24, 32)


DISTANCE = jax.jit(partial(lpips, NET, **BYTES))


@pytest.fixture(scope="module")
def params():
    return random_params(NET, only=[f"conv{i}" for i in range(1, 6)])


def pictures(count, side, seed=0):
    shape = (count, side, side, 3)
    values = np.random.default_rng(seed).uniform(0, 255, shape)
    return jnp.asarray(values, jnp.float32)


def maps(seed):
    """Features of two images of SIZE in layers of several scales; one vector is 0."""
    rng = np.random.default_rng(seed)
    found = {
        f"relu{scale}": rng.normal(size=(2, *(n // scale for n in SIZE), 2 + scale))
        for scale in (1, 4, 8)
    }
    found["relu4"][:, 2, 3] = 0
    return {
        layer: jnp.asarray(np.maximum(x, 0), "float32") for layer, x in found.items()
    }


HEADS = {f"relu{scale}": jnp.linspace(0, 1, 2 + scale) for scale in (1, 4, 8)}


# LPIPS


def test_lpips_is_the_papers_formula():
    """Zhang et al. 2018, equation 1; OpenCV enlarges the maps by linear interpolation,
    and their mean is the distance because the sizes divide the image's."""
    ours, theirs = maps(0), maps(1)
    total, enlarged = np.zeros(2), np.zeros((2, *SIZE))
    for layer, head in HEADS.items():
        f, g = (np.float64(x[layer]) for x in (ours, theirs))
        f, g = (x / (np.sqrt((x**2).sum(-1))[..., None] + 1e-10) for x in (f, g))
        distances = ((f - g) ** 2 * np.asarray(head)).sum(-1)
        total += distances.mean((1, 2))
        enlarged += [cv2.resize(x, SIZE[::-1]) for x in distances]
    found = jax.jit(lpips_distance)(ours, theirs, HEADS)
    np.testing.assert_allclose(found, total, rtol=1e-5)
    found = jax.jit(lpips_distance, static_argnums=3)(ours, theirs, HEADS, SIZE)
    np.testing.assert_allclose(found, enlarged, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.mean((1, 2)), total, rtol=1e-5)


def test_the_layers_of_vgg():
    """As in PyTorch, pooling leaves out incomplete windows of 35 pixels."""
    net = build("vgg-d")
    image = jax.ShapeDtypeStruct((1, 35, 50, 3), jnp.float32)
    compute = partial(lpips_features, net, **BYTES)
    found = jax.eval_shape(compute, net.param_shapes(), image)
    assert {layer: x.shape for layer, x in found.items()} == {
        "relu1_2": (1, 35, 50, 64),
        "relu2_2": (1, 17, 25, 128),
        "relu3_3": (1, 8, 12, 256),
        "relu4_3": (1, 4, 6, 512),
        "relu5_3": (1, 2, 3, 512),
    }


def test_lpips_is_zero_for_equal_images_symmetric_and_grows(params):
    a, b = pictures(2, 35), pictures(2, 35, seed=1)
    assert (DISTANCE(params, a, a) < 1e-12).all()  # XLA rounds both images differently
    whole = DISTANCE(params, a, b)
    np.testing.assert_array_equal(whole, DISTANCE(params, b, a))
    some = DISTANCE(params, a, 0.9 * a + 0.1 * b)
    assert (0 < some).all() and (some < whole).all()


def test_the_features_of_a_constant_image_are_computed_once(params):
    """They give the same distance, and the map, which is largest at the change."""
    a = pictures(2, 35)
    b = a.at[:, -8:, -8:].set(0)
    found = jax.jit(partial(lpips_features, NET, **BYTES))
    ours, target, heads = found(params, a), found(params, b), lpips_heads(NET)
    whole = DISTANCE(params, a, b)
    distance = lpips_distance(ours, target, heads)
    np.testing.assert_allclose(distance, whole, rtol=1e-4)
    where = lpips_distance(ours, target, heads, (35, 35))
    assert where[:, :8, :8].mean() < 0.5 * where[:, -8:, -8:].mean()
    spatial = partial(lpips, NET, **BYTES, spatial=True)
    assert jax.eval_shape(spatial, params, a, b).shape == (2, 35, 35)


@pytest.mark.parametrize(
    ("distance", "of"),
    [
        (lambda f, g: lpips_distance(f, g, HEADS), dict),
        (lambda f, g: lpips_distance(f, g, HEADS, SIZE), dict),
        (content_distance, dict),
        (style_distance, grams),
    ],
    ids=["lpips", "map", "content", "style"],
)
def test_one_image_is_compared_with_every_image(distance, of):
    """Other batches of different lengths are refused."""
    ours, theirs = of(maps(0)), of(maps(1))

    both = {layer: x[:1].repeat(2, axis=0) for layer, x in theirs.items()}
    one = {layer: x[:1] for layer, x in theirs.items()}
    for first, second, same in ((ours, one, both), (one, ours, both)):
        expected = distance(ours, same)
        assert len(expected) == 2
        np.testing.assert_allclose(distance(first, second), expected, rtol=1e-6)
    three = {layer: x[:1].repeat(3, axis=0) for layer, x in theirs.items()}
    with pytest.raises(InputError, match=r"relu1 has different shapes, \(2, .*\(3, "):
        distance(ours, three)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("distance", "of"),
    [
        (lambda f, g: lpips_distance(f, g, HEADS), dict),
        (content_distance, dict),
        (style_distance, grams),
    ],
    ids=["lpips", "content", "style"],
)
def test_other_shapes_that_broadcast_are_refused(distance, of):
    ours = of(maps(0))
    other = {layer: x[:, :1, :1] for layer, x in ours.items()}
    with pytest.raises(InputError, match="relu1 has different shapes"):
        distance(ours, other)
    less = {layer: x for layer, x in ours.items() if layer != "relu4"}
    for pair in ((ours, less), (less, ours)):
        with pytest.raises(InputError, match="relu4 is missing in one of the batches"):
            distance(*pair)


@pytest.mark.parametrize(
    "name, sizes",
    [("alexnet-owt", (64, 192, 384, 256, 256)), ("vgg-d", (64, 128, 256, 512, 512))],
)
def test_the_heads_fit_the_nets(name, sizes):
    """Version 0.1 has no negative weights; the licence lies beside them."""
    heads = lpips_heads(build(name))
    assert tuple(head.size for head in heads.values()) == sizes
    assert build(name).shapes().keys() >= heads.keys()
    assert all((head >= 0).all() and (head > 0).any() for head in heads.values())
    licence = perceptual.Path(perceptual.__file__).with_name("lpips_heads.LICENSE")
    assert "Copyright (c) 2018, Richard Zhang" in licence.read_text(encoding="utf8")


def test_nets_without_heads():
    with pytest.raises(InputError, match="LPIPS is for alexnet-owt and vgg-d"):
        lpips_heads(build("vgg-a"))
    with pytest.raises(InputError, match="LPIPS has 3 weights for 6 maps"):
        lpips_distance(maps(0), maps(1), {"relu4": HEADS["relu1"]})


# Derivatives


def test_unit_vectors_and_their_derivatives_are_finite():
    """First derivatives backwards and forwards, and second ones, of any length."""

    @jax.jit
    def derivatives(x):
        def loss(x):
            return (unit_vectors(x) * jnp.asarray([1.0, 2.0, 3.0])).sum()

        return jax.grad(loss)(x), jax.jacfwd(loss)(x), jax.hessian(loss)(x)

    for size in (0, 1e-38, 1e-30, 1e-18, 1e-14, 1e-12, 1e-6, 1, 1e6, 1e18):
        x = jnp.asarray([3.0, 0.0, -4.0]) * size
        unit = np.float64(x) / (np.linalg.norm(np.float64(x)) + 1e-10)
        np.testing.assert_allclose(unit_vectors(x), unit, rtol=1e-5, atol=1e-4)
        assert all(jnp.isfinite(y).all() for y in derivatives(x)), size
    assert all((y == 0).all() for y in derivatives(jnp.zeros(3)))


def test_the_derivative_of_unit_vectors():
    """(I - u u' n / (n + e)) / (n + e) for a vector of length n along u."""
    x = np.random.default_rng(0).normal(size=7)
    n, e = np.linalg.norm(x), 1e-10
    expected = (np.eye(7) - np.outer(x, x) / n / (n + e)) / (n + e)
    found = jax.jacobian(unit_vectors)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def tiny(**switches):
    layers = []
    for i in (1, 2):
        layers += [Conv(f"conv{i}", 8, 3, pad=1), activation("relu", str(i))]
        layers += [Conv(f"conv{i}b", 8, 3, pad=1), activation("relu", f"{i}b")]
        layers += [Pool(f"pool{i}", 2, 2)]
    return replace(stack(*layers, image_size=32), **switches)


TINY, TINY_LAYERS = tiny(), ("relu1b", "relu2b")
TINY_HEADS = {layer: jnp.linspace(0, 1, 8) for layer in TINY_LAYERS}


def test_gradients_are_finite_for_equal_images_and_zero_features():
    """Biases below any product leave only zeros after the ReLUs."""
    live, image = random_params(TINY), pictures(1, 8)
    dead = {name: {**x, "bias": x["bias"] - 1e5} for name, x in live.items()}

    def losses(image, params, target):
        ours = features(TINY, params, image, TINY_LAYERS, **BYTES)
        style = style_distance(grams(ours), grams(target))
        content = content_distance(ours, target)
        return (lpips_distance(ours, target, TINY_HEADS) + style + content).sum()

    @jax.jit
    def derivatives(*inputs):
        slope, along = jax.grad(losses), jnp.ones_like(inputs[0])
        zeros = jax.tree.map(jnp.zeros_like, inputs[1:])
        return jax.jvp(slope, inputs, (along, *zeros))

    for params in (live, dead):
        target = features(TINY, params, image, TINY_LAYERS, **BYTES)
        assert (params is dead) == all((x == 0).all() for x in target.values())
        found = derivatives(image, params, target)
        assert all(jnp.isfinite(x).all() for x in found)


def test_half_precision_is_close():
    """Features are bfloat16, distances float32."""
    a, b, params = pictures(2, 16), pictures(2, 16, seed=1), random_params(TINY)

    @partial(jax.jit, static_argnums=0)
    def compare(net, a, b):
        ours, theirs = (features(net, params, x, TINY_LAYERS, **BYTES) for x in (a, b))
        return lpips_distance(ours, theirs, TINY_HEADS), ours

    value, _ = compare(TINY, a, b)
    close, found = compare(tiny(compute="bfloat16"), a, b)
    assert {x.dtype for x in found.values()} == {jnp.dtype("bfloat16")}
    assert close.dtype == jnp.float32
    np.testing.assert_allclose(close, value, rtol=0.02)


def test_remat_keeps_less_for_the_gradient():
    """Without it, 8 maps after each convolution and each ReLU. LPIPS keeps features
    but no unit vectors."""
    image, params = pictures(1, 16), random_params(TINY)
    target = features(TINY, params, image, TINY_LAYERS, **BYTES)

    def kept(net):
        def loss(image):
            ours = features(net, params, image, TINY_LAYERS, **BYTES)
            return lpips_distance(ours, target, TINY_HEADS).sum()

        residuals = jax.eval_shape(lambda image: jax.vjp(loss, image)[1], image)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))

    assert kept(tiny(remat=True)) < 0.7 * kept(TINY)


# The input


def test_the_ranges_are_the_same_images():
    image = pictures(1, 16).round()
    expected = image - jnp.asarray(MEAN)[None, None, None]
    for x, limits in (
        (image, (0, 255)),
        (np.asarray(image).astype(np.uint8), (0, 255)),
        (image / 255, (0, 1)),
        (image / 127.5 - 1, (-1, 1)),
    ):
        np.testing.assert_allclose(net_input(x, limits), expected, atol=1e-4)


@pytest.mark.parametrize("side", [13, 16])
def test_the_input_is_that_of_lpips_and_torchvision(side):
    """conv1's kernel / (255 deviation) sees what LPIPS' scaling layer makes; the
    padding is zero in both."""
    image = pictures(1, side) / 127.5 - 1
    shift, scale = (
        jnp.asarray(x)[None, None, None]
        for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    conv = Conv("conv1", 4, 11, stride=4, pad=2, ceil=False)
    kernel = jax.random.normal(jax.random.key(0), (11, 11, 3, 4))
    bias = jnp.arange(4.0)
    theirs = conv.forward({"kernel": kernel, "bias": bias}, (image - shift) / scale)
    folded = kernel / (255 * scale / 2).swapaxes(2, 3)
    ours = conv.forward({"kernel": folded, "bias": bias}, net_input(image, (-1, 1)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_nan_in_an_image_is_in_the_distance(params):
    """In `jit`, images cannot be checked."""
    good = pictures(2, 64)
    bad = good.at[1, 30, 30, 0].set(jnp.nan)
    distances = DISTANCE(params, bad, good[::-1])
    assert jnp.isnan(distances).tolist() == [False, True]
    vectors = jnp.full((2, 512), 2.0).at[1].set(jnp.nan)
    assert jnp.isnan(unit_vectors(vectors)).any(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(
    "images, limits, message",
    [
        (np.zeros((1, 8, 8, 3), np.float32), (0, 100), r"range \(0, 100\): choose"),
        (np.full((1, 8, 8, 3), 2, np.float32), (0, 1), "go from 2.0 to 2.0"),
        (np.full((1, 8, 8, 3), -1, np.float32), (0, 255), "go from -1.0 to -1.0"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), (0, 255), "the images have NaN"),
        (
            jnp.full((1, 64, 64, 3), 9.0).at[0, 5, 5, 0].set(np.nan),
            (0, 255),
            "have NaN",
        ),
        (np.zeros((1, 8, 8, 3), np.uint8), (-1, 1), "images of uint8 are in"),
    ],
)
def test_images_of_another_range(images, limits, message):
    with pytest.raises(InputError, match=message):
        net_input(images, limits)


def test_images_of_another_shape(unchecked):
    with pytest.raises(InputError, match=r"NHWC in RGB, got shape \(8, 8, 3\)"):
        net_input(np.zeros((8, 8, 3), np.float32), (0, 255))


def test_unknown_layers():
    params = random_params(TINY)
    with pytest.raises(InputError, match="no layer 'relu9'; choose from conv1, relu1"):
        features(TINY, params, pictures(1, 8), ("relu1", "relu9"), **BYTES)
    with pytest.raises(InputError, match="no layers: name at least one"):
        features(TINY, params, pictures(1, 8), (), **BYTES)
    with pytest.raises(InputError, match="no layers to compare"):
        content_distance({}, {})


# Content and style


def test_content_and_style_are_the_papers_formulas():
    """Gatys et al. 2016: content, equation 1, but a mean; style, equations 3 to 5."""
    ours, theirs = maps(0), maps(1)
    content, style = np.zeros(2), np.zeros(2)
    for layer in ours:
        f, p = (
            np.float64(x[layer]).reshape(2, -1, x[layer].shape[-1])
            for x in (ours, theirs)
        )
        content += ((f - p) ** 2).mean((1, 2)) / len(ours)
        positions, count = f.shape[1:]
        difference = f.swapaxes(1, 2) @ f - p.swapaxes(1, 2) @ p
        energy = (difference**2).sum((1, 2)) / (4 * count**2 * positions**2)
        style += energy / len(ours)
    np.testing.assert_allclose(content_distance(ours, theirs), content, rtol=1e-5)
    found = style_distance(grams(ours), grams(theirs))
    np.testing.assert_allclose(found, style, rtol=1e-4)


def test_style_does_not_depend_on_places():
    """Nor on the size: a tiled picture has the same style."""
    ours = maps(0)
    moved = {layer: jnp.tile(x[:, ::-1], (1, 2, 3, 1)) for layer, x in ours.items()}
    assert (style_distance(grams(ours), grams(moved)) < 1e-10).all()
    assert (style_distance(grams(ours), grams(maps(1))) > 1e-5).all()


def test_content_and_style_of_images():
    """The distances of their features; for style their sizes may differ."""
    params = random_params(TINY)
    a, b, wide = pictures(1, 8), pictures(1, 8, seed=1), pictures(1, 16)
    layers = ("relu2", "relu1")
    found = partial(features, TINY, params, layers=layers, **BYTES)
    options = {"layers": layers, **BYTES}
    content = content_loss(TINY, params, a, b, **options)
    expected = content_distance(found(a), found(b))
    np.testing.assert_allclose(content, expected, rtol=1e-5)
    style = style_loss(TINY, params, a, wide, **options)
    expected = style_distance(grams(found(a)), grams(found(wide)))
    np.testing.assert_allclose(style, expected, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_pairs_have_one_shape():
    """One image is not compared with a batch, nor with one of another size."""
    params, a = random_params(TINY), pictures(3, 8)
    for others in (pictures(1, 8), pictures(3, 9)):
        for distance in (lpips, partial(content_loss, layers=("relu2",))):
            with pytest.raises(
                InputError, match=r"of different shapes, \(3, 8, 8, 3\)"
            ):
                distance(TINY, params, a, others, **BYTES)
    with pytest.raises(InputError, match=r"of different shapes, \(3,\) and \(1,\)"):
        style_loss(TINY, params, a, pictures(1, 9), layers=("relu2",), **BYTES)
