"""`prepare` writes a set that is read as its source is, up to the loss of JPEG."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy.io import savemat
from tensorflow_datasets.core import constants

from alexvgg_jax import __main__
from alexvgg_jax.config import Data
from alexvgg_jax.data import records
from alexvgg_jax.data.decode import decode, scale_short
from alexvgg_jax.data.manifest import Settings
from alexvgg_jax.data.records import shrink
from alexvgg_jax.data.sources import find_source
from alexvgg_jax.errors import InputError

TRAIN = "images-train.array_record-0000{}-of-00002"
PLACES = [f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")]


def photo(seed: int, height: int = 30, width: int = 40) -> np.ndarray:
    """A picture without details, which JPEG hardly changes."""
    few = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def write_folder(root: Path, suffix: str = ".png") -> Path:
    """Three images of each class for training, and two for testing."""
    for seed, place in enumerate(PLACES):
        (root / place).mkdir(parents=True)
        for i in range(3 if "train" in place else 2):
            image = encoded(photo(10 * seed + i, 30 + i), suffix)
            (root / place / f"{i}{suffix}").write_bytes(image)
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "photos")


def command(source: Path | str, to: Path, *options: str) -> None:
    size = () if "--size" in options else ("--size", "16")
    arguments = ("prepare", "--from", str(source), "--to", str(to), *size, *options)
    __main__.parse(arguments)()


def refused(source: Path | str, to: Path, *options: str) -> str:
    with pytest.raises(InputError) as caught:
        command(source, to, *options)
    return str(caught.value)


def everything(root: Path | str, split: str = "train", size: int = 16):
    source = find_source(Data(str(root), size), split)
    return *source.fetch(np.arange(source.count)), source.classes


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def assert_same_images(one, two) -> None:
    """Up to the loss of JPEG, with the same labels and classes."""
    assert one[0].shape == two[0].shape and one[0].std() > 20
    assert np.abs(one[0].astype(int) - two[0]).max() <= 20
    assert np.abs(one[0].astype(int) - two[0]).mean() <= 2
    assert one[1].tolist() == two[1].tolist()
    assert one[2] == two[2]


@pytest.mark.parametrize("square", [False, True])
def test_a_prepared_folder_is_read_as_the_folder(folder, tmp_path, capfd, square):
    to = tmp_path / "set"
    command(folder, to, "--shard", "4", *["--square"] * square)
    for split, count in {"train": 6, "test": 4}.items():
        prepared = everything(to, split)
        assert_same_images(prepared, everything(folder, split))
        assert len(prepared[0]) == count
    (picture,) = find_source(Data(str(to), 16), "test").pictures(
        np.array([1]), [16], scale_short
    )
    assert picture.scales[0].shape == (16, 16 if square else 21, 3)
    assert {TRAIN.format(0), TRAIN.format(1)} < content(to).keys()
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith(f"wrote {to}: 6 train and 4 test images, 0.")


def test_tfds_reads_a_prepared_folder(folder, tmp_path):
    command(folder, tmp_path / "set")
    builder = tfds.builder_from_directory(tmp_path / "set")
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {
        "train": 6,
        "test": 4,
    }
    last = builder.as_data_source("test")[3]
    assert last["image"].shape == (16, 21, 3) and last["label"] == 1
    assert last["file_name"] == b"test/dog/1.png"


def test_a_set_of_tfds_is_prepared_by_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    command(folder, tmp_path / "images" / "1.0.0", "--size", "24", "--quality", "100")
    command("images", tmp_path / "set")
    assert_same_images(everything(tmp_path / "set"), everything(folder))
    (image,) = tfds.builder_from_directory(tmp_path / "set").as_data_source("test[:1]")
    assert image["file_name"] == b"images[0]"


def test_a_jpeg_of_this_size_is_stored_as_it_is():
    """Only if it is upright and in colour, and if the whole image is kept."""
    whole, square = (Settings(16, square, 95, 4) for square in (False, True))
    jpeg = encoded(photo(0, 16, 20), ".jpg")
    assert shrink(jpeg, "", whole) == (jpeg, ("unchanged",))
    for image, settings in (
        (jpeg, square),
        (encoded(photo(0, 16, 20)), whole),
        (encoded(photo(0, 17, 20), ".jpg"), whole),
        (encoded(photo(0, 15, 20), ".jpg"), whole),
        (encoded(photo(0, 16, 20)[..., 0], ".jpg"), whole),
    ):
        changed, rules = shrink(image, "", settings)
        assert changed != image and "unchanged" not in rules
        assert min(decode(changed, "", 16).shape[:2]) == 16
    jpeg = encoded(photo(0, 16, 16), ".jpg")
    assert shrink(jpeg, "", square)[0] == jpeg


def saved(mode: str, suffix: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(1)).convert(mode).save(file, suffix, **options)
    return file.getvalue()


def test_unusual_images_are_listed(tmp_path, capfd):
    """And are read as before; damaged ones are left out, and end with status 1."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "0": saved("RGB", "JPEG"),
        "cmyk": saved("CMYK", "JPEG", quality=95),
        "damaged": saved("RGB", "JPEG")[:-100],
        "grey": saved("L", "JPEG", quality=95),
        "rotated": saved("RGB", "JPEG", exif=exif, quality=95),
        "transparent": saved("RGBA", "PNG"),
    }
    for name, image in files.items():
        path = tmp_path / "photos" / "train" / "a" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    to = tmp_path / "set"
    with pytest.raises(SystemExit, match="1"):
        command(tmp_path / "photos", to, "--splits", "train", "--quality", "100")
    lines = capfd.readouterr().out.splitlines()
    damaged = "train/a/damaged.jpg: not an image that can be decoded"
    assert lines[0] == f"left out: {damaged}"
    assert lines[-1] == f"wrote {to}: 5 train images, 0.1 MB"
    for rule, name in (("CMYK", "cmyk"), ("grey", "grey"), ("rotated", "rotated")):
        assert any(
            line.startswith(f"{rule}: 1 (") and line.endswith(f": train/a/{name}.jpg")
            for line in lines
        )
    manifest = json.loads((to / "prepared.json").read_text())
    (shard,) = manifest["files"].values()
    assert shard["unusual"] == {
        "left out": [damaged],
        **{
            rule: [f"train/a/{rule.lower()}.jpg"]
            for rule in ("CMYK", "grey", "rotated", "transparent")
        },
    }
    assert manifest["rules"].keys() == {*shard["unusual"], "unchanged", "unread"}
    assert manifest["images"]["train"]["left out"] == 1
    assert manifest["images"]["train"]["images"] == shard["images"] == 5
    del files["damaged"]
    originals = np.stack([decode(image, "", 16) for image in files.values()])
    images, labels, _ = everything(to)
    assert labels.tolist() == [0] * 5
    assert np.abs(images.astype(int) - originals).max() <= 12


def test_names_that_are_not_utf8_and_very_long_images(folder, tmp_path, capfd):
    path = folder / "train" / "dog" / "\udcff\n.jpg"
    path.write_bytes(encoded(photo(1)[..., 0]))
    (folder / "train" / "dog" / "long.png").write_bytes(encoded(photo(1, 1, 5_000)))
    with pytest.raises(SystemExit, match="1"):
        command(folder, tmp_path / "set")
    printed = capfd.readouterr().out
    long = "train/dog/long.png: 80,000 x 16 pixels are no JPEG"
    assert f"left out: {long}\n" in printed
    assert "equal channels): train/dog/\\udcff\\n.jpg\n" in printed
    manifest = (tmp_path / "set" / "prepared.json").read_text()
    assert json.dumps("train/dog/\\udcff\\n.jpg") in manifest and long in manifest
    data = tfds.builder_from_directory(tmp_path / "set").as_data_source("train")
    assert os.fsencode("train/dog/\udcff\n.jpg") in [x["file_name"] for x in data]


WATCHED = """
import sys
from alexvgg_jax import __main__
from alexvgg_jax.data import records

def imported():
    lazy = ("tensorflow_datasets", "etils")
    return {name for name in sys.modules if name.startswith(lazy)}

def watched(real=records.import_tfds):
    real()
    before.update(imported())

before, records.import_tfds = set(), watched
__main__.main(sys.argv[1:])
assert before and imported() == before, imported() - before
"""


def test_tfds_is_imported_before_any_thread_starts(folder, tmp_path):
    """It is imported lazily, and two threads that import it wait for each other."""
    to = ("--to", str(tmp_path / "set"), "--size", "16")
    command = (sys.executable, "-c", WATCHED, "prepare", "--from", str(folder), *to)
    subprocess.run(command, check=True, capture_output=True, timeout=100)


# Interruptions.


@pytest.mark.parametrize("rename", [False, True])
def test_an_interrupted_command_continues(folder, tmp_path, monkeypatch, rename):
    """With the same bytes; until then the set cannot be read. An interruption comes
    while images are read, or before the manifest has the finished file."""
    command(folder, tmp_path / "whole", "--shard", "4", "--threads", "3")
    to = tmp_path / "set"
    seen = []

    def interrupt(*arguments):
        seen.append(arguments)
        if len(seen) == (2 if rename else 6):
            raise KeyboardInterrupt
        return real(*arguments)

    part, name = (records, "sha256") if rename else (records, "shrink")
    real = getattr(part, name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(part, name, interrupt)
        command(folder, to, "--shard", "4", "--threads", "1")
    left = {"prepared.json", TRAIN.format(0), *[TRAIN.format(1)] * rename}
    assert content(to).keys() == left
    with pytest.raises(InputError, match=f"{to}: not finished: run the same `prepare`"):
        everything(to)
    mine = tmp_path / "mine"
    mine.write_bytes(b"not to be written")
    (to / (TRAIN.format(1) + ".part")).symlink_to(mine)  # of a process that was killed
    finished = (to / TRAIN.format(0)).stat()
    command(folder, to, "--shard", "4")
    assert (to / TRAIN.format(0)).stat() == finished
    assert content(to) == content(tmp_path / "whole")
    assert mine.read_bytes() == b"not to be written"


def test_a_finished_set_is_left_as_it_is(folder, tmp_path, monkeypatch):
    command(folder, tmp_path / "set")
    before = content(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.delattr(records, "shrink")
        command(folder, tmp_path / "set")
    assert content(tmp_path / "set") == before
    test = tmp_path / "set" / "images-test.array_record-00000-of-00001"
    changed = bytearray(before[test.name])
    changed[-1] ^= 1
    for spoil in (
        test.unlink,
        lambda: test.write_bytes(b"cut"),
        lambda: test.write_bytes(changed),
    ):
        spoil()
        with monkeypatch.context() as patch, pytest.raises(AttributeError):
            patch.delattr(records, "shrink")  # until the file is written again,
            command(folder, tmp_path / "set")
        with pytest.raises(InputError, match="not finished"):  # nothing can be read
            everything(tmp_path / "set")
        command(folder, tmp_path / "set")
        assert content(tmp_path / "set") == before


def test_a_full_disk_leaves_no_half_file(folder, tmp_path, largest_file):
    largest_file(100_000)  # a file of records has at least 128 KB
    with pytest.raises(OSError, match=f"{TRAIN.format(0)}: write.. failed: File too"):
        command(folder, tmp_path / "set", "--shard", "4")
    largest_file(None)
    assert content(tmp_path / "set").keys() == {"prepared.json"}
    command(folder, tmp_path / "set", "--shard", "4")


# What is refused.


def test_a_set_of_other_settings_or_images(folder, tmp_path):
    to = tmp_path / "set"
    command(folder, to)
    before = content(to)
    for options, line in {
        ("--size", "8"): "size is 16, not 8",
        ("--square",): "square is False, not True",
        ("--quality", "90"): "quality is 95, not 90",
        ("--shard", "5"): "shard is 8192, not 5",
        ("--splits", "train"): "the images are folder photos",
    }.items():
        assert f"{to}/prepared.json: {line}" in refused(folder, to, *options)
    (folder / "test" / "dog" / "0.png").write_bytes(encoded(photo(99)))
    assert "the images are folder photos (6 images, digest" in refused(folder, to)
    assert content(to) == before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--size", "0"), "--size 0: at least 1"),
        (("--size", "65501"), "--size 65501: at most 65,500"),
        (("--quality", "101"), "--quality 101: at most 100"),
        (("--shard", "0"), "--shard 0: at least 1"),
        (("--threads", "-1"), "--threads -1: at least 0"),
        (("--splits", "train", "train"), "--splits: train, test, or both"),
    ],
)
def test_settings_out_of_bounds(tmp_path, options, line):
    assert refused(tmp_path, tmp_path / "set", *options) == line


def test_folders_that_are_not_ours(folder, tmp_path):
    line = refused(folder, tmp_path / "photos" / "set")
    assert line == f"--to {folder}/set: inside {folder}"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "mine: not empty, and not written by" in refused(folder, tmp_path / "mine")
    assert content(tmp_path / "mine") == {"letter.txt": b"dear"}
    with records.locked(tmp_path / "set"):
        assert "another process writes" in refused(folder, tmp_path / "set")
    (tmp_path / "set" / "prepared.json").write_text('{"settings": 1}')
    assert "not as `prepare` wrote it" in refused(folder, tmp_path / "set")
    assert "File exists" in refused(folder, folder / ".." / "mine" / "letter.txt")


def test_sources_that_cannot_be_prepared(folder, tmp_path):
    to = tmp_path / "set"
    assert refused("digits", to).startswith("--from digits: they are part of")
    assert refused(tmp_path / "no", to).startswith(f"--from {tmp_path}/no: no such")
    for path in (folder / "test").rglob("*.png"):
        path.unlink()
    assert "`--splits train` prepares the training images alone" in refused(folder, to)
    (folder / "train" / "cat").rename(folder / "train" / " cat")
    assert "cannot store the name ' cat'" in refused(folder, to, "--splits", "train")
    assert not to.exists()


# What reads it.


def test_check_compares_the_digests(folder, tmp_path, capfd):
    to = tmp_path / "set"
    command(folder, to)
    capfd.readouterr()
    __main__.parse(("check", str(to)))()
    assert capfd.readouterr().out == f"{to}: 10 images, 0 problems\n"
    name = "images-test.array_record-00000-of-00001"
    changed = bytearray((to / name).read_bytes())
    changed[-1] ^= 1  # no reader sees it
    (to / name).write_bytes(changed)
    with pytest.raises(SystemExit, match="1"):
        __main__.parse(("check", str(to)))()
    assert capfd.readouterr().out.splitlines() == [
        f"{to}/{name}: its digest is not that of prepared.json",
        f"{to}: 10 images, 1 problem",
    ]


def test_check_goes_on_after_a_damaged_file(folder, tmp_path, capfd):
    to = tmp_path / "set"
    command(folder, to)
    for split in ("train", "test"):
        file = to / f"images-{split}.array_record-00000-of-00001"
        changed = bytearray(file.read_bytes())
        changed[changed.rindex(b"JFIF")] ^= 1
        file.write_bytes(changed)
    with pytest.raises(SystemExit, match="1"):
        __main__.parse(("check", str(to)))()
    assert capfd.readouterr().out.endswith("10 images, 4 problems\n")


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda manifest: [],
        lambda manifest: manifest | {"classes": ["dog", "cat"]},
        lambda manifest: manifest | {"sha256": None},
        lambda manifest: manifest | {"files": {}},
        lambda manifest: manifest["settings"] | manifest,
        lambda manifest: {"sha256": manifest["sha256"]},
    ],
)
def test_a_changed_manifest_is_one_problem_everywhere(folder, tmp_path, capfd, spoiled):
    to = tmp_path / "set"
    command(folder, to)
    path = to / "prepared.json"
    path.write_text(json.dumps(spoiled(json.loads(path.read_text()))))
    line = f"{path}: not as `prepare` wrote it: prepare the set again in another folder"
    assert refused(folder, to) == line
    with pytest.raises(InputError) as caught:
        everything(to)
    assert str(caught.value) == line
    capfd.readouterr()
    with pytest.raises(SystemExit, match="1"):
        __main__.parse(("check", str(to)))()
    assert capfd.readouterr().out == f"{line}\n{to}: 0 images, 1 problem\n"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("a\nb")])
def test_the_names_of_the_classes_are_those_of_the_manifest(folder, tmp_path, spoil):
    command(folder, tmp_path / "set")
    spoil(tmp_path / "set" / "label.labels.txt")
    with pytest.raises(InputError, match="not as written: run the same `prepare`"):
        everything(tmp_path / "set")
    command(folder, tmp_path / "set")
    everything(tmp_path / "set")


def test_the_digest_of_a_prepared_folder(folder, tmp_path):
    """Is that of its images, wherever they are."""

    def digest(root: Path) -> str:
        return find_source(Data(str(root)), "test").digest

    command(folder, tmp_path / "set")
    before = digest(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert digest(tmp_path / "moved") == before
    command(folder, tmp_path / "set", "--quality", "94")
    assert digest(tmp_path / "set") != before


def test_a_run_is_trained_on_a_prepared_folder(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    command(folder, tmp_path / "set")
    small = ("--data.size", "16", "--epochs", "1", "--batch", "4")
    data = ("--data.name", str(tmp_path / "set"), "--mesh.devices", "1")
    out = ("--out", str(tmp_path / "run"))
    __main__.parse(("train", "digits", *small, *data, *out))()
    assert "epoch 1/1" in capfd.readouterr().err
    images = json.loads((tmp_path / "run" / "data.json").read_text())
    assert images["set"] == "folder set, JPEG images"
    assert (images["classes"], images["train"], images["test"]) == (
        ["cat", "dog"],
        6,
        4,
    )


# ILSVRC's tars.

WNIDS = ("n02000001", "n01000002")  # of the ids 1 and 2: not in this order
TRUTH = [2, 1, 2]  # ids of the validation images


def add(archive: tarfile.TarFile, name: str, content: bytes, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = len(content), kind
    archive.addfile(member, io.BytesIO(content))


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        add(archive, "folder/", b"", tarfile.DIRTYPE)
        for name, content in files.items():
            add(archive, name, content)
    return made.getvalue()


def write_tars(root: Path) -> Path:
    root.mkdir()
    classes = {
        f"{wnid}.tar": tar(
            {f"../../{wnid}_{i}.JPEG": encoded(photo(10 * c + i)) for i in range(2 + c)}
        )
        for c, wnid in enumerate(WNIDS)
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar(classes))
    images = {
        f"./ILSVRC2012_val_{i:08}.JPEG": encoded(photo(100 + i)) for i in (3, 1, 2)
    }
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar(images))
    rows = [(id, wnid, "words") for id, wnid in enumerate((*WNIDS, "n03"), 1)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, kinds)})
    truth = "".join(f"{id}\n" for id in TRUTH).encode()
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "kit/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar(kit, "w:gz"))
    return root


def expected(seeds: list[int]) -> np.ndarray:
    return np.stack([decode(encoded(photo(seed)), "", 16) for seed in seeds])


def test_the_tars_of_ilsvrc(tmp_path):
    """Nothing is extracted, whatever the names in them are."""
    root = write_tars(tmp_path / "tars")
    before = sorted(tmp_path.rglob("*"))
    images, labels, classes = everything(root)
    assert classes == ("n01000002", "n02000001")
    assert labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(images, expected([10, 11, 12, 0, 1]))
    images, labels, classes = everything(root, "test")
    assert classes == ("n01000002", "n02000001")
    assert labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(images, expected([101, 102, 103]))
    assert sorted(tmp_path.rglob("*")) == before
    command(root, tmp_path / "set")
    for split in ("train", "test"):
        assert_same_images(everything(tmp_path / "set", split), everything(root, split))
    first = tfds.builder_from_directory(tmp_path / "set").as_data_source("train")[0]
    assert first["file_name"] == b"ILSVRC2012_img_train.tar/n01000002_0.JPEG"


def test_tars_without_the_others(tmp_path):
    root = write_tars(tmp_path / "tars")
    train, kit = root / "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"
    content = train.read_bytes()
    train.unlink()
    assert everything(root, "test")[2] == ("n01000002", "n02000001")
    assert "no train images: it has no ILSVRC2012_img_train" in refused(root, tmp_path)
    train.write_bytes(content)
    (root / kit).unlink()
    assert f"no test images: it has no {kit}" in refused(root, tmp_path / "set")


@pytest.mark.parametrize("size", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", ["img_train.tar", "img_val.tar", "devkit_t12.tar.gz"])
def test_damaged_tars_are_named(tmp_path, name, size):
    root = write_tars(tmp_path / "tars")
    path = root / f"ILSVRC2012_{name}"
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content.rstrip(b"\0")))])
    assert str(path) in refused(root, tmp_path / "set")


def test_a_tar_that_is_cut_while_it_is_read(tmp_path):
    root = write_tars(tmp_path / "tars")
    source = find_source(Data(str(root), 16), "train")
    os.truncate(root / "ILSVRC2012_img_train.tar", 2000)
    with pytest.raises(InputError, match="img_train.tar: cut short"):
        source.fetch(np.array([4]))


def test_tars_that_do_not_fit(tmp_path):
    root = write_tars(tmp_path / "tars")
    train, val = (root / f"ILSVRC2012_img_{name}.tar" for name in ("train", "val"))
    one = val.read_bytes()
    val.write_bytes(tar({"ILSVRC2012_val_00000001.JPEG": encoded(photo(1))}))
    assert "has 1 images, and ILSVRC2012_devkit" in refused(root, tmp_path / "set")
    val.write_bytes(one)
    train.write_bytes(tar({"n01000002.tar": tar({"1.JPEG": encoded(photo(1))})}))
    assert "img_train.tar: has no n02000001.tar" in refused(root, tmp_path / "set")
    train.write_bytes(tar({"../photo.jpg": encoded(photo(1))}))
    assert "photo.jpg: not the tar of a class" in refused(root, tmp_path / "set")
    endless = tar({"1.JPEG": encoded(photo(1))}).rstrip(b"\0")
    endless += bytes(-len(endless) % 512)  # the next class would be its second image
    train.write_bytes(tar({"n01000002.tar": endless, "n02000001.tar": tar({})}))
    assert "img_train.tar: n01000002.tar: damaged" in refused(root, tmp_path / "set")
    train.write_bytes(tar({}))
    assert "img_train.tar: has no images" in refused(root, tmp_path / "set")
    header = bytearray(tar({"n01000002.tar": tar({"1.JPEG": encoded(photo(1))})}))
    header[512 + 5] ^= 1
    train.write_bytes(header)
    assert f"{train}: damaged: ReadError" in refused(root, tmp_path / "set")
