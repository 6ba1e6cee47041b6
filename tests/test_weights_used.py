"""What people do with weights: pictures are classified, features are written, programs
are exported."""

import csv
import functools
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from nets import random_params
from safetensors import safe_open
from safetensors.numpy import save_file
from weight_files import random_arrays, torch_state

from alexvgg_jax import __main__, models, weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.weights import hub, torchvision
from alexvgg_jax.weights.provenance import Provenance

NET = build("vgg-a", width=0.05, classes=6, image_size=32)
PARAMS = random_params(NET)
APPLY = jax.jit(functools.partial(NET.apply, train=False))
PARAMS["fc8"] = jax.tree.map(lambda x: 0.01 * x, PARAMS["fc8"])  # no class is certain
PROVENANCE = Provenance(
    format="keras", mean=np.array([120.0, 110, 100]), resize=40, crop=32
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of weights, and pictures of several sizes."""
    folder = tmp_path_factory.mktemp("used")
    weights.save(PARAMS, folder / "a.safetensors", NET, PROVENANCE)
    (folder / "photos").mkdir()
    for i, size in enumerate([(50, 70), (41, 40), (64, 32)]):
        image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(folder / "photos" / f"{i}.png"), image)
    return folder


def command(*arguments) -> None:
    __main__.parse([*map(str, arguments)])()


def outputs(folder: Path, layer: str) -> np.ndarray:
    """A layer's output for every picture, by the functions that a program calls."""
    params, provenance = weights.load(folder / "a.safetensors", NET)
    images = []
    for i in range(3):
        image = cv2.imread(str(folder / "photos" / f"{i}.png"), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        images.append(weights.preprocess(image.astype(np.uint8), provenance))
    return np.asarray(APPLY(params, np.stack(images))[1][layer])


def test_predict(folder, tmp_path, capfd, monkeypatch):
    """The probabilities of `preprocess` and `apply`."""
    monkeypatch.chdir(folder)  # the table folds long names
    out = tmp_path / "a.csv"
    command("predict", "photos", "--weights", "a.safetensors", "--csv", out)
    assert "0.png" in capfd.readouterr().out
    expected = np.asarray(jax.nn.softmax(outputs(folder, "fc8")))
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert len(lines) == 3 * 5
    for line in lines:
        row, column = int(Path(line["file"]).stem), int(line["class"])
        rank = int(line["rank"]) - 1
        assert column == np.argsort(-expected[row])[rank]
        assert float(line["probability"]) == pytest.approx(
            expected[row, column], abs=1e-4
        )


def test_predict_with_ten_views_and_weights_first(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    command("predict", "a.safetensors", "photos", "--views", "10")
    assert "2.png" in capfd.readouterr().out


def test_predict_without_a_classifier(folder, tmp_path):
    params = {k: v for k, v in PARAMS.items() if k.startswith("conv")}
    weights.save(params, tmp_path / "a.safetensors", NET, PROVENANCE)
    with pytest.raises(InputError, match="has no classifier"):
        command("predict", folder / "photos", "--weights", tmp_path / "a.safetensors")


def test_the_names_of_imagenet():
    names = weights.class_names(1000)
    assert len(set(names)) == 1000
    assert (
        names[0] == "tench" and names[281] == "tabby" and names[999] == "toilet tissue"
    )
    assert weights.class_names(3) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("options", "layer", "pool"),
    [
        (("--layer", "fc7"), "fc7", None),
        ((), "relu7", None),
        (("--layer", "relu2_1"), "relu2_1", None),
        (("--layer", "relu2_1", "--pool", "average"), "relu2_1", np.mean),
        (("--layer", "pool3", "--pool", "max"), "pool3", np.max),
    ],
)
def test_features(options, layer, pool, folder, tmp_path):
    """Vectors or maps, before or after the ReLU, in two batches."""
    out = tmp_path / "f.safetensors"
    photos, file = folder / "photos", folder / "a.safetensors"
    batch = ("--batch", "2")
    command("features", photos, "--weights", file, "--out", out, *batch, *options)
    with safe_open(out, "numpy") as opened:
        found, metadata = opened.get_tensor("features"), opened.metadata()
    expected = outputs(folder, layer)
    expected = pool(expected, (1, 2)) if pool else expected
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert json.loads(metadata["names"]) == [str(photos / f"{i}.png") for i in range(3)]
    with pytest.raises(InputError, match="exists already"):
        command("features", photos, "--weights", file, "--out", out)


def test_features_continue(folder, tmp_path):
    """After an interruption, with the rows that are complete."""
    out, part = tmp_path / "f.safetensors", tmp_path / "f.safetensors.part"
    arguments = ["features", folder / "photos", "--weights", folder / "a.safetensors"]
    arguments += ["--out", out]
    command(*arguments)
    whole = out.read_bytes()
    row = 4 * NET.shapes()["relu7"][0]
    out.unlink()
    changed = bytearray(whole)
    changed[-3 * row] ^= 1  # shows that the first row is not computed again
    part.write_bytes(changed[: len(whole) - 2 * row + 5])
    command(*arguments)
    assert out.read_bytes() == changed
    assert not part.exists()
    out.unlink()
    part.write_bytes(whole[:200])  # within the header
    command(*arguments)
    assert out.read_bytes() == whole
    out.rename(part)
    for options, message in (
        (("--layer", "fc6"), "part: has --layer relu7, not fc6: delete it first"),
        (("--pool", "max"), "part: has --pool none, not max"),
    ):
        with pytest.raises(InputError, match=message):
            command(*arguments, *options)
    with pytest.raises(InputError, match="part: of other pictures"):
        command("features", folder / "photos" / "0.png", *arguments[2:])
    part.write_bytes(b"no features")
    with pytest.raises(InputError, match="part: has no features"):
        command(*arguments)


def test_features_of_a_damaged_picture(folder, tmp_path, capfd):
    photos, out = tmp_path / "photos", tmp_path / "f.safetensors"
    photos.mkdir()
    (photos / "0.png").write_bytes(b"no picture")
    (photos / "1.png").write_bytes((folder / "photos" / "0.png").read_bytes())
    with pytest.raises(SystemExit, match="1"):
        command("features", photos, "--weights", folder / "a.safetensors", "--out", out)
    assert f"skipped: {photos / '0.png'}: not an image" in capfd.readouterr().err
    with safe_open(out, "numpy") as opened:
        found = opened.get_tensor("features")
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], outputs(folder, "relu7")[0], rtol=1e-3)
    part = tmp_path / "f.safetensors.part"
    part.write_bytes(out.read_bytes()[: -found[0].nbytes])
    out.unlink()
    with pytest.raises(SystemExit, match="1"):  # continued
        command("features", photos, "--weights", folder / "a.safetensors", "--out", out)
    assert f"skipped before: {photos / '0.png'}\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "none.jpg", "--out", "f"), "none.jpg: No such file"),
        (("features", "photos", "--out", "f.npy"), "f.npy: name a .safetensors file"),
        (
            ("features", "photos", "--out", "a.safetensors/f.safetensors"),
            "--out a.safetensors/f",
        ),
        (("predict", "none.jpg"), "none.jpg: No such file"),
        (("predict", "photos", "--csv", "photos"), "--csv photos: no file can be"),
        (("predict", "photos", "--csv", "a.safetensors/b"), "--csv a.safetensors/b: "),
    ],
)
def test_what_cannot_be_read_or_written_is_told_first(
    arguments, message, folder, monkeypatch
):
    """Before weights are read."""
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        command(*arguments, "--weights", "none")
    assert not Path("f.part").exists()


def test_a_layer_that_the_weights_lack(folder, tmp_path):
    params = {k: v for k, v in PARAMS.items() if k.startswith("conv")}
    weights.save(params, tmp_path / "a.safetensors", NET, PROVENANCE)
    arguments = ["features", folder / "photos", "--weights", tmp_path / "a.safetensors"]
    arguments += ["--out", tmp_path / "f.safetensors", "--layer"]
    with pytest.raises(InputError, match="fc7: the weights have no fc6"):
        command(*arguments, "fc7")
    with pytest.raises(InputError, match="--layer fc9: choose from conv1_1, "):
        command(*arguments, "fc9")
    assert not (tmp_path / "f.safetensors.part").exists()


def test_an_exported_program_runs_without_this_package(folder, tmp_path):
    out = tmp_path / "a.stablehlo"
    command("convert", folder / "a.safetensors", out, "--to", "stablehlo")
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3))
    np.save(tmp_path / "crops.npy", crops.astype(np.float32))
    code = (
        "import sys, pathlib, numpy, jax; from jax import export\n"
        "program = export.deserialize(pathlib.Path('a.stablehlo').read_bytes())\n"
        "numpy.save('logits.npy', program.call(numpy.load('crops.npy')))\n"
        "assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}\n"
        "assert not {'alexvgg_jax', 'flax'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    images = (crops - PROVENANCE.mean).astype(np.float32)
    expected, _ = APPLY(PARAMS, images)
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_convert(folder, tmp_path, capfd):
    command("convert", folder / "a.safetensors", tmp_path / "b.safetensors")
    assert capfd.readouterr().out.endswith(
        "b.safetensors: from keras, source unknown\n"
    )
    for file in (tmp_path / "b.safetensors", folder / "a.safetensors"):
        with pytest.raises(InputError, match=f"{file}: exists already"):
            command("convert", folder / "a.safetensors", file)
    with pytest.raises(InputError, match="b.pth: name a .safetensors file"):
        command("convert", folder / "a.safetensors", tmp_path / "b.pth")
    loaded, _ = weights.load(tmp_path / "b.safetensors", NET)
    jax.tree.map(np.testing.assert_array_equal, loaded, PARAMS)


@pytest.mark.parametrize(
    ("provenance", "text"),
    [
        (
            replace(PROVENANCE, licence="X", source="https://keras.io"),
            "from the format of keras, whose published weights are under X",
        ),
        (
            replace(PROVENANCE, format="ours", source="trained here on digits"),
            "trained here on digits",
        ),
    ],
)
def test_names_of_arrays_tell_no_licence(provenance, text, tmp_path, capfd):
    weights.save(PARAMS, tmp_path / "a.safetensors", NET, provenance)
    command("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert capfd.readouterr().out == f"wrote {tmp_path}/b.safetensors: {text}\n"


@pytest.mark.parametrize("options", [(), ("--net", "vgg-d")])
def test_weights_with_nan_are_named(options, tmp_path, monkeypatch):
    net = build("vgg-d", width=0.05, image_size=32)
    monkeypatch.setitem(models.MODELS, "vgg-d", net)
    state = torch_state("vgg-d", random_arrays(net))
    state["features.5.bias"][1] = np.nan
    save_file(state, tmp_path / "a.safetensors")
    message = "a.safetensors: .*NaN or infinity in features.5.bias$"
    with pytest.raises(InputError, match=message):
        weights.load_net(tmp_path / "a.safetensors", *options[1:])


def test_a_command_reads_its_weights_once(folder, tmp_path, monkeypatch):
    """Those of VGG have half a gigabyte."""
    read, reads = torchvision.read_safetensors, []

    def counted(path):
        reads.append(path)
        return read(path)

    monkeypatch.setattr(torchvision, "read_safetensors", counted)
    command("convert", folder / "a.safetensors", tmp_path / "b.safetensors")
    assert reads == [folder / "a.safetensors"]


def test_an_id_of_the_hub(folder, monkeypatch):
    """A fake of `huggingface_hub`: no test has a network."""
    asked, cached = [], [None]

    class Fake:
        @staticmethod
        def hf_hub_download(repository, name):
            asked.append((repository, name))
            return str(folder / "a.safetensors")

        @staticmethod
        def try_to_load_from_cache(*_):
            return cached[-1]

        @staticmethod
        def hf_hub_url(repository, name):
            return f"https://hub/{repository}/{name}"

        @staticmethod
        def get_hf_file_metadata(url):
            asked.append(url)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Fake)
    params, _ = weights.load("timm/vgg16.tv_in1k", NET)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    file = "timm/vgg16.tv_in1k", "model.safetensors"
    assert asked == ["https://hub/" + "/".join(file), file]
    cached.append(str(folder / "a.safetensors"))
    weights.load("timm/vgg16.tv_in1k", NET)
    assert asked[2:] == [file]


def test_a_path_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    for path in (
        "a.safetensors",
        "no/vgg.h5",
        "here/vgg16",
        "./vgg/16",
        "/a/b",
        "../a",
    ):
        assert not hub.is_id(path)
        with pytest.raises(InputError, match="No such file"):
            weights.load(path, NET)
    with pytest.raises(
        InputError, match="timm/vgg16: no such file; .* Hub: pip install"
    ):
        weights.load("timm/vgg16", NET)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, caplog):
    """The library, which loads its parts when they are used, reports every retry. Its
    downloads retry for 23 s: it is asked once before."""

    def ask(*_):
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise OSError("\nno network\nmore")

    class Fake:
        try_to_load_from_cache = hf_hub_url = staticmethod(lambda *_: None)
        get_hf_file_metadata = staticmethod(ask)

        @property
        def hf_hub_download(self):
            logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
            return pytest.fail

    monkeypatch.setitem(sys.modules, "huggingface_hub", Fake())
    with pytest.raises(InputError, match="timm/vgg16: .*OSError: no network$"):
        weights.load("timm/vgg16", NET)
    assert not caplog.records
