"""The pictures of `style_transfer.py`, with random weights of a narrow VGG."""

import json

import numpy as np
import pytest
import style_transfer
from nets import random_params
from PIL import Image

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build

NET = build("vgg-a", width=1 / 32, pool="average")


def write_weights(path, params):
    """A safetensors file with torchvision's names, which number all layers."""
    entries, data = {}, b""
    for number, layer in enumerate(NET.layers()):
        if layer.name in params and layer.name.startswith("conv"):
            kernel = np.asarray(params[layer.name]["kernel"]).transpose(3, 2, 0, 1)
            bias = np.asarray(params[layer.name]["bias"])
            for part, array in (("bias", bias), ("weight", kernel)):
                array = array.astype(np.float32)
                entries[f"features.{number}.{part}"] = {
                    "dtype": "F32",
                    "shape": array.shape,
                    "data_offsets": [len(data), len(data) + array.nbytes],
                }
                data += array.tobytes()
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


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
    """They lower the loss, and the command writes the picture."""
    params, steps, paint = random_params(NET), [], style_transfer.paint

    def watched(*arguments):
        for painted in paint(*arguments):
            steps.append(painted)
            yield painted

    monkeypatch.setattr(style_transfer, "paint", watched)
    monkeypatch.setattr(style_transfer, "build", lambda *_, **switches: NET)
    out, weights = tmp_path / "new" / "out.png", tmp_path / "weights"
    write_weights(weights, params)
    options = ("--weights", weights, "--out", out, "--size", 32, "--steps", 2)
    command(monkeypatch, *pictures, *options)
    assert 0 < steps[1].loss < steps[0].loss
    written = np.asarray(Image.open(out), np.float32)
    expected = np.asarray(steps[1].image[0]).clip(0, 255)
    np.testing.assert_allclose(written, expected, atol=0.6)

    read = style_transfer.read_weights(weights, NET)
    assert [*read] == [name for name in params if name.startswith("conv")]
    kernel = params["conv3_1"]["kernel"]
    np.testing.assert_array_equal(read["conv3_1"]["kernel"], kernel)


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "--weights FILE: fetch model.safetensors of timm/vgg16.tv_in1k"),
        (("--weights", "photo.png"), "photo.png: no safetensors of this VGG"),
        (("--weights", "missing"), "missing: No such file"),
        (("--weights", "w", "--steps", "0"), "--steps 0: at least 1"),
        (("--weights", "w", "--out", "out.jpg"), "out.jpg: the picture is a .png"),
    ],
)
def test_wrong_options(monkeypatch, pictures, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        command(monkeypatch, *pictures, *options)
