"""Where images come from: the embedded digits, any TFDS name, a folder of classes.

A `Source` returns images by index, all of one size, uint8 and RGB. Small sets are kept
in memory, where a batch is one gather (over 1,000,000 images/s).
"""

import difflib
import functools
import hashlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from alexvgg_jax.config import Data
from alexvgg_jax.errors import InputError

# "all": every image of a folder of classes; of other sets, the test images.
Split = Literal["train", "test", "all"]
Images = UInt8[np.ndarray, "batch height width 3"]
Labels = Int32[np.ndarray, "batch"]

IN_MEMORY_BYTES = 2**31  # sets up to this size are decoded once and kept
CODINGS = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WebP"}  # by first bytes
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Source:
    """`count` labelled images; `fetch(numbers)` returns them in that order."""

    about: str  # which set this is, as results name it
    count: int
    classes: tuple[str, ...]
    fetch: Callable[[np.ndarray], tuple[Images, Labels]]
    digest: str  # tells the images from others; of a folder, by file names and sizes


@functools.lru_cache(maxsize=4)  # both splits of a set, for one run after another
def open_source(data: Data, split: Split) -> Source:
    """A split of the set that `data` names, in memory if it is small enough.

    Raises InputError, which says what to do, if there is no such set.
    """
    if data.held_out:
        everything = open_source(replace(data, held_out=0), "train")
        return _part_of(everything, data.held_out, split)
    source = find_source(data, split)
    if source.count * data.size**2 * 3 <= IN_MEMORY_BYTES:
        return hold_in_memory(source)
    return source


def find_source(data: Data, split: Split) -> Source:
    """A split of the set that `data` names, ignoring `data.held_out`.

    Decodes no image. Raises InputError like `open_source`.
    """
    if data.name == "digits":
        return _digits(split, data.size)
    if root := folder_of(data.name):
        return _folder(root, split, data.size)
    return _tfds(data.name, split, data.size)


def folder_of(name: str) -> Path | None:
    """The folder that a data set's name means, or None.

    "digits" is never a folder. An existing folder is preferred to a TFDS set.
    """
    if name == "digits":
        return None
    if name.startswith((".", "/", "~")) or Path(name or "?").is_dir():
        try:
            return Path(name).expanduser()
        except RuntimeError as error:  # ~nobody
            raise InputError(f"--data {name}: {error}") from None
    return None


def with_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """The same images, labelled by the same names in the order of `classes`.

    Raises InputError if `source` has a class that is not one of them.
    """
    if unknown := [name for name in source.classes if name not in classes]:
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise InputError(
            f"{source.about}: the net has no class {unknown[0]!r}; it has {known}"
        )
    numbers = np.array([classes.index(name) for name in source.classes], np.int32)

    def fetch(indices: np.ndarray) -> tuple[Images, Labels]:
        images, labels = source.fetch(indices)
        return images, numbers[labels]

    return replace(source, classes=classes, fetch=fetch)


def image_files(path: Path) -> list[Path]:
    """The path itself, or all images in a folder and its subfolders."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _part_of(source: Source, held_out: int, split: Split) -> Source:
    """`held_out` evenly spread images for testing, and the others for training."""
    if not 0 < held_out < source.count:
        raise InputError(
            f"--data.held-out {held_out}: {source.about} has {source.count} images"
        )
    chosen = np.linspace(0, source.count - 1, held_out).astype(np.int64)
    if split == "train":
        chosen = np.setdiff1d(np.arange(source.count), chosen)
    about = f"{source.about}, {held_out:,} of {source.count:,} held out"
    return replace(
        source,
        about=about,
        count=len(chosen),
        fetch=lambda numbers: source.fetch(chosen[numbers]),
    )


def hold_in_memory(source: Source) -> Source:
    """The same images, kept in memory."""
    images, labels = source.fetch(np.arange(source.count))
    return replace(source, fetch=lambda numbers: (images[numbers], labels[numbers]))


def _digits(split: Split, size: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels scaled up; the last fifth is
    for testing."""
    from sklearn.datasets import load_digits  # 1 s to import, for this set only

    pixels, digits = load_digits(return_X_y=True)
    cut = len(pixels) * 4 // 5
    part = slice(cut) if split == "train" else slice(cut, None)
    greys = (pixels[part] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)  # of 0 to 16
    images = np.stack([_fit(cv2.cvtColor(g, cv2.COLOR_GRAY2RGB), size) for g in greys])
    labels = digits[part].astype(np.int32)
    about, classes = "scikit-learn's digits", tuple("0123456789")
    return Source(about, len(images), classes, lambda n: (images[n], labels[n]), about)


def _folder(root: Path, split: Split, size: int) -> Source:
    """The images that `_listed` lists, decoded and resized when they are fetched."""
    classes, files, labels = _listed(root, split)
    all_labels = np.asarray(labels, np.int32)

    def fetch(numbers: np.ndarray) -> tuple[Images, Labels]:
        images = _decode_all(
            [lambda f=files[n]: (f.read_bytes(), str(f)) for n in numbers], size
        )
        return images, all_labels[numbers]

    names = [f"{file.relative_to(root)} {file.stat().st_size}" for file in files]
    digest = hashlib.sha256("\n".join(names).encode("utf8", "replace")).hexdigest()
    return Source(f"folder {root.name}", len(files), classes, fetch, digest)


def _listed(root: Path, split: Split) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """Classes, files and labels of `root/train/CLASS/*.jpg` and `root/test` or
    `root/val`; or of `root/CLASS/*.jpg`, where every tenth image is for testing."""
    if not root.is_dir():
        raise InputError(f"--data {root}: no such folder")
    names = _subfolders(root)
    has_parts = "train" in names or bool(names) and set(names) <= {"test", "val"}
    top = _part(root, split) if has_parts else root
    classes = _subfolders(root / "train" if "train" in names else top)
    if unknown := set(_subfolders(top)) - set(classes):
        raise InputError(f"{top / min(unknown)}: no such class in {root / 'train'}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(
            path
            for path in (top / name).glob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not has_parts and split != "all":
            testing = split == "test"
            images = [f for i, f in enumerate(images) if (i % 10 == 9) == testing]
        files += images
        labels += [label] * len(images)
    if not files:
        rule = "" if has_parts else ", where every tenth of a class is for test"
        raise InputError(f"--data {root}: no {split} images in class folders{rule}")
    return tuple(classes), files, labels


def _subfolders(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _part(root: Path, split: Split) -> Path:
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"--data {root}: has neither {'/ nor '.join(names)}/")


def _tfds(name: str, split: Split, size: int) -> Source:
    """A TensorFlow data set in array_record form, read without TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    parse: Any = tf_example_pb2.Example  # pyright: ignore  (generated code)
    builder = _tfds_builder(name)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(
        features["label"], "names"
    ):
        raise InputError(f"--data {name}: needs an image and a class label")
    names = ("train",) if split == "train" else ("test", "validation")
    for part in (part for part in names if part in builder.info.splits):
        records = builder.as_data_source(
            split=part, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        first = parse.FromString(records[0]).features.feature
        if first["label"].int64_list.value[0] >= 0:  # ImageNet's test has no labels
            break
    else:
        splits = ", ".join(builder.info.splits)
        raise InputError(f"--data {name}: no labelled {split} split in {splits}")

    def fetch(numbers: np.ndarray) -> tuple[Images, Labels]:
        raw = records.__getitems__([int(n) for n in numbers])
        examples = [parse.FromString(r).features.feature for r in raw]
        images = _decode_all(
            [
                lambda e=e, n=n: (e["image"].bytes_list.value[0], f"{name}[{n}]")
                for e, n in zip(examples, numbers, strict=True)
            ],
            size,
        )
        labels = [e["label"].int64_list.value[0] for e in examples]
        return images, np.asarray(labels, np.int32)

    # A copy can differ from the official set: CIFAR-10 as JPEG instead of PNG.
    coding = CODINGS.get(first["image"].bytes_list.value[0][:2], "unknown")
    about = f"TFDS {builder.info.full_name}, {coding} images"
    return Source(about, len(records), tuple(features["label"].names), fetch, about)


def _tfds_builder(name: str) -> Any:
    """The builder of a prepared set; with TensorFlow installed, prepare it first."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # warns about versions
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)  # no network
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"perhaps {close[0]}?" if close else "not a folder, and not in TFDS"
        raise InputError(f"--data {name}: {hint}") from None
    except ImportError as error:
        needed, *_ = (error.name or str(error)).splitlines() or ["more"]
        raise InputError(
            f"--data {name}: needs {needed}: pip install -e '.[tfds]'"
        ) from None
    except (ValueError, AssertionError) as error:  # no name, or no such version
        reason = str(error).splitlines()[0]
        raise InputError(f"--data {name}: not a TFDS name: {reason}") from None
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if builder.is_prepared():
        if builder.info.file_format != array_record:
            raise InputError(
                f"--data {name}: {builder.data_path} is not in array_record form; "
                "prepare it with download_and_prepare(file_format='array_record')"
            )
        return builder
    if importlib.util.find_spec("tensorflow") is None:
        folder = builder.data_path.parents[builder.info.full_name.count("/")]
        raise InputError(
            f"--data {name}: not prepared in {folder}; set TFDS_DATA_DIR to "
            "the folder that holds it, use --data digits (train: --data.name), or "
            "pip install -e '.[tfds]' to let TFDS download it"
        )
    try:
        builder.download_and_prepare(file_format=array_record)
    except Exception as error:  # no network, a full disk, files to fetch by hand
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"--data {name}: TFDS cannot prepare it: {reason}") from None
    return tfds.builder(name)


def _decode_all(
    readers: Sequence[Callable[[], tuple[bytes, str]]], size: int
) -> Images:
    """Read, decode and resize images on all cores (OpenCV releases the GIL)."""
    images = np.empty((len(readers), size, size, 3), np.uint8)

    def work(i: int) -> None:
        images[i] = decode(*readers[i](), size)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, range(len(readers))):
            pass
    return images


def decode(encoded: bytes, name: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An encoded image as RGB, resized and cropped to size x size.

    Raises InputError, which contains `name`, if it cannot be decoded.
    """
    image = None
    if encoded:  # OpenCV raises an error of its own for empty data
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"{name}: not an image that can be decoded")
    return _fit(image, size)


def _fit(image: np.ndarray, size: int) -> np.ndarray:
    """AlexNet §2: scale the short side to `size`, then cut out the centre square."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short != size:
        method = cv2.INTER_AREA if short > size else cv2.INTER_LINEAR
        scaled = (round(width * size / short), round(height * size / short))
        image = cv2.resize(image, scaled, interpolation=method)
        height, width = image.shape[:2]
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]
