"""Trouble with what a program reads: pictures, settings, command lines and records."""

import contextlib
import copy
import io
import itertools
import json
import math
import resource
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _trouble import Random, Trial, attempt, damage, equal, printed, spoilt
from PIL import Image, ImageOps

from alexvgg_jax import __main__, ready, results
from alexvgg_jax import run as run_folder
from alexvgg_jax.config import Data, Mesh, to_settings
from alexvgg_jax.data.decode import decode, fit
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.files import write_bytes, write_text
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.sharding import make_mesh

MOST_SECONDS, MOST_MEMORY = 5, 2**30  # that a picture may take


def pictures(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Damaged pictures of all formats, against Pillow where it decodes them too."""
    whole = list(_pictures(random))
    for _ in range(count):
        name, content = whole[random.integers(len(whole))]
        how, content = spoilt(content, random)
        if name.startswith("PNG") and random.integers(2):
            content = _with_checksums(content)
        start, before = time.monotonic(), _most_memory()
        trial = attempt(f"{name}, {how}", _decoded, content)
        seconds, grown = time.monotonic() - start, _most_memory() - before
        if seconds > MOST_SECONDS or grown > MOST_MEMORY:
            trial = Trial("wrong", f"{trial.what}: {seconds:.0f} s, {grown:,} bytes")
        yield trial


def _pictures(random: Random) -> Iterator[tuple[str, bytes]]:
    coarse = Image.fromarray(random.integers(0, 256, (6, 9, 3), np.uint8))
    image = coarse.resize((54, 36), Image.Resampling.BICUBIC)
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "L", "P", "RGBA", "LA", "1"),
        "GIF": ("P", "L"),
        "BMP": ("RGB", "L", "P", "1"),
        "TIFF": ("RGB", "L", "RGBA", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("RGB", "L"),
    }
    options = {"JPEG": [{}, {"progressive": True}], "WEBP": [{}, {"lossless": True}]}
    options |= {"TIFF": [{}, {"compression": "tiff_lzw"}]}
    for kind in modes:
        for mode, option in itertools.product(modes[kind], options.get(kind, [{}])):
            file = io.BytesIO()
            image.convert(mode).save(file, kind, **option)
            yield " ".join((kind, mode, *map(str, option.values()))), file.getvalue()


def _with_checksums(png: bytes) -> bytes:
    """The PNG with the checksums that its chunks should have."""
    at, fixed = 8, bytearray(png)
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4])
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(fixed)


def _decoded(content: bytes) -> str | None:
    """What is wrong with a picture as it was decoded. A lossy one can be rounded."""
    ours = decode(content, "picture", 32)
    if ours.shape != (32, 32, 3) or ours.dtype != np.uint8:
        return f"{ours.dtype} of {ours.shape}"
    theirs = _by_pillow(content)
    if theirs is None or theirs.shape != ours.shape:
        return None
    difference = float(np.abs(ours.astype(int) - theirs).mean())
    return f"differs by {difference:.1f} from Pillow's" if difference > 4 else None


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _by_pillow(content: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return fit(np.asarray(Image.alpha_composite(white, upright).convert("RGB")), 32)
    except Exception:
        return None


HOSTILE = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf),
    *("", "0", "nan", "x" * 1000, "\0", "../..", "\ud800", "é\n", [], [[]], {}, [None]),
    *({"": 0}, {"conv1": -1}, {"conv1": math.nan}, [1, 2, 3], [-1, 0]),
)


def settings(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Settings of a run with values that they should not have."""
    recipes = [to_settings(recipe.run) for recipe in RECIPES.values()]
    mesh = make_mesh(Mesh(devices=1))

    def read(tree: dict[str, Any]) -> None:
        write_text(json.dumps(tree), folder / run_folder.SETTINGS)
        ready.compile_run(run_folder.settings(folder), 10, mesh)

    for _ in range(count):
        tree = copy.deepcopy(recipes[random.integers(len(recipes))])
        what = ", ".join(_change(tree, random) for _ in range(random.integers(1, 3)))
        yield attempt(what, read, tree)


def _change(tree: dict[str, Any], random: Random) -> str:
    """Change, remove or add one setting, and return what was done."""
    path = ""
    while True:
        name = str(random.choice(list(tree)))
        path = f"{path}.{name}".strip(".")
        inner = tree[name]
        if not isinstance(inner, dict) or not inner or not random.integers(8):
            break
        tree = inner
    how = random.integers(10)
    if how == 0:
        del tree[name]
        return f"no {path}"
    name = name if how > 1 else name + "s"
    tree[name] = HOSTILE[random.integers(len(HOSTILE))]
    return f"{path} {tree[name]!r}"[:200]


LINES: tuple[str, ...] = (
    "train digits --epochs 3 --data.size 16 --optim.rate 0.01 --out runs/x --resume",
    "train alexnet-small --net.width 0.5 --optim.drop-epochs 1 2 --mesh.devices 2",
    "train vgg-a --data.name photos --net.head gap --optim.layer-rate fc8 0.1",
    "eval runs/x --data photos --protocol ten --scales 40",
    "predict runs/x a.jpg b.jpg --csv out.csv",
    "check photos --size 32",
    "summary vgg-d --net.head gap --image-size 64 --train --batch 8",
    "ledger alexnet-paper --mesh.towers --mesh.devices 2",
    "filters runs/x --out filters.png",
)
WORDS = ("", "-", "--", "---", "-1", "0", "1e400", "nan", "None", "é", "\n", "\0", "{}")
WORDS += (
    "--help=1",
    "-h1",
    "--=",
    "9" * 400,
    "'",
    "\udcff",
    "[",
    "%s",
    "--out=",
    "~x/",
)


def command_lines(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Command lines with words left out, doubled, swapped and replaced."""
    known = sorted({word for line in LINES for word in line.split()} | {*WORDS})
    for _ in range(count):
        words = LINES[random.integers(len(LINES))].split()
        for _ in range(random.integers(1, 4)):
            at, how = random.integers(len(words) + 1), random.integers(3)
            new = [] if how == 0 else [known[random.integers(len(known))]]
            words[at : at + (how != 1)] = new
        yield attempt(f"{words}", _parsed, words)


def _parsed(words: list[str]) -> str | None:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            __main__.parse(words)
        except SystemExit as end:
            if end.code not in (0, 2) or not (out.getvalue() or error.getvalue()):
                return f"ended with {end.code}"
    return None


def records(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Records of experiments. People join and edit them: they have no digest."""
    committed = sorted((results.ROOT / "experiments" / "results").glob("*.jsonl"))
    path = folder / "records.jsonl"
    for _ in range(count):
        file = committed[random.integers(len(committed))]
        lines = file.read_bytes().splitlines(keepends=True)
        how, content = spoilt(b"".join(lines[:3]), random)
        write_bytes(content, path)
        yield attempt(f"{file.name}, {how}", _read, path)


def _read(path: Path) -> None:
    results.read(path)


def record_files(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """The files of a set of TensorFlow Datasets. The names of classes have no digest
    there."""
    from tensorflow_datasets.core import constants

    whole = _write_set(folder / "whole" / "tiny" / "1.0.0", random)
    with mock.patch.object(constants, "DATA_DIR", str(folder)):
        for _ in range(count):
            copied = folder / "tiny"
            shutil.copytree(folder / "whole" / "tiny", copied)
            files = sorted(path for path in copied.rglob("*") if path.is_file())
            file = files[random.integers(len(files))]
            what = f"{file.name}, {damage(file, random)}"
            with printed():
                yield attempt(what, lambda: _opened(*whole))
            shutil.rmtree(copied)


def _write_set(folder: Path, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Write 40 images of a prepared set, and return them and their labels."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder.mkdir(parents=True)
    images = random.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 3
    name = "tiny-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(folder / name), "group_size:1")
    for image, label in zip(images, labels, strict=True):
        file, example = io.BytesIO(), tf_example_pb2.Example()  # pyrefly: ignore
        Image.fromarray(image).save(file, "PNG")
        feature = example.features.feature
        feature["image"].bytes_list.value.append(file.getvalue())
        feature["label"].int64_list.value.append(int(label))
        writer.write(example.SerializeToString())
    writer.close()
    split = {"name": "train", "shardLengths": ["40"], "numBytes": "9000"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": [split]}))
    tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
        }
    ).save_config(str(folder))
    return images, labels


def _opened(images: np.ndarray, labels: np.ndarray) -> str | None:
    source = open_source(Data("tiny", 8), "train", prepare=False)
    fetched = source.fetch(np.arange(source.count))
    if source.count != len(images) or not equal(fetched, (images, labels)):
        return "other images or labels"
    return None
