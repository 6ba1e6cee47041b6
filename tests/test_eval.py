"""The command `eval`: all images once, nets fused, probabilities saved."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack
from PIL import Image

from alexvgg_jax import __main__, evaluate, loop, models, protocols, weights
from alexvgg_jax.commands.eval import Outcome, check_same, published
from alexvgg_jax.config import Augment, Data, Mesh, Optim, Run
from alexvgg_jax.data.decode import scale_short
from alexvgg_jax.data.sources import find_source
from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import Conv, Dense

TINY = models.build("cifar-19pct", classes=2, image_size=24)


def photo(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def read(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


SIZES = [(60, 83), (77, 61), (64, 64)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """10 photographs of odd sizes in a folder of two classes."""
    root = tmp_path_factory.mktemp("photos")
    for n in range(10):
        height, width = SIZES[n % 3]
        file = root / "ab"[n % 2] / f"{n:02}.png"
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), cv2.resize(photo(6, 6, n), (width, height)))
    return root


def test_every_image_counts_once_at_every_scale(photos):
    """VGG Table 4: whatever its shape and the batch, as if it were alone."""
    source = find_source(Data(str(photos)), "all")
    layers = Conv("conv1", 4, stride=2), Dense("fc2", 2)
    net = replace(stack(*layers, image_size=24), classes=2)
    params, colour = random_params(net), jnp.full((1, 1, 3), 110.0)
    params["fc2"]["kernel"] /= 100  # a soft softmax
    scales, protocol, counts = (26, 33), "dense+multi-crop", []
    together = evaluate.predict_pictures(
        net,
        params,
        source,
        protocol,
        scales,
        np.asarray(colour),
        scale_short,
        8,
        counts.append,
    )
    assert sum(counts) == len(set(together.names)) == len(together.names) == 10
    assert sorted(together.names) == list(together.names)  # the order of the folder
    assert [Path(name).parent.name for name in together.names] == ["a"] * 5 + ["b"] * 5
    assert together.labels.tolist() == [0] * 5 + [1] * 5
    run = jax.jit(protocols.probabilities, static_argnums=(0, 1))
    for n in (0, 9):
        image, alone = read(together.names[n]), []
        for scale in scales:
            scaled = scale_short(image, scale)
            batch = protocols.pictures(net, protocol, [scaled], scaled.shape[:2])
            alone += [run(net, protocol, params, batch, colour)[0]]
        expected = np.mean(alone, axis=0)
        assert 0.01 < expected[0] < 0.99
        np.testing.assert_allclose(together.probabilities[n], expected, rtol=1e-4)
    assert together.programs <= 2 * 3 * len(scales)  # wide, high and square pictures


def run_command(*arguments) -> None:
    __main__.parse([*map(str, arguments)])()


@pytest.fixture(scope="module")
def nets_of_photos(tmp_path_factory):
    """Files of the weights of four nets: two with the classes of `photos`, one with
    others, and one with three that have no names."""
    files = []
    for n, classes in enumerate([("a", "b"), ("a", "b"), ("a", "c"), ()]):
        net = replace(TINY, classes=len(classes) or 3)
        provenance = weights.Provenance(
            "ours",
            np.array([120.0, 110.0, 100.0]),
            resize=30,
            crop=24,
            interpolation="area",
            classes=classes,
        )
        file = tmp_path_factory.mktemp("nets") / f"net{n}.safetensors"
        params = jax.tree.map(lambda leaf, n=n: leaf * (-1.0) ** n, random_params(net))
        weights.save(params, file, net, provenance)
        files.append(file)
    return files


def test_nets_are_fused_and_saved(photos, nets_of_photos, tmp_path, capfd):
    """VGG Table 6: from files of probabilities or from weights."""
    one, two, *others = nets_of_photos
    how = ("--data", photos, "--protocol", "multi-crop", "--scales", "26")
    saved = tmp_path / "one.npz"
    run_command("eval", one, *how, "--save", saved)
    printed = capfd.readouterr()
    assert "(10 images of folder photos" in printed.out
    assert "; multi-crop, 1 net, 26 pixels)" in printed.out
    assert "3 programs for images of these shapes" in printed.err
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
    for wrong in others:
        with pytest.raises(InputError, match=f"{wrong.name}: a net of other classes"):
            run_command("eval", one, *how, "--fuse", wrong)
    other = tmp_path / "others"
    shutil.copytree(photos, other)
    run_command("eval", two, *how, "--data", other, "--fuse", saved)  # moved images
    (other / "a" / "00.png").rename(other / "a" / "30.png")
    with pytest.raises(InputError, match="one.npz: of other images than the first"):
        run_command("eval", two, *how, "--data", other, "--fuse", saved)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for content in (b"", b"PK\x03\x04 no file of numpy", array.getvalue()):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match="bad.npz: not a file of --save"):
            run_command("eval", two, *how, "--fuse", tmp_path / "bad.npz")
    content = dict(np.load(saved))
    content["probabilities"] = content["probabilities"] * np.nan
    np.savez(tmp_path / "nan.npz", **content)
    with pytest.raises(InputError, match="nan.npz: not a file of --save"):
        run_command("eval", two, *how, "--fuse", tmp_path / "nan.npz")


def test_the_set_of_an_image_is_part_of_its_name():
    """Two sets of one collection have other images, with the same numbers."""

    def outcome(name):
        names = tuple(f"corrupted/{name}[{i}]" for i in range(2))
        labels, probabilities = np.zeros(2, int), np.full((2, 2), 0.5)
        return Outcome("", "centre", (), ("a", "b"), names, labels, probabilities)

    with pytest.raises(InputError, match="--fuse rain: of other images than the first"):
        check_same("rain", outcome("fog"), outcome("rain"))
    check_same("fog", outcome("fog"), outcome("fog"))


def test_each_fused_net_has_its_own_scale(photos, nets_of_photos, tmp_path, capfd):
    """Unless --scales names one for all."""
    one, two = nets_of_photos[:2]
    _, params, provenance = weights.load_net(two)
    net = replace(TINY, classes=2)
    larger = tmp_path / "larger.safetensors"
    weights.save(params, larger, net, replace(provenance, resize=36))
    expected = []
    for file in (one, larger):
        run_command("eval", file, "--data", photos, "--save", tmp_path / "alone.npz")
        expected.append(np.load(tmp_path / "alone.npz")["probabilities"])
        (tmp_path / "alone.npz").unlink()
    both = tmp_path / "both.npz"
    run_command("eval", one, "--data", photos, "--fuse", larger, "--save", both)
    fused = np.load(both)["probabilities"]
    np.testing.assert_allclose(fused, np.mean(expected, axis=0), rtol=1e-4)
    assert "; centre, 2 nets, 30 or 36 pixels)" in capfd.readouterr().out


@pytest.mark.usefixtures("optimized")
def test_a_run_of_scale_jitter_is_tested_at_the_middle_scale(
    photos, nets_of_photos, tmp_path, capfd
):
    """VGG §4.1: Q = (S_min + S_max) / 2, as training, `eval` and `predict` do it."""
    net, params, provenance = weights.load_net(nets_of_photos[0])
    params["fc10"] = jax.tree.map(lambda leaf: leaf / 50, params["fc10"])  # p below 1
    start = tmp_path / "start.safetensors"
    weights.save(params, start, net, provenance)
    run = Run(
        "jitter",
        Data(str(photos), size=32, held_out=4),
        Augment(crop=24, jitter_from=26, mean="channel"),
        TINY,
        Optim(rate=0.0),
        mesh=Mesh(devices=1),
        batch=6,
        epochs=1,
        init_from=str(start),
    )
    trained = loop.train(run, tmp_path / "run")
    capfd.readouterr()
    run_command("eval", tmp_path / "run", "--save", tmp_path / "tested.npz")
    assert f"loss {trained.history[-1].test_loss:.4f} " in capfd.readouterr().out
    tested = np.load(tmp_path / "tested.npz")
    assert tested["scales"].tolist() == [29]
    picture, csv = tested["names"][0], tmp_path / "predicted.csv"
    run_command("predict", tmp_path / "run", picture, "--csv", csv)
    assert 0.51 < tested["probabilities"][0].max() < 0.99
    best = float(csv.read_text().splitlines()[1].split(",")[-1])
    assert best == pytest.approx(tested["probabilities"][0].max(), abs=1e-4)


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
        (("--scales", "23"), "--scales 23: from 24"),
        (("--scales", "100000"), "--scales 100000: from 24"),
        (("--protocol", "ten", "--scales", "24"), "the same; use --scales 30"),
        (("--save", "probabilities.csv"), "--save probabilities.csv: name an .npz"),
        (("--fuse", "nowhere.npz"), "--fuse nowhere.npz: No such file"),
        (("--batch", "0"), "--batch 0: at least 1"),
    ],
)
def test_wrong_options_of_eval(options, message, photos, nets_of_photos):
    with pytest.raises(InputError, match=re.escape(message)):
        run_command("eval", nets_of_photos[0], "--data", photos, *options)


def predictions(models, protocol, scales, classes) -> list[Outcome]:
    nothing = np.zeros(0)
    names = tuple(map(str, range(classes)))
    return [
        Outcome(model, protocol, tuple(scales), names, (), nothing, nothing)
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
    tests = predictions(models, protocol, scales, 1000)
    rows = published(tests)
    assert bool(rows) == bool(lines)
    for line in lines:
        assert line in rows[0]
    assert published(predictions(models, protocol, scales, 10)) == []


def test_nets_that_were_tested_differently_have_no_published_row():
    one, two = predictions(["vgg-d", "vgg-e"], "dense", [256, 384, 512], 1000)
    assert published([one, two])
    assert not published([one, two._replace(protocol="multi-crop")])
    assert not published([one, two._replace(scales=(256,))])
