"""VGG §3.2: each way of testing against windows that are cut out one by one."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack

from alexvgg_jax import models, protocols
from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import LRN, Conv, Dense, Local, Pool, activation
from alexvgg_jax.models.slide import multiply_adds, slide
from alexvgg_jax.models.summary import costs

SMALL_VGG = models.build("vgg-a", classes=7, image_size=64, width=1 / 64)
NETS = {
    "vgg": SMALL_VGG,
    "alexnet": models.build(
        "alexnet-small",
        classes=7,
        image_size=44,
        width=0.05,
        towers="apart",
        after_conv2=("act", "norm", "spatial", "pool"),
    ),
    "every kind of pooling": stack(
        Conv("conv1", 4, pad=1),
        activation("tanh", "1"),
        Pool("pool1"),
        LRN("norm1", size=3, over="pixels"),
        Conv("conv2", 6, pad=1),
        Pool("pool2", kind="average"),
        Dense("fc3", 8),
        activation("relu", "3"),
        Dense("fc4", 7),
        image_size=24,
    ),
}
FAST = stack(Conv("conv1", 4, stride=2), Dense("fc2", 2), image_size=24)
COLOUR = np.array([[[120, 110, 100]]], np.float32)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Squares of random colours: parts of it differ, and so does its mirror image."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return squares.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    return exponents / exponents.sum()


def soft_params(net):
    """Random parameters: no activation is saturated, and the softmax is soft."""
    params = random_params(net)
    first, *_, last = net.param_shapes()
    params[first]["kernel"] /= 100  # of pixels
    params[last] = jax.tree.map(lambda leaf: leaf / 10, params[last])
    return params


apply = jax.jit(
    lambda net, params, pixels, until: net.apply(
        params, pixels, train=False, until=until
    )[0],
    static_argnums=(0, 3),
)
probabilities = jax.jit(protocols.probabilities, static_argnums=(0, 1))


def predict(net, protocol, params, images, mean: np.ndarray = COLOUR) -> np.ndarray:
    shape = tuple(map(max, zip(*[image.shape[:2] for image in images], strict=True)))
    batch = protocols.pictures(net, protocol, images, shape)
    return np.asarray(probabilities(net, protocol, params, batch, jnp.asarray(mean)))


def centred(*images: np.ndarray) -> jax.Array:
    return jnp.asarray(np.stack(images) - COLOUR)


def scores_of_windows(net, params, images) -> np.ndarray:
    """The scores of the fully-connected layers on each window of the last maps, for
    images of one size: (windows, images, classes)."""
    layers = net.layers()
    first = next(i for i, x in enumerate(layers) if isinstance(x, Dense))
    before = layers[first - 1].name
    size = net.shapes()[before][0]
    maps = apply(net, params, centred(*images), before)
    rows, columns = (n - size + 1 for n in maps.shape[1:3])
    windows = [
        maps[:, top : top + size, left : left + size]
        for top, left in itertools.product(range(rows), range(columns))
    ]

    @jax.jit
    def head(x):
        for layer in layers[first:]:
            x = layer(params.get(layer.name, {}), x, train=False, key=None)
        return x

    scores = head(np.concatenate(windows))
    return np.asarray(scores).reshape(len(windows), len(images), -1)


@pytest.mark.parametrize("name", NETS)
def test_dense_is_the_mean_of_windows_cut_one_by_one(name):
    """VGG §3.2: of images that are no multiple of 32, in one array with others."""
    net, params = NETS[name], soft_params(NETS[name])
    images = [photo(75, 101), photo(99, 70, seed=1)]
    ours = predict(net, "dense", params, images)
    for image, output in zip(images, ours, strict=True):
        scores = scores_of_windows(net, params, [image, image[:, ::-1]])
        assert len(scores) > 1
        expected = np.mean([softmax(one) for one in scores.mean(axis=0)], axis=0)
        np.testing.assert_allclose(output, expected, rtol=5e-5)


@pytest.mark.parametrize("head", ["dense", "gap"])
def test_dense_is_apply_for_a_head_that_takes_any_image(head):
    """VGG §3.2: an image beside a larger one has the scores that it has alone."""
    net = replace(SMALL_VGG, head=head)
    params = soft_params(net)
    images = [photo(75, 101), photo(99, 70, seed=1)]
    ours = predict(net, "dense", params, images)
    for image, output in zip(images, ours, strict=True):
        scores = apply(net, params, centred(image, image[:, ::-1]), None)
        expected = np.mean([softmax(np.asarray(one)) for one in scores], axis=0)
        np.testing.assert_allclose(output, expected, rtol=5e-5)
    if head == "dense":  # has the parameters of "fc", and the same scores
        theirs = predict(SMALL_VGG, "dense", params, images)
        np.testing.assert_allclose(ours, theirs, rtol=5e-5)


def test_dense_on_the_nets_own_size_is_the_net():
    params, image = soft_params(FAST), photo(24, 24)
    alone = predict(FAST, "centre", params, [image, image[:, ::-1]])
    ours = predict(FAST, "dense", params, [image])
    np.testing.assert_allclose(ours[0], alone.mean(axis=0), rtol=5e-5)


def counting_net():
    """A net whose logits are known: how bright the image is, and 0."""
    net = stack(
        Conv("conv1", 1, 2, 2), Dense("fc1", 2), image_size=4
    )  # averages blocks of 2x2, then sums 2x2 of them
    params = {
        "conv1": {"kernel": jnp.full((2, 2, 3, 1), 1 / 12), "bias": jnp.zeros(1)},
        "fc1": {"kernel": jnp.array([[0.25, 0.0]] * 4), "bias": jnp.zeros(2)},
    }
    return net, params


def test_a_net_whose_answer_is_known():
    """VGG §3.2: of dark and bright columns, each protocol sees what it should."""
    net, params = counting_net()
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 2
    black = np.zeros((1, 1, 3), np.float32)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    # Dense: windows at columns 0, 2 and 4 of brightness 0, 1 and 2: their mean is 1.
    ours = predict(net, "dense", params, [image], black)[0, 0]
    assert ours == pytest.approx(sigmoid(1.0), rel=1e-5)
    # Crops: at columns 0 to 4, of brightness 0, 0.5, 1, 1.5, 2: the mean of softmax.
    several = np.mean([sigmoid(x) for x in (0, 0.5, 1, 1.5, 2)])
    crops = predict(net, "multi-crop", params, [image], black)[0, 0]
    assert crops == pytest.approx(several, rel=1e-5)
    both = predict(net, "dense+multi-crop", params, [image], black)[0, 0]
    assert both == pytest.approx((ours + crops) / 2, rel=1e-6)
    ten = predict(net, "ten", params, [image], black)[0, 0]
    assert ten == pytest.approx((2 * 0.5 + 2 * sigmoid(2) + sigmoid(1)) / 5, rel=1e-5)
    centre = predict(net, "centre", params, [image], black)[0, 0]
    assert centre == pytest.approx(sigmoid(1.0), rel=1e-5)


def test_multi_crop_is_a_grid_of_25_and_its_mirror_images():
    """VGG §3.2: cut one by one, with the mean image, of two sizes in one array."""
    params = soft_params(FAST)
    mean = photo(26, 26, seed=9).astype(np.float32)
    images = [photo(32, 49), photo(41, 32, seed=1)]
    ours = predict(FAST, "multi-crop", params, images, mean)
    for image, output in zip(images, ours, strict=True):
        y, x = image.shape[0] - 24, image.shape[1] - 24
        cut = [
            image[i * y // 4 :][:24, j * x // 4 :][:, :24]
            for i in range(5)
            for j in range(5)
        ]
        seen = np.array(cut + [crop[:, ::-1] for crop in cut]) - mean[1:25, 1:25]
        assert len(seen) == 50
        scores = apply(FAST, params, jnp.asarray(seen), None)
        expected = np.mean([softmax(np.asarray(one)) for one in scores], axis=0)
        np.testing.assert_allclose(output, expected, rtol=5e-5)


def test_layers_that_are_tied_to_a_place_cannot_slide():
    net = stack(Conv("conv1", 2), Local("local2", 2), Dense("fc3", 2), image_size=9)
    with pytest.raises(InputError, match="local2 has weights of its own"):
        slide(net)


def test_dense_needs_an_image_as_large_as_the_maps():
    with pytest.raises(InputError, match="32x90 is too small, at fc6"):
        protocols.pictures(SMALL_VGG, "dense", [photo(32, 90)], (32, 90))


@pytest.mark.parametrize("name", ["vgg-d", "alexnet-paper"])
def test_what_the_protocols_cost(name):
    """VGG §3.2: dense evaluation of a scale costs far less than its 50 crops."""
    net = models.build(name)
    crop = sum(layer.multiply_adds for layer in costs(net))
    assert protocols.cost(net, "centre", 256, 341) == crop
    assert protocols.cost(net, "multi-crop", 256, 341) == 50 * crop
    dense = protocols.cost(net, "dense", 256, 341)
    assert dense == 2 * multiply_adds(slide(net), (256, 341, 3))
    assert protocols.cost(net, "dense+multi-crop", 256, 341) == 50 * crop + dense
    assert 10 * dense < 50 * crop
    if name == "vgg-d":  # the same as the net that is built to slide
        over = costs(models.build(name, head="dense"), 256)
        expected = 2 * sum(layer.multiply_adds for layer in over)
        assert protocols.cost(net, "dense", 256, 256) == expected
