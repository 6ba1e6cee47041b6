import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import constants
from tensorflow_datasets.proto import tf_example_pb2

from alexvgg_jax.config import Data
from alexvgg_jax.data.folder import image_files
from alexvgg_jax.data.sources import (
    Source,
    choose,
    find_rest,
    find_source,
    folder_of,
    open_source,
    with_classes,
)
from alexvgg_jax.data.tfds import _classes
from alexvgg_jax.errors import InputError

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 255


def everything(source):
    return source.fetch(np.arange(source.count))


def encoded(rgb: np.ndarray, suffix: str = ".png", options=()) -> bytes:
    rgb = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(suffix, rgb, options)[1].tobytes()


def plain(colour, height: int = 8, width: int = 8) -> np.ndarray:
    return np.broadcast_to(colour, (height, width, 3)).astype(np.uint8)


def save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def error(name: str | Path, split: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        open_source(Data(str(name), size=8), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits.


def test_digits():
    train = open_source(Data("digits"), "train")
    test = open_source(Data("digits"), "test")
    assert (train.count, test.count) == (1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    for source in (train, test):
        images, labels = everything(source)
        assert images.shape == (source.count, 32, 32, 3)
        assert images.dtype == np.uint8
        assert (images == images[..., :1]).all()
        assert set(labels.tolist()) == set(range(10))
    assert everything(train)[0].min() == 0
    assert everything(train)[0].max() == 255


def test_digits_in_their_own_size_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    greys, labels = load_digits(return_X_y=True)
    parts = [everything(open_source(Data("digits", 8), s)) for s in ("train", "test")]
    images = np.concatenate([part[0] for part in parts])
    np.testing.assert_array_equal(
        images[..., 0].reshape(-1, 64), np.floor(greys * 255 / 16)
    )
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)


@pytest.mark.parametrize("size", [1, 8, 24])
def test_digits_in_any_size(size):
    images, _ = everything(open_source(Data("digits", size), "test"))
    assert images.shape == (360, size, size, 3)


# Folders of images.


def test_folder_with_train_and_test(tmp_path):
    for part, counts in {"train": (3, 2), "test": (1, 2)}.items():
        for name, colour, count in zip(
            ("zebra", "ant"), (RED, GREEN), counts, strict=True
        ):
            for i in range(count):
                save(tmp_path / part / name / f"{i}.png", encoded(plain(colour)))
    save(tmp_path / "train" / "ant" / "notes.txt", b"not an image, and not read")
    for split, counts in {"train": (2, 3), "test": (2, 1)}.items():
        source = open_source(Data(str(tmp_path), size=8), split)
        assert source.classes == ("ant", "zebra")
        images, labels = everything(source)
        assert labels.tolist() == [0] * counts[0] + [1] * counts[1]
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_array_equal(image, plain((GREEN, RED)[label]))


def test_folder_with_val(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", encoded(plain(RED)))
    save(tmp_path / "val" / "a" / "1.png", encoded(plain(BLUE)))
    images, _ = everything(open_source(Data(str(tmp_path), size=8), "test"))
    np.testing.assert_array_equal(images, plain(BLUE)[None])


def test_folder_without_parts_tests_every_tenth(tmp_path):
    for name, count in {"a": 25, "b": 10}.items():
        for i in range(count):
            save(tmp_path / name / f"{i:02}.png", encoded(plain(i)))
    seen = {}
    for split in ("train", "test"):
        images, labels = everything(open_source(Data(str(tmp_path), size=8), split))
        greys = images[:, 0, 0, 0].tolist()
        seen[split] = list(zip(labels.tolist(), greys, strict=True))
    assert seen["test"] == [(0, 9), (0, 19), (1, 9)]
    images = {(0, i) for i in range(25)} | {(1, i) for i in range(10)}
    assert len(seen["train"]) == 32
    assert set(seen["train"]) == images - set(seen["test"])


def test_a_folder_that_is_only_a_test_set(tmp_path):
    """All of its images count, in whatever folders; a set with parts is tested."""
    for i in range(12):
        save(tmp_path / "set" / "a" / f"{i:02}.png", encoded(plain(i)))
    save(tmp_path / "parts" / "test" / "a" / "1.png", encoded(plain(RED)))
    assert open_source(Data(str(tmp_path / "set"), 8), "all").count == 12
    assert open_source(Data(str(tmp_path / "parts"), 8), "all").count == 1
    save(tmp_path / "parts" / "train" / "a" / "1.png", encoded(plain(GREEN)))
    images, _ = everything(open_source(Data(str(tmp_path / "parts"), 8), "all"))
    np.testing.assert_array_equal(images, plain(RED)[None])
    assert open_source(Data("digits"), "all").count == 360


def test_classes_are_matched_by_name(tmp_path):
    for number, name in enumerate(("ant", "cat")):
        save(tmp_path / "set" / name / "1.png", encoded(plain(number)))
    source = open_source(Data(str(tmp_path / "set"), 8), "all")
    _, labels = everything(with_classes(source, ("cat", "bee", "ant")))
    assert labels.tolist() == [2, 0]
    with pytest.raises(InputError, match="folder set: the net has no class 'ant'; it"):
        with_classes(source, ("cat", "bee"))


def test_pictures_of_a_folder_are_all_below_it(tmp_path):
    for name in ("b.png", "a/deep/c.JPG", "a/notes.txt"):
        save(tmp_path / name, b"x")
    assert image_files(tmp_path) == [tmp_path / "a/deep/c.JPG", tmp_path / "b.png"]
    assert image_files(tmp_path / "b.png") == [tmp_path / "b.png"]


def test_grey_and_transparent_images_become_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rgba = np.dstack([plain(BLUE)[..., ::-1], np.full((8, 8), 255, np.uint8)])
    save(tmp_path / "train" / "a" / "1.png", encoded(grey))
    save(tmp_path / "train" / "a" / "2.png", cv2.imencode(".png", rgba)[1].tobytes())
    images, _ = everything(open_source(Data(str(tmp_path), size=8), "train"))
    np.testing.assert_array_equal(images[0], np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(images[1], plain(BLUE))


def test_the_digits_come_before_a_folder_and_a_folder_before_a_set(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "cifar10"):
        save(tmp_path / name / "a" / "1.png", encoded(plain(RED)))
    assert folder_of("digits") is None
    assert folder_of("cifar10") == tmp_path / "cifar10"
    assert folder_of("mnist") is None
    with pytest.raises(InputError, match="--data ~nobody.here/x: "):
        folder_of("~nobody.here/x")


def test_the_digest_of_a_folder_is_that_of_its_images(tmp_path):
    """Links are followed, and other files do not count."""
    for name, width in (("one", 8), ("two", 800)):
        for split in ("train", "test"):
            image = encoded(plain(RED, width=width))
            save(tmp_path / name / "real" / split / "a" / "1.png", image)
            save(tmp_path / name / "real" / split / "b" / "1.png", image)
            (tmp_path / name / "set").mkdir(exist_ok=True)
            link = tmp_path / name / "set" / split
            link.symlink_to(tmp_path / name / "real" / split)

    def digest(folder: str) -> str:
        return find_source(Data(str(tmp_path / folder)), "test").digest

    before = digest("one/set")
    assert before != digest("two/set")
    save(tmp_path / "one" / "set" / "results" / "plot.png", encoded(plain(RED)))
    assert digest("one/set") == before == digest("one/real")


def test_jpeg_is_read_as_rgb(tmp_path):
    save(tmp_path / "train" / "a" / "1.JPG", encoded(plain(RED), ".jpg"))
    images, _ = everything(open_source(Data(str(tmp_path), size=8), "train"))
    assert np.abs(images[0].astype(int) - plain(RED)).max() <= 3


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("upright", [False, True])
def test_photos_are_scaled_to_their_short_side_and_cut(tmp_path, scale, upright):
    """AlexNet §2: the short side becomes the size, the centre square is kept."""
    photo = plain(RED, 12 * scale, 20 * scale).copy()
    photo[:, 4 * scale : 16 * scale] = GREEN
    photo[: 6 * scale, 4 * scale : 16 * scale] = BLUE
    expected = plain(GREEN, 12, 12).copy()
    expected[:6] = BLUE
    if upright:
        photo, expected = photo.transpose(1, 0, 2), expected.transpose(1, 0, 2)
    save(tmp_path / "train" / "a" / "1.png", encoded(photo))
    images, _ = everything(open_source(Data(str(tmp_path), size=12), "train"))
    np.testing.assert_array_equal(images[0], expected)


@pytest.mark.parametrize("height, width", [(5, 7), (33, 9), (8, 8), (1, 50)])
def test_photos_of_any_shape_get_one_size(tmp_path, height, width):
    save(tmp_path / "train" / "a" / "1.png", encoded(plain(BLUE, height, width)))
    images, _ = everything(open_source(Data(str(tmp_path), size=8), "train"))
    np.testing.assert_array_equal(images[0], plain(BLUE))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-50],
        lambda b: b[: len(b) // 2],
        lambda b: b"no image",
        lambda b: b"",
    ],
    ids=["truncated", "halved", "corrupt", "empty"],
)
def test_a_spoilt_image_is_named(tmp_path, suffix, spoil):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    good = encoded(noise, suffix)
    save(tmp_path / "train" / "a" / f"1{suffix}", good)
    save(tmp_path / "train" / "a" / f"2{suffix}", spoil(good))
    assert str(tmp_path / "train" / "a" / f"2{suffix}") in error(tmp_path)


def test_folders_without_images(tmp_path):
    assert str(tmp_path) in error(tmp_path)  # empty
    assert "no such folder" in error(tmp_path / "missing")
    (tmp_path / "train" / "a").mkdir(parents=True)
    assert str(tmp_path) in error(tmp_path)  # a class without images
    save(tmp_path / "train" / "a" / "1.png", encoded(plain(RED)))
    message = error(tmp_path, "test")
    assert "looked for test/, testing/, val/" in message
    assert "--data.held-out" in message
    (empty := tmp_path / "empty").mkdir()
    assert error(empty, "all") == f"--data {empty}: no images in {empty}/CLASS/"


def test_a_file_is_no_folder_of_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"")
    for name in ("photo.jpg", f"{tmp_path}/photo.jpg"):
        assert "photo.jpg: a file, not a folder of classes" in error(Path(name))


def tree(root: Path, *names: str) -> Path:
    """A folder with these pictures."""
    for number, name in enumerate(names):
        save(root / name, encoded(plain(number)))
    return root


def labelled(root: Path, split: str = "train") -> dict[str, int]:
    """How many images each class has."""
    source = open_source(Data(str(root), 8), split)
    counts = np.bincount(everything(source)[1], minlength=len(source.classes))
    return dict(zip(source.classes, counts.tolist(), strict=True))


@pytest.mark.parametrize(
    "suffix", ".jpg .JPEG .jpe .jfif .png .Bmp .webp .tif .TIFF .ppm .gif".split()
)
def test_suffixes_of_images(tmp_path, suffix):
    """The content decides how an image is decoded."""
    tree(tmp_path, "train/a/1" + suffix)
    assert labelled(tmp_path) == {"a": 1}


def test_images_in_subfolders_of_a_class_belong_to_it(tmp_path):
    tree(
        tmp_path, "train/dog/poodle/1.png", "train/dog/2.png", "train/cat/images/1.png"
    )
    (tmp_path / "train" / "dog" / "loop").symlink_to(tmp_path / "train")
    (tmp_path / "more").mkdir()
    (tmp_path / "train" / "cat" / "more").symlink_to(tree(tmp_path / "more", "3.png"))
    assert labelled(tmp_path)["dog"] >= 2
    (tmp_path / "train" / "dog" / "loop").unlink()
    assert labelled(tmp_path) == {"cat": 2, "dog": 2}


def test_what_is_skipped_is_counted(tmp_path):
    tree(tmp_path, "train/a/1.png", "train/b/2.png", "train/__MACOSX/a/1.png")
    hidden = ("train/a/._1.png", "train/a/.DS_Store", "train/.git/1.png")
    tree(tmp_path, *hidden, "train/b/notes.txt", "train/b/IMG1", "train/b/sub/2.txt")
    os.mkfifo(tmp_path / "train" / "b" / "pipe.png")
    note = find_source(Data(str(tmp_path), 8), "train").note
    assert note.startswith(f"{tmp_path / 'train'}: skipped ")
    counted = {"2 hidden", "2 .txt", "1 without suffix", "1 not regular files"}
    assert counted == set(note.split("skipped ")[1].split(", "))
    assert labelled(tmp_path) == {"a": 1, "b": 1}
    assert image_files(tmp_path) == [
        tmp_path / "train/a/1.png",
        tmp_path / "train/b/2.png",
    ]
    assert not find_source(
        Data(str(tree(tmp_path / "c", "train/a/1.png"))), "train"
    ).note


def test_a_class_without_images_is_an_error_in_training(tmp_path):
    tree(tmp_path, "train/a/1.png", "train/b/1.avi", "test/a/1.png")
    assert f"{tmp_path / 'train' / 'b'}: a class without images, only 1 .avi" in error(
        tmp_path
    )
    test = find_source(Data(str(tmp_path), 8), "test")
    assert test.classes == ("a", "b")
    assert test.note.endswith("test: no images of b")
    tree(tmp_path / "flat", "a/1.png", "b/1.avi")
    assert "flat/b: a class without images" in error(tmp_path / "flat")


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["train/1.png", "train/a/2.png"], "train/1.png: an image outside"),
        (["1.png"], "1.png: an image outside the folders of classes"),
        (["a/train/1.png", "a/test/2.png"], "a/test: looked for "),
        (["d/train/a/1.png", "d/test/a/2.png"], "d is the set, name that"),
        (["train/a/1.png", "Training/a/1.png"], "has Training and train"),
        (["test/a/1.png"], "looked for train/, training/"),
    ],
)
def test_another_layout_says_what_was_looked_for(tmp_path, names, named):
    assert named in error(tree(tmp_path, *names))


def test_a_link_to_the_set_adds_no_images(tmp_path):
    tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "all").symlink_to(tmp_path)
    source = find_source(Data(str(tmp_path), 8), "train")
    assert source.count == 2 and "1 links to a folder above" in source.note


def test_classes_that_are_not_tested_are_named(tmp_path):
    tree(tmp_path, *(f"a/{i}.png" for i in range(10)), "b/1.png", "c/1.png")
    source = find_source(Data(str(tmp_path), 8), "test")
    assert source.note == f"{tmp_path}: every tenth is for testing: none of b, c"


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    tree(tmp_path, "train/a/1.png", "train/b/1.png")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert error(tmp_path) == f"{tmp_path / 'train' / 'b'}: Permission denied"


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Val"), ("training", "testing"), ("TRAIN", "validation")],
)
def test_names_of_the_parts(tmp_path, train, test):
    tree(tmp_path, f"{train}/a/1.png", f"{test}/a/1.png", f"{test}/a/2.png")
    assert (labelled(tmp_path), labelled(tmp_path, "test")) == ({"a": 1}, {"a": 2})


def test_an_unlabelled_test_folder_is_passed_over(tmp_path):
    """ImageNet's layout; Tiny ImageNet's val/ has no classes either."""
    tree(tmp_path, "train/a/1.png", "val/a/1.png", "val/a/2.png", "test/1.png")
    assert labelled(tmp_path, "test") == {"a": 2}
    tree(
        tmp_path / "tiny",
        "train/a/images/1.png",
        "val/images/1.png",
        "test/images/1.png",
    )
    assert labelled(tmp_path / "tiny") == {"a": 1}
    message = error(tmp_path / "tiny", "test")
    assert "test/ has images; " in message and "--data.held-out" in message


def test_a_class_that_only_the_test_images_have_is_an_error(tmp_path):
    tree(tmp_path, "train/a/1.png", "test/a/1.png", "test/b/1.png")
    assert f"test/b: no such class in {tmp_path / 'train'}" in error(tmp_path, "test")


def test_the_digest_depends_on_every_byte_of_a_small_set(tmp_path):
    def digest(name: str) -> str:
        return find_source(Data(str(tmp_path / name), 8), "train").digest

    for name in ("one", "two"):
        tree(tmp_path / name, "train/a/1.bmp", "train/b/1.bmp")
    assert digest("one") == digest("two")
    image = bytearray((tmp_path / "two/train/b/1.bmp").read_bytes())
    image[-1] ^= 1
    (tmp_path / "two/train/b/1.bmp").write_bytes(image)
    assert digest("one") != digest("two")


def test_a_folder_that_changes_is_opened_again(tmp_path, monkeypatch):
    """In one process, and from another working directory."""
    tree(tmp_path / "x" / "set", "train/a/1.png")
    tree(tmp_path / "y" / "set", "train/p/1.png", "train/q/1.png")
    for folder, classes in {"x": ("a",), "y": ("p", "q")}.items():
        monkeypatch.chdir(tmp_path / folder)
        assert open_source(Data("set", 8), "train").classes == classes
    tree(tmp_path / "y" / "set", "train/r/1.png")
    assert open_source(Data("set", 8), "train").classes == ("p", "q", "r")


def test_all_bad_images_are_listed_or_left_out(tmp_path, capfd, monkeypatch):
    tree(tmp_path, *(f"train/a/{i}.png" for i in range(9)))
    for i in (2, 5):
        save(tmp_path / f"train/a/{i}.png", b"no image")
    assert all(f"{i}.png" in error(tmp_path) for i in (2, 5))
    capfd.readouterr()
    data = Data(str(tmp_path), 8, skip_bad=True)
    held = open_source(data, "train")
    assert "left out 2 of 9 train images" in held.note
    monkeypatch.setattr("alexvgg_jax.data.sources.IN_MEMORY_BYTES", 0)
    for source in (held, with_classes(open_source(data, "train"), ("b", "a"))):
        images, labels = everything(source)
        everything(source)
        good = labels >= 0
        assert np.flatnonzero(~good).tolist() == [2, 5]
        assert (labels[good] == source.classes.index("a")).all()
        np.testing.assert_array_equal(images[good, 0, 0, 0], np.arange(9)[good])
    printed = capfd.readouterr().err
    assert printed.count("left out: ") == 4  # once each, for each source
    for i in range(9):
        save(tmp_path / f"train/a/{i}.png", b"no image")
    with pytest.raises(InputError, match="all 9 images are damaged"):
        monkeypatch.setattr("alexvgg_jax.data.sources.IN_MEMORY_BYTES", 2**31)
        open_source(data, "train")


def test_a_path_that_is_not_utf8(tmp_path):
    assert "not UTF-8" in error(str(tmp_path) + "/\udcff")
    tree(tmp_path, "train/a/1.png", "train/\udcff/1.png")
    assert "the name is not UTF-8" in error(tmp_path)


# TensorFlow data sets in array_record form.

TRAIN, TEST = 20, 10
INFO = {
    "name": "cifar10",
    "version": "3.0.2",
    "fileFormat": "array_record",
    "moduleName": "tensorflow_datasets.image_classification.cifar",
}
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FEATURE = "tensorflow_datasets.core.features"
SHAPE = {"dimensions": ["32", "32", "3"]}
FEATURES = {
    "pythonClassName": f"{FEATURE}.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "id": {"pythonClassName": f"{FEATURE}.text_feature.Text", "text": {}},
            "image": {
                "pythonClassName": f"{FEATURE}.image_feature.Image",
                "image": {"dtype": "uint8", "shape": SHAPE},
            },
            "label": {
                "pythonClassName": f"{FEATURE}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def pixels(split: str) -> tuple[np.ndarray, np.ndarray]:
    count = TRAIN if split == "train" else TEST
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return images, rng.integers(0, 10, count)


def write_set(
    folder: Path,
    splits=("train", "test"),
    suffix=".png",
    spoil=None,
    change=lambda feature, i: None,
) -> None:
    """A set as TFDS prepares it; number `spoil` of each split is cut short, and
    `change` changes a record."""
    folder.mkdir(parents=True)
    infos = []
    for split in splits:
        images, labels = pixels(split)
        records = []
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            content = encoded(image, suffix)
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["id"].bytes_list.value.append(f"{split}_{i}".encode())
            feature["image"].bytes_list.value.append(
                content[: len(content) // 2] if i == spoil else content
            )
            feature["label"].int64_list.value.append(int(label))
            change(feature, i)
            records.append(example.SerializeToString())
        file = folder / f"{INFO['name']}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        infos.append(
            {
                "name": split,
                "numBytes": str(sum(map(len, records))),
                "shardLengths": [str(len(records))],
                "filepathTemplate": TEMPLATE,
            }
        )
    (folder / "dataset_info.json").write_text(json.dumps(INFO | {"splits": infos}))
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "label.labels.txt").write_text("\n".join(CLASSES) + "\n")


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    """An empty TFDS_DATA_DIR. TFDS has read the variable when it was imported."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(constants, "DATA_DIR", constants.get_default_data_dir())
    return tmp_path


def pretend_tensorflow(monkeypatch, there: bool) -> None:
    real = importlib.util.find_spec

    def find_spec(name, package=None):
        if name != "tensorflow":
            return real(name, package)
        return importlib.util.spec_from_loader(name, None) if there else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prepared_set_is_read_as_written(data_dir, split):
    write_set(data_dir / "cifar10" / "3.0.2")
    source = open_source(Data("cifar10"), split)
    images, labels = pixels(split)
    assert source.count == len(images)
    assert source.classes == CLASSES
    assert "cifar10/3.0.2" in source.about
    assert "PNG" in source.about
    read = everything(source)
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], labels)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_prepared_set_is_read_in_any_order(data_dir, monkeypatch, in_memory):
    write_set(data_dir / "cifar10" / "3.0.2")
    if not in_memory:
        monkeypatch.setattr("alexvgg_jax.data.sources.IN_MEMORY_BYTES", 0)
    source = open_source(Data("cifar10"), "train")
    images, labels = pixels("train")
    for numbers in ([19, 0, 7], [7, 7], [3], []):
        read = source.fetch(np.array(numbers, int))
        np.testing.assert_array_equal(read[0], images[numbers])
        np.testing.assert_array_equal(read[1], labels[numbers])


def test_a_copy_as_jpeg_says_so(data_dir):
    write_set(data_dir / "cifar10" / "3.0.2", suffix=".jpg")
    assert "JPEG" in open_source(Data("cifar10"), "test").about


def test_a_builder_that_needs_tensorflow(monkeypatch):
    def builder(name: str):
        raise ModuleNotFoundError(name="tensorflow")

    monkeypatch.setattr(tfds, "builder", builder)
    assert "needs tensorflow: pip install -e '.[tfds]'" in error("coco")


def test_a_validation_split_stands_in_for_test(data_dir):
    write_set(data_dir / "cifar10" / "3.0.2", splits=("train", "validation"))
    assert open_source(Data("cifar10"), "test").count == TEST


def test_a_set_without_test_split(data_dir):
    write_set(data_dir / "cifar10" / "3.0.2", splits=("train",))
    message = error("cifar10", "test")
    assert "no labelled test split in train; `train --data.held-out N`" in message


def with_label(*labels: int):
    """Give record 3 these labels."""

    def change(feature, i):
        if i == 3:
            feature["label"].int64_list.value[:] = labels

    return change


def without_image(feature, i):
    feature["image"].Clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_label(-1), "cifar10[3]: label -1, of 10 classes"),
        (with_label(10), "cifar10[3]: label 10, of 10 classes"),
        (with_label(2**40), "cifar10[3]: the record has no label, or several"),
        (with_label(), "cifar10[3]: the record has no label, or several"),
        (with_label(1, 2), "cifar10[3]: the record has no label, or several"),
        (without_image, "cifar10[0]: the record has no encoded image"),
    ],
)
def test_every_record_is_checked(data_dir, change, message):
    write_set(data_dir / "cifar10" / "3.0.2", change=change)
    assert message in error("cifar10")


def test_records_of_another_kind_are_named(data_dir):
    folder = data_dir / "cifar10" / "3.0.2"
    write_set(folder)
    writer = ArrayRecordWriter(str(next(folder.glob("*-train.*"))), "group_size:1")
    for _ in range(TRAIN):
        writer.write(b"\xff")
    writer.close()
    assert error("cifar10") == "cifar10[0]: not a record of TFDS"


def test_the_digest_of_a_folder_in_the_form_of_tfds(tmp_path):
    """Is that of its content, not of its name."""

    def digest(name: str) -> str:
        return find_source(Data(str(tmp_path / name), 8), "train").digest

    write_set(tmp_path / "one")
    write_set(tmp_path / "others", change=with_label(7 if pixels("train")[1][3] else 8))
    one = digest("one")
    assert digest("others") != one
    (tmp_path / "one").rename(tmp_path / "moved")
    assert digest("moved") == one


def test_records_without_labels_are_a_split_without_labels(data_dir):
    def unlabelled(feature, i):
        feature["label"].int64_list.value[:] = [-1]

    write_set(data_dir / "cifar10" / "3.0.2", change=unlabelled)
    assert "no labelled train split in train, test" in error("cifar10")


F = tfds.features
LABEL = F.ClassLabel(num_classes=3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": F.Image()}, "its label is missing"),
        ({"image": F.Image(), "label": F.Sequence(LABEL)}, "its label is Sequence"),
        (
            {"image": F.Tensor(shape=(8, 8, 3), dtype=np.uint8), "label": LABEL},
            "Tensor",
        ),
        ({"image": F.Sequence(F.Image()), "label": LABEL}, "its image is Sequence"),
        (
            {"image": F.Image(dtype=np.float32, shape=(8, 8, 1)), "label": LABEL},
            "float32",
        ),
        ({"image": F.Image(), "label": F.Scalar(np.int64)}, "its label is Scalar"),
    ],
)
def test_sets_that_are_no_images_of_classes(features, message):
    with pytest.raises(InputError, match=f"^--data x: .*{message}"):
        _classes("x", F.FeaturesDict(features))


RECORDS = "cifar10-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        (RECORDS, lambda b: b[: len(b) // 2]),
        (RECORDS, lambda b: b[:-1]),
        (RECORDS, lambda b: b""),
        (RECORDS, lambda b: None),
        (RECORDS, lambda b: b[:17000] + bytes(9) + b[17009:]),
        ("dataset_info.json", lambda b: b[: len(b) // 2]),
        ("dataset_info.json", lambda b: b""),
        ("dataset_info.json", lambda b: b.replace(b"{SPLIT}", b"{SPLIT")),
    ],
)
def test_a_damaged_file_of_a_set_is_named(data_dir, file, spoil):
    folder = data_dir / "cifar10" / "3.0.2"
    write_set(folder)
    content = spoil((folder / file).read_bytes())
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    message = error("cifar10")
    assert message.startswith(f"--data cifar10: {folder / file}: ")
    assert message.endswith("copy or prepare the set again")


def test_a_data_dir_that_is_no_folder(monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", "http://127.0.0.1:1/x")
    assert "TFDS cannot open http:/127.0.0.1:1/x/qqq: " in error("qqq")


def test_a_set_that_nobody_named_is_only_opened(data_dir, monkeypatch):
    """Settings of a stranger's run must not download or run anything."""
    pretend_tensorflow(monkeypatch, there=True)
    monkeypatch.delattr(tfds, "builder")
    for name in ("cifar10", "huggingface:mnist", "someone:theirs"):
        with pytest.raises(InputError, match=f"^--data {name}: not prepared in "):
            open_source(Data(name), "test", prepare=False)
    write_set(data_dir / "cifar10" / "3.0.2")
    source = open_source(Data("cifar10"), "test", prepare=False)
    assert source.about == "TFDS cifar10/3.0.2, PNG images"
    assert source.classes == CLASSES
    np.testing.assert_array_equal(everything(source)[0], pixels("test")[0])


def test_a_spoilt_record_is_named(data_dir):
    """Before training, but not where nobody asks for an image."""
    write_set(data_dir / "cifar10" / "3.0.2", suffix=".jpg", spoil=4)
    assert find_source(Data("cifar10"), "train").count == TRAIN
    assert "cifar10[4]" in error("cifar10")


def test_the_variable_is_enough_and_tensorflow_is_not_needed(tmp_path):
    write_set(tmp_path / "cifar10" / "3.0.2")
    code = (
        "import sys; from alexvgg_jax.config import Data; "
        "from alexvgg_jax.data.sources import open_source; "
        "print(open_source(Data('cifar10'), 'train').count); "
        "assert 'tensorflow' not in sys.modules"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TFDS_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == [str(TRAIN)]


def test_a_missing_set_says_what_to_do(data_dir, monkeypatch):
    pretend_tensorflow(monkeypatch, there=False)
    message = error("cifar10")
    for hint in ("cifar10", str(data_dir), "TFDS_DATA_DIR", "`digits` needs", "[tfds]"):
        assert hint in message


def test_a_missing_set_is_prepared_if_tensorflow_is_there(data_dir, monkeypatch):
    pretend_tensorflow(monkeypatch, there=True)

    def prepare(builder, file_format):
        assert file_format == tfds.core.FileFormat.ARRAY_RECORD
        write_set(Path(builder.data_path))

    monkeypatch.setattr(
        tfds.core.GeneratorBasedBuilder, "download_and_prepare", prepare
    )
    assert open_source(Data("cifar10"), "train").count == TRAIN


def test_a_prepared_set_is_not_prepared_again(data_dir, monkeypatch):
    pretend_tensorflow(monkeypatch, there=True)
    monkeypatch.delattr(tfds.core.DatasetBuilder, "download_and_prepare")
    write_set(data_dir / "cifar10" / "3.0.2")
    assert open_source(Data("cifar10"), "train").count == TRAIN


@pytest.mark.parametrize("typo, meant", [("cifra10", "cifar10"), ("mnits", "mnist")])
def test_a_mistyped_name_gets_the_closest(data_dir, typo, meant):
    message = error(typo)
    assert typo in message
    assert meant in message


def test_a_name_like_no_other(data_dir):
    assert "no such folder, and no set of TFDS" in error("qqqqqqqqqq")
    assert "perhaps" not in error("photos")


def test_held_out_images_are_spread_over_the_training_set():
    whole = open_source(Data("digits"), "train")
    data = Data("digits", held_out=100)
    kept, held = open_source(data, "train"), open_source(data, "test")
    assert (kept.count, held.count) == (whole.count - 100, 100)
    everything = [
        *kept.fetch(np.arange(kept.count))[0],
        *held.fetch(np.arange(held.count))[0],
    ]
    originals = whole.fetch(np.arange(whole.count))[0]
    assert sorted(i.tobytes() for i in everything) == sorted(
        i.tobytes() for i in originals
    )
    first_half = originals[: whole.count // 2]
    in_first = {image.tobytes() for image in first_half}
    chosen = held.fetch(np.arange(100))[0]
    assert 45 <= sum(image.tobytes() in in_first for image in chosen) <= 60
    with pytest.raises(InputError, match="--data.held-out 5000"):
        open_source(Data("digits", held_out=5000), "train")


def pixels_of(source):
    return [image.tobytes() for image in everything(source)[0]]


def test_a_balanced_choice_of_training_images():
    """The same for every run, in the set's order; the rest is everything else."""
    whole, data = open_source(Data("digits"), "train"), Data("digits", count=500)
    chosen, rest = open_source(data, "train"), find_rest(data)
    assert rest and (chosen.count, rest.count) == (500, whole.count - 500)
    for source in (chosen, rest):
        np.testing.assert_array_equal(source.labels(), everything(source)[1])
    assert np.bincount(chosen.labels()).tolist() == [50] * 10
    numbers = choose(whole, data)
    np.testing.assert_array_equal(numbers, np.unique(choose(whole, data)))
    assert pixels_of(chosen) == [pixels_of(whole)[n] for n in numbers]
    assert sorted(pixels_of(chosen) + pixels_of(rest)) == sorted(pixels_of(whole))
    assert max(np.diff(numbers)) < 50  # from everywhere in the set
    assert open_source(data, "test").count == 360
    held = Data("digits", count=500, held_out=100)
    assert open_source(held, "train").count == 400


def test_a_choice_of_more_images_than_a_class_has():
    """Every class gives the same number, as far as it can."""
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    source = Source(
        "set",
        73,
        ("a", "b", "c"),
        lambda _: (),
        lambda: labels,
        "",
        pictures=lambda *_: [],
    )
    counts = np.bincount(labels[choose(source, Data(count=25))])
    assert counts[1] == 3 and sorted(counts) == [3, 11, 11]


@pytest.mark.parametrize("count", [0, 1437, 50_000])
def test_a_count_of_all_images_is_the_whole_set(count):
    whole, data = open_source(Data("digits"), "train"), Data("digits", count=count)
    same = open_source(data, "train")
    assert (same.about, same.digest) == (whole.about, whole.digest)
    assert pixels_of(same) == pixels_of(whole) and find_rest(data) is None


def test_the_first_images_of_a_set_are_told_from_a_choice():
    whole, data = open_source(Data("digits"), "train"), Data("digits", count=500)
    first = open_source(replace(data, first=True), "train")
    rest = find_rest(replace(data, first=True))
    assert pixels_of(first) == pixels_of(whole)[:500]
    assert rest and pixels_of(rest) == pixels_of(whole)[500:]
    sources = [whole, open_source(data, "train"), first, rest]
    sources.append(open_source(replace(data, count=501), "train"))
    assert len({source.digest for source in sources}) == 5
    assert first.about == "scikit-learn's digits, first 500 of 1,437"


def test_labels_of_a_folder_are_read_without_its_images(tmp_path):
    for name, content in (("a", b"damaged"), ("b", encoded(plain(RED)))):
        save(tmp_path / "train" / name / "1.png", content)
    source = find_source(Data(str(tmp_path)), "train")
    assert source.labels().tolist() == [0, 1]
    assert with_classes(source, ("b", "a")).labels().tolist() == [1, 0]
