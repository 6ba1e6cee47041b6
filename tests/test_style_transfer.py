"""The pictures of `style_transfer.py`, with random weights of a narrow VGG."""

import jax.numpy as jnp
import numpy as np
import pytest
import style_transfer
from nets import random_params
from PIL import Image

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.weights.provenance import IMAGENET_MEAN, Provenance

NET = build("vgg-a", width=1 / 32)


def write_weights(path, net):
    provenance = Provenance("keras", np.array(IMAGENET_MEAN))
    weights.save(random_params(net), path, net, provenance)


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for name, shape in (("photo", (40, 50, 3)), ("painting", (64, 64, 3))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, shape, np.uint8)
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["style_transfer.py", *map(str, arguments)])
    style_transfer.main()


def test_two_steps(monkeypatch, pictures, tmp_path):
    """They lower the loss, with average pooling and the mean of the weights, and the
    command writes the picture."""
    steps, paint = [], style_transfer.paint

    def watched(net, params, mean, *others):
        assert net == build("vgg-a", width=1 / 32, pool="average")
        np.testing.assert_array_equal(mean, IMAGENET_MEAN)
        for painted in paint(net, params, mean, *others):
            steps.append(painted)
            yield painted

    monkeypatch.setattr(style_transfer, "paint", watched)
    out, file = tmp_path / "new" / "out.png", tmp_path / "vgg.safetensors"
    write_weights(file, NET)
    options = ("--weights", file, "--out", out, "--size", 32, "--steps", 2)
    command(monkeypatch, *pictures, *options)
    assert 0 < steps[1].loss < steps[0].loss
    written = np.asarray(Image.open(out), np.float32)
    expected = np.asarray(steps[1].image[0]).clip(0, 255)
    np.testing.assert_allclose(written, expected, atol=0.6)


def test_the_picture_does_not_depend_on_the_unit_of_the_loss(monkeypatch):
    """Gradients of large pictures are small. A step of optax' first length would be
    lost in rounding."""
    rng, net = np.random.default_rng(0), build("vgg-a", width=1 / 32, pool="average")
    photo, painting = rng.integers(0, 256, (2, 1, 32, 32, 3)).astype(np.float32)
    distance, painted = style_transfer.content_distance, []
    for unit in (1.0, 2.0**-20):
        monkeypatch.setattr(
            style_transfer,
            "content_distance",
            lambda *both, unit=unit: unit * distance(*both),
        )
        parts = random_params(net), np.zeros(3), jnp.asarray(photo), painting
        steps = list(style_transfer.paint(net, *parts, 2, unit))
        assert steps[1].loss < steps[0].loss
        painted.append(np.asarray(steps[1].image))
    assert abs(painted[0] - photo).mean() > 0.1
    np.testing.assert_allclose(painted[1], painted[0], atol=0.01)


def test_pictures_of_scikit_learn(monkeypatch, tmp_path):
    """Without pictures: a photograph of China in the style of one of a flower."""
    found = []
    monkeypatch.setattr(style_transfer, "paint", lambda *args: found.append(args))
    write_weights(tmp_path / "vgg.safetensors", NET)
    with pytest.raises(TypeError):  # nothing is painted
        command(monkeypatch, "--weights", tmp_path / "vgg.safetensors")
    ((_, _, _, photo, painting, steps, _),) = found
    assert photo.shape == painting.shape == (1, 256, 256, 3) and steps == 200
    assert abs(photo - painting).mean() > 10


def test_weights_of_another_net(monkeypatch, tmp_path):
    net = build("alexnet-small", width=0.1)
    write_weights(tmp_path / "a.safetensors", net)
    with pytest.raises(InputError, match="a.safetensors: not of a VGG"):
        command(monkeypatch, "--weights", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "--weights FILE: a file with a trained VGG"),
        (("--weights", "photo.png"), "photo.png: no weights"),
        (("--weights", "missing"), "missing: No such file"),
        (("--weights", "w", "--steps", "0"), "--steps 0: at least 1"),
        (("--weights", "w", "--size", "8"), "--size 8: at least 32"),
        (("--weights", "w", "--out", "out.jpg"), "out.jpg: the picture is a .png"),
    ],
)
def test_wrong_options(monkeypatch, pictures, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        command(monkeypatch, *pictures, *options)
