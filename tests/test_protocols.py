"""VGG §3.2: each way of testing against windows that are cut out one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack

from alexvgg_jax import models, protocols
from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import Conv, Dense, Local
from alexvgg_jax.models.slide import multiply_adds, slide
from alexvgg_jax.models.summary import costs

SMALL_VGG = models.build("vgg-a", classes=7, image_size=64, width=1 / 64)
NETS = {
    "vgg": SMALL_VGG,
    "vgg dense": models.build(
        "vgg-a", classes=7, image_size=64, width=1 / 64, head="dense"
    ),
    "vgg gap": models.build(
        "vgg-a", classes=7, image_size=64, width=1 / 64, head="gap"
    ),
    "vgg tanh": models.build(
        "vgg-a", classes=7, image_size=64, width=1 / 64, activation="tanh"
    ),
    "alexnet": models.build("alexnet-small", classes=7, image_size=44, width=0.05),
    "alexnet apart": models.build(
        "alexnet-small", classes=7, image_size=44, width=0.05, towers="apart"
    ),
    "alexnet spatial": models.build(
        "alexnet-small",
        classes=7,
        image_size=44,
        width=0.05,
        after_conv2=("act", "norm", "spatial", "pool"),
    ),
    "average pooling": models.build("cifar-18pct", classes=7),
}
COLOUR = np.float32([[[120.0, 110.0, 100.0]]])


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    return exponents / exponents.sum()


def test(net, protocol, params, images, mean=COLOUR):
    shape = tuple(map(max, zip(*[image.shape[:2] for image in images], strict=True)))
    batch = protocols.pictures(net, protocol, images, shape)
    run = jax.jit(protocols.probabilities, static_argnums=(0, 1))
    return np.asarray(run(net, protocol, params, batch, jnp.asarray(mean)))


def windows_of(net, params, image) -> np.ndarray:
    """The logits of the fully-connected layers on each window of the last maps."""
    layers = net.layers()
    first = next(i for i, x in enumerate(layers) if isinstance(x, Dense))
    before = layers[first - 1].name
    size = net.shapes()[before][0]
    pixels = jnp.asarray(image, jnp.float32)[None] - COLOUR[None]
    maps, _ = net.apply(params, pixels, train=False, until=before)
    logits = []
    rows, columns = (n - size + 1 for n in maps.shape[1:3])
    for y, x in itertools.product(range(rows), range(columns)):
        out = maps[:, y : y + size, x : x + size]
        for layer in layers[first:]:
            out = layer(params.get(layer.name, {}), out, train=False, key=None)
        logits.append(out[0])
    return np.stack(logits)


@pytest.mark.parametrize("name", [n for n in NETS if n not in ("vgg dense", "vgg gap")])
def test_dense_is_the_mean_of_windows_cut_one_by_one(name):
    """VGG §3.2: of images that are no multiple of 32, in one array with others."""
    net = NETS[name]
    params = random_params(net)
    params["fc8" if "fc8" in params else "fc10"]["kernel"] *= 0.1  # a soft softmax
    images = [photo(75, 101), photo(99, 70, seed=1), photo(75, 80, seed=2)]
    ours = test(net, "dense", params, images)
    for image, output in zip(images, ours, strict=True):
        both = [windows_of(net, params, x) for x in (image, image[:, ::-1])]
        assert len(both[0]) > 1
        expected = np.mean([softmax(w.mean(axis=0)) for w in both], axis=0)
        np.testing.assert_allclose(output, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_dense_of_an_image_depends_on_no_other(name):
    """An image beside larger ones has the scores that it has alone."""
    net = NETS[name]
    params = random_params(net)
    params["fc8" if "fc8" in params else "fc10"]["kernel"] *= 0.1
    images = [photo(75, 101), photo(97, 66, seed=1), photo(72, 72, seed=2)]
    together = test(net, "dense", params, images)
    alone = [test(net, "dense", params, [image])[0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=2e-3, atol=1e-6)


def test_a_head_that_is_dense_already_gives_the_same():
    """VGG §3.2: and both are `apply` of the net with the head "dense"."""
    params = random_params(SMALL_VGG)
    image = photo(75, 101)
    pixels = jnp.stack([jnp.float32(x) for x in (image, image[:, ::-1])]) - COLOUR[None]
    logits, _ = NETS["vgg dense"].apply(params, pixels, train=False)
    expected = np.mean([softmax(np.asarray(x)) for x in logits], axis=0)
    for name in ("vgg", "vgg dense"):
        ours = test(NETS[name], "dense", params, [image])[0]
        np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-6)


def test_dense_on_the_nets_own_size_is_the_net():
    params = random_params(SMALL_VGG)
    image = photo(64, 64)
    alone = test(SMALL_VGG, "centre", params, [image, image[:, ::-1]])
    ours = test(SMALL_VGG, "dense", params, [image])
    np.testing.assert_allclose(ours[0], alone.mean(axis=0), rtol=1e-4, atol=1e-6)


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
    ours = test(net, "dense", params, [image], black)[0, 0]
    assert ours == pytest.approx(sigmoid(1.0), rel=1e-5)
    # Crops: at columns 0 to 4, of brightness 0, 0.5, 1, 1.5, 2: the mean of softmax.
    several = np.mean([sigmoid(x) for x in (0, 0.5, 1, 1.5, 2)])
    crops = test(net, "multi-crop", params, [image], black)[0, 0]
    assert crops == pytest.approx(several, rel=1e-5)
    both = test(net, "dense+multi-crop", params, [image], black)[0, 0]
    assert both == pytest.approx((ours + crops) / 2, rel=1e-6)
    ten = test(net, "ten", params, [image], black)[0, 0]
    assert ten == pytest.approx((2 * 0.5 + 2 * sigmoid(2) + sigmoid(1)) / 5, rel=1e-5)
    centre = test(net, "centre", params, [image], black)[0, 0]
    assert centre == pytest.approx(sigmoid(1.0), rel=1e-5)


def test_multi_crop_is_a_grid_of_25_and_its_mirror_images():
    """VGG §3.2: cut one by one, with the mean image, of two sizes in one array."""
    net = models.build("alexnet-small", classes=7, image_size=24, width=0.05)
    params = random_params(net)
    params["fc8"]["kernel"] *= 0.1
    mean = photo(26, 26, seed=9).astype(np.float32)
    images = [photo(32, 49), photo(41, 32, seed=1)]
    ours = test(net, "multi-crop", params, images, mean)
    for image, output in zip(images, ours, strict=True):
        y, x = image.shape[0] - 24, image.shape[1] - 24
        cut = [
            image[i * y // 4 :][:24, j * x // 4 :][:, :24]
            for i in range(5)
            for j in range(5)
        ]
        seen = np.float32(cut + [crop[:, ::-1] for crop in cut]) - mean[1:25, 1:25]
        assert len(seen) == 50
        logits, _ = net.apply(params, jnp.asarray(seen), train=False)
        expected = np.mean([softmax(np.asarray(one)) for one in logits], axis=0)
        np.testing.assert_allclose(output, expected, rtol=2e-3, atol=1e-6)


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
