"""Where images come from: the embedded digits, any TFDS name, a folder of classes.

A `Source` gives images by their numbers, all of one size, uint8 and RGB. Small sets
are held in memory, where a batch is one gather (over 1,000,000 images/s).
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

Split = Literal["train", "test"]
Images = UInt8[np.ndarray, "batch height width 3"]
Labels = Int32[np.ndarray, "batch"]

IN_MEMORY_BYTES = 2**31  # sets up to this size are decoded once and kept
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Source:
    """`count` labelled images; `fetch(numbers)` gives them in that order."""

    about: str  # which set this is, as results name it
    count: int
    classes: tuple[str, ...]
    fetch: Callable[[np.ndarray], tuple[Images, Labels]]
    files: str = ""  # of a folder: tells its images from others, but uncompressed ones


@functools.lru_cache(maxsize=4)  # the splits of one set, for run after run
def open_source(data: Data, split: Split) -> Source:
    """The split of the set that `data` names, in memory if it is small enough.

    Raises InputError that names what to do if there is no such set.
    """
    if data.held_out:
        whole = open_source(replace(data, held_out=0), "train")
        return _part_of(whole, data.held_out, split)
    source = find_source(data, split)
    if source.count * data.size**2 * 3 <= IN_MEMORY_BYTES:
        return hold_in_memory(source)
    return source


def find_source(data: Data, split: Split) -> Source:
    """The split of the whole set that `data` names; of files, none is decoded yet.

    Raises InputError as `open_source`.
    """
    if data.name == "digits":
        source = _digits(split, data.size)
    elif root := folder_of(data.name):
        source = _folder(root, split, data.size)
    else:
        source = _tfds(data.name, split, data.size)
    return _compressed(source, data.jpeg) if data.jpeg else source


def folder_of(name: str) -> Path | None:
    """The folder that a data set's name means, or None.

    A folder of that name comes before a TFDS set, and the digits before both.
    """
    if name == "digits":
        return None
    if name.startswith((".", "/", "~")) or Path(name or "?").is_dir():
        try:
            return Path(name).expanduser()
        except RuntimeError as error:  # of ~nobody
            raise InputError(f"--data {name}: {error}") from None
    return None


def _compressed(source: Source, quality: int) -> Source:
    """The same images, each once through a JPEG of that quality.

    Its blocks of 8 pixels lie half a block from where a JPEG of the image itself has
    them: on the same blocks hardly anything would be left to lose.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"--data.jpeg {quality}: from 1 to 100")

    def again(image: np.ndarray) -> np.ndarray:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        wider = cv2.copyMakeBorder(bgr, 4, 4, 4, 4, cv2.BORDER_REPLICATE)
        _, encoded = cv2.imencode(".jpg", wider, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return decode(encoded.tobytes(), source.about, len(wider))[4:-4, 4:-4]

    def fetch(numbers: np.ndarray) -> tuple[Images, Labels]:
        images, labels = source.fetch(numbers)
        return np.stack([again(image) for image in images]), labels

    about = f"{source.about}, compressed to JPEG {quality}"
    return replace(source, about=about, fetch=fetch)


def _part_of(source: Source, held_out: int, split: Split) -> Source:
    """So many images, evenly spread over the set, for tests; the rest for training."""
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
    """The same images, fetched once."""
    images, labels = source.fetch(np.arange(source.count))
    return replace(source, fetch=lambda numbers: (images[numbers], labels[numbers]))


def _digits(split: Split, size: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 greys scaled up; the last fifth is
    for testing."""
    from sklearn.datasets import load_digits  # 1 s to import, for this set only

    pixels, digits = load_digits(return_X_y=True)
    cut = len(pixels) * 4 // 5
    part = slice(cut) if split == "train" else slice(cut, None)
    greys = (pixels[part] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)  # of 0 to 16
    images = np.stack([_fit(cv2.cvtColor(g, cv2.COLOR_GRAY2RGB), size) for g in greys])
    labels = digits[part].astype(np.int32)
    about, classes = "scikit-learn's digits", tuple("0123456789")
    return Source(about, len(images), classes, lambda n: (images[n], labels[n]))


def _folder(root: Path, split: Split, size: int) -> Source:
    """The images that `_listed` finds, decoded and fitted as they are fetched."""
    classes, files, labels = _listed(root, split)
    numbered = np.asarray(labels, np.int32)

    def fetch(numbers: np.ndarray) -> tuple[Images, Labels]:
        images = _decode_all(
            [lambda f=files[n]: (f.read_bytes(), str(f)) for n in numbers], size
        )
        return images, numbered[numbers]

    listed = [f"{file.relative_to(root)} {file.stat().st_size}" for file in files]
    digest = hashlib.sha256("\n".join(listed).encode("utf8", "replace")).hexdigest()
    return Source(f"folder {root.name}", len(files), classes, fetch, digest[:8])


def _listed(root: Path, split: Split) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """Classes, files and labels: `root/train/CLASS/*.jpg` and `root/test` or
    `root/val`; or `root/CLASS/*.jpg`, of which every tenth image is for testing."""
    if not root.is_dir():
        raise InputError(f"--data {root}: no such folder")
    has_parts = (root / "train").is_dir()
    classes = _sub_folders(root / "train" if has_parts else root)
    top = _part(root, split) if has_parts else root
    if strangers := set(_sub_folders(top)) - set(classes):
        raise InputError(f"{top / min(strangers)}: no such class in {root / 'train'}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (top / name).glob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not has_parts:
            testing = split == "test"
            found = [f for i, f in enumerate(found) if (i % 10 == 9) == testing]
        files += found
        labels += [label] * len(found)
    if not files:
        rule = "" if has_parts else ", where every tenth of a class is for test"
        raise InputError(f"--data {root}: no {split} images in class folders{rule}")
    return tuple(classes), files, labels


def _sub_folders(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _part(root: Path, split: Split) -> Path:
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"--data {root}: has train/ but neither test/ nor val/")


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
        there = ", ".join(builder.info.splits)
        raise InputError(f"--data {name}: no labelled {split} split in {there}")

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

    # A copy can hold other bytes than the official set: CIFAR-10 as JPEG, not PNG.
    jpeg = first["image"].bytes_list.value[0][:2] == b"\xff\xd8"
    coding = "JPEG" if jpeg else "PNG"
    about = f"TFDS {builder.info.full_name}, {coding} images"
    return Source(about, len(records), tuple(features["label"].names), fetch)


def _tfds_builder(name: str) -> Any:
    """The builder of a prepared set; with TensorFlow installed, prepare it first."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # warns at every version
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)  # others need a net
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
    """Read, decode and fit images on all cores (OpenCV releases the GIL)."""
    images = np.empty((len(readers), size, size, 3), np.uint8)

    def work(i: int) -> None:
        images[i] = decode(*readers[i](), size)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, range(len(readers))):
            pass
    return images


def decode(encoded: bytes, name: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """One JPEG or PNG as RGB, fitted to size x size. InputError names a corrupt one."""
    image = None
    if encoded:  # of nothing, OpenCV raises an error of its own
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"{name}: not a whole image that can be decoded")
    return _fit(image, size)


def _fit(image: np.ndarray, size: int) -> np.ndarray:
    """AlexNet §2: scale the short side to `size`, then cut out the centre square."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short != size:
        way = cv2.INTER_AREA if short > size else cv2.INTER_LINEAR
        scaled = (round(width * size / short), round(height * size / short))
        image = cv2.resize(image, scaled, interpolation=way)
        height, width = image.shape[:2]
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]
