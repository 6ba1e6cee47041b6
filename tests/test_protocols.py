"""VGG §3.2: each way of testing against windows that are cut out one by one."""

import itertools
import re
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack
from PIL import Image

from alexvgg_jax import __main__, evaluate, models, protocols, weights
from alexvgg_jax.commands.eval import Tested, published
from alexvgg_jax.config import Data
from alexvgg_jax.data.batches import by_shape
from alexvgg_jax.data.decode import fit, scale_short
from alexvgg_jax.data.sources import find_source
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
TINY = models.build("alexnet-small", classes=2, image_size=24, width=0.05)
COLOUR = np.array([[[120, 110, 100]]], np.float32)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def read(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    return exponents / exponents.sum()


def predict(net, protocol, params, images, mean: np.ndarray = COLOUR) -> np.ndarray:
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
    ours = predict(net, "dense", params, images)
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
    together = predict(net, "dense", params, images)
    alone = [predict(net, "dense", params, [image])[0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=2e-3, atol=1e-6)


def test_a_head_that_is_dense_already_gives_the_same():
    """VGG §3.2: and both are `apply` of the net with the head "dense"."""
    params = random_params(SMALL_VGG)
    image = photo(75, 101)
    pixels = jnp.stack([jnp.float32(x) for x in (image, image[:, ::-1])]) - COLOUR[None]
    logits, _ = NETS["vgg dense"].apply(params, pixels, train=False)
    expected = np.mean([softmax(np.asarray(x)) for x in logits], axis=0)
    for name in ("vgg", "vgg dense"):
        ours = predict(NETS[name], "dense", params, [image])[0]
        np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-6)


def test_dense_on_the_nets_own_size_is_the_net():
    params = random_params(SMALL_VGG)
    image = photo(64, 64)
    alone = predict(SMALL_VGG, "centre", params, [image, image[:, ::-1]])
    ours = predict(SMALL_VGG, "dense", params, [image])
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
    net = models.build("alexnet-small", classes=7, image_size=24, width=0.05)
    params = random_params(net)
    params["fc8"]["kernel"] *= 0.1
    mean = photo(26, 26, seed=9).astype(np.float32)
    images = [photo(32, 49), photo(41, 32, seed=1)]
    ours = predict(net, "multi-crop", params, images, mean)
    for image, output in zip(images, ours, strict=True):
        y, x = image.shape[0] - 24, image.shape[1] - 24
        cut = [
            image[i * y // 4 :][:24, j * x // 4 :][:, :24]
            for i in range(5)
            for j in range(5)
        ]
        seen = (
            np.array(cut + [crop[:, ::-1] for crop in cut], np.float32)
            - mean[1:25, 1:25]
        )
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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 photographs of odd sizes in a folder of two classes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(24):
        height, width = rng.integers(60, 84, 2)
        file = root / "ab"[n % 2] / f"{n:02}.png"
        file.parent.mkdir(exist_ok=True)
        small = cv2.resize(photo(6, 6, n), (int(width), int(height)))
        cv2.imwrite(str(file), small)
    return root


@pytest.mark.parametrize("protocol", ["centre", "dense", "multi-crop"])
def test_every_image_counts_once_at_every_scale(photos, protocol):
    """VGG Table 4: whatever its shape and the batch, as if it were alone."""
    source = find_source(Data(str(photos)), "all")
    params = random_params(TINY)
    params["fc8"]["kernel"] *= 0.1
    scales = (26, 33)

    def resize(image, size):
        if protocol == "centre":
            return fit(image, size)[:24, :24]
        return scale_short(image, size)

    how = (protocol, scales, COLOUR, resize)
    counts = []
    together = evaluate.predict_pictures(TINY, params, source, *how, 8, counts.append)
    assert sum(counts) == len(set(together.names)) == len(together.names) == 24
    assert [Path(name).parent.name for name in together.names] == ["a"] * 12 + [
        "b"
    ] * 12
    assert together.labels.tolist() == [0] * 12 + [1] * 12
    np.testing.assert_allclose(together.probabilities.sum(axis=1), 1, rtol=1e-5)
    sizes = set()
    for n in (0, 7, 23):
        image = read(together.names[n])
        alone = [
            predict(TINY, protocol, params, [resize(image, scale)])[0]
            for scale in scales
        ]
        np.testing.assert_allclose(
            together.probabilities[n], np.mean(alone, axis=0), rtol=2e-3, atol=1e-6
        )
        sizes.add(image.shape)
    assert len(sizes) == 3
    assert together.programs <= 2 * 2 * 2 * 4  # batches, scales, orientations, lengths


def test_shapes_of_batches_are_few_and_large_enough():
    rng = np.random.default_rng(0)
    images = [np.zeros((40, int(n), 3), np.uint8) for n in rng.integers(40, 200, 500)]
    images += [image.swapaxes(0, 1) for image in images]
    found, full = [], {}
    for shape, group in by_shape(enumerate(images), 16):
        for number, image in group:
            found.append(number)
            height, width, _ = image.shape
            assert height <= shape[0] < height + 32 and width <= shape[1] < width + 32
            assert min(shape) == min(height, width)
        full.setdefault(shape, []).append(len(group))
    assert sorted(found) == list(range(1000))
    assert len(full) <= 2 * 6 + 1
    for sizes in full.values():
        assert set(sizes[:-1]) <= {16}


def run_command(*arguments) -> None:
    __main__.parse([*map(str, arguments)])()


@pytest.fixture(scope="module")
def nets_of_photos(tmp_path_factory):
    """Files of the weights of two nets with the classes of `photos`."""
    files = []
    for seed in range(2):
        provenance = weights.Provenance(
            "ours",
            COLOUR[0, 0],
            resize=30,
            crop=24,
            interpolation="area",
            classes=("a", "b"),
        )
        file = tmp_path_factory.mktemp("nets") / "net.safetensors"
        weights.save(TINY.init(jax.random.key(seed)), file, TINY, provenance)
        files.append(file)
    return files


def test_nets_are_fused_and_saved(photos, nets_of_photos, tmp_path, capfd):
    """VGG Table 6: from files of probabilities or from weights."""
    one, two = nets_of_photos
    how = ("--data", photos, "--protocol", "dense", "--scales", "26", "33")
    saved = tmp_path / "one.npz"
    run_command("eval", one, *how, "--save", saved)
    printed = capfd.readouterr()
    assert "24 images of folder photos" in printed.out
    assert "compiled shapes" in printed.err
    run_command("eval", two, *how, "--save", tmp_path / "two.npz")
    for n, other in enumerate((saved, one)):
        both = tmp_path / f"both{n}.npz"
        run_command("eval", two, *how, "--fuse", other, "--save", both)
        first, second, fused = (
            np.load(file)["probabilities"]
            for file in (saved, tmp_path / "two.npz", both)
        )
        assert not np.allclose(first, second)
        np.testing.assert_allclose(fused, (first + second) / 2, rtol=1e-4)
    labels = np.load(saved)["labels"]
    wrong = 100 * np.mean(fused.argmax(axis=1) != labels)
    assert f"top-1 error {wrong:.2f}%" in capfd.readouterr().out.splitlines()[-2]
    with pytest.raises(InputError, match="exists already"):
        run_command("eval", one, *how, "--save", saved)
    (photos / "a" / "00.png").rename(photos / "a" / "30.png")
    with pytest.raises(InputError, match="one.npz: its names are others"):
        run_command("eval", two, *how, "--fuse", saved)
    (photos / "a" / "30.png").rename(photos / "a" / "00.png")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no file of numpy")
    with pytest.raises(InputError, match="bad.npz: not a file of --save"):
        run_command("eval", two, *how, "--fuse", tmp_path / "bad.npz")


def test_the_centre_of_weights_is_what_they_expect(photos, nets_of_photos, tmp_path):
    """`weights.preprocess`, for every picture."""
    net, params, provenance = weights.load_net(nets_of_photos[0])
    saved = tmp_path / "saved.npz"
    run_command("eval", nets_of_photos[0], "--data", photos, "--save", saved)
    found = np.load(saved)
    seen = jnp.stack(
        [weights.preprocess(read(name), provenance) for name in found["names"]]
    )
    expected = jax.nn.softmax(net.apply(params, seen, train=False)[0])
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scales", "23"), "--scales 23: at least 24"),
        (("--protocol", "ten", "--scales", "24"), "all crops are the same"),
        (("--save", "probabilities.csv"), "--save probabilities.csv: name an .npz"),
        (("--fuse", "nowhere.npz"), "--fuse nowhere.npz: No such file"),
        (("--batch", "0"), "--batch 0: at least 1"),
    ],
)
def test_wrong_options_of_eval(options, message, photos, nets_of_photos):
    with pytest.raises(InputError, match=re.escape(message)):
        run_command("eval", nets_of_photos[0], "--data", photos, *options)


def tested(models, protocol, scales, classes) -> list[Tested]:
    nothing = np.zeros(0)
    names = tuple(map(str, range(classes)))
    return [
        Tested(model, protocol, tuple(scales), names, (), nothing, nothing)
        for model in models
    ]


@pytest.mark.parametrize(
    ("models", "protocol", "scales", "lines"),
    [
        (["vgg-a-lrn"], "dense", [256], ["VGG Table 3, A-LRN, S 256", "29.7%", "10.5"]),
        (["vgg-d"], "dense", [224, 256, 288], ["VGG Table 4, D, S 256", "26.6", "8.6"]),
        (["vgg-e"], "multi-crop", [256, 384, 512], ["VGG Table 5, E", "24.6", "7.4"]),
        (["vgg-d"], "dense+multi-crop", [256, 384, 512], ["D, both", "24.4", "7.2"]),
        (["vgg-e", "vgg-d"], "dense", [256, 384, 512], ["VGG Table 6", "24%", "7.1"]),
        (["alexnet-paper"], "ten", [256], ["ten crops", "37.5", "17"]),
        (["vgg-d"], "centre", [256], []),
        (["vgg-d", "vgg-d"], "dense", [256, 384, 512], []),
    ],
)
def test_the_published_row(models, protocol, scales, lines):
    tests = tested(models, protocol, scales, 1000)
    rows = published(tests)
    assert bool(rows) == bool(lines)
    for line in lines:
        assert line in rows[0]
    assert published(tested(models, protocol, scales, 10)) == []
    assert published([*tests, tests[0]._replace(protocol="ten")]) == []
