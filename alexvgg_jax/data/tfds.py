"""Read image sets of TensorFlow Datasets in array_record form, without TensorFlow."""

import bisect
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexvgg_jax.data import manifest
from alexvgg_jax.data.decode import Encoded, Reader
from alexvgg_jax.data.manifest import MANIFEST
from alexvgg_jax.errors import InputError

CODINGS = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WebP"}  # by first bytes
TRAIN, TEST = ("train",), ("test", "validation")  # names of splits
INFO = "dataset_info.json"
HASHED = 2**22  # bytes
READERS = 16  # records that are read at a time: a disk may be far away
AGAIN = "copy or prepare the set again"


def open_tfds(name: str, testing: bool, prepare: bool) -> Encoded:
    """The training or test images of a set.

    With `prepare`, a set that is missing is downloaded and prepared, if TensorFlow is
    installed. Raises InputError for a set that has no labelled RGB images.
    """
    builder = _builder(name) if prepare else _prepared(name)
    if builder is None:
        raise InputError(
            f"--data {name}: not prepared in {_data_dir()}; name it with --data to let "
            "TFDS prepare it"
        )
    return _opened(name, builder, testing, f"TFDS {builder.info.full_name}")


def is_prepared(root: Path) -> bool:
    """Whether a folder is a set in the form of TFDS, or will be when `prepare` ends."""
    return (root / INFO).exists() or (root / MANIFEST).exists()


def open_prepared(root: Path, testing: bool) -> Encoded:
    """The training or test images of a folder that `prepare` or TFDS has written.

    Raises InputError for a folder that is not finished, or has no labelled RGB images.
    """
    from tensorflow_datasets.core.read_only_builder import builder_from_directory

    name = str(root)
    written = manifest.read(root) if (root / MANIFEST).exists() else None
    if not (root / INFO).exists():
        raise InputError(f"--data {name}: not finished: run the same `prepare` again")
    try:
        builder = _in_array_records(name, builder_from_directory(root))
    except InputError:
        raise
    except Exception as error:
        raise _cannot_open(name, error, root) from None
    opened = _opened(name, builder, testing, f"folder {root.resolve().name}")
    if written is None:
        return replace(opened, digest=_digest(root))
    made, digest = written
    if made.classes != opened.classes:
        again = "run the same `prepare` again"
        raise InputError(f"--data {name}: its classes are not as written: {again}")
    return replace(opened, digest=digest)


def _digest(root: Path) -> str:
    """Depends on the names and sizes of a set's files, and on the content of their
    first and last `HASHED` bytes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            digest.update(file.read(HASHED))
            file.seek(max(size - HASHED, 0))
            digest.update(file.read(HASHED))
    return digest.hexdigest()


def _opened(name: str, builder: Any, testing: bool, about: str) -> Encoded:
    """The training or test images of a builder's set."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2.Example  # pyrefly: ignore (generated code)
    classes = _classes(name, builder.info.features)

    def parse(number: int | np.integer, record: bytes) -> Any:
        try:
            return example.FromString(record).features.feature
        except DecodeError:
            raise InputError(f"{name}[{number}]: not a record of TFDS") from None

    for part in TEST if testing else TRAIN:
        if part in builder.info.splits:
            fetch, count = _records(name, builder, part)
            first = parse(0, fetch([0])[0])
            if _label(first) != -1:  # ImageNet's test images have no labels
                break
    else:
        splits = ", ".join(builder.info.splits)
        hint = "; `train --data.held-out N` tests on N of its images" if testing else ""
        raise InputError(
            f"--data {name}: no labelled {'test' if testing else 'train'} split in "
            f"{splits}{hint}"
        )

    def read(numbers: np.ndarray) -> tuple[list[Reader], np.ndarray]:
        records = [*map(parse, numbers, fetch(numbers))]
        readers: list[Reader] = [
            lambda r=r, n=n: _checked(r, f"{name}[{n}]", len(classes))
            for r, n in zip(records, numbers, strict=True)
        ]
        labels = [_label(r) for r in records]
        return readers, np.array([n or 0 for n in labels], np.int32)

    # A copy can differ from the official set: CIFAR-10 as JPEG instead of PNG.
    coding = CODINGS.get((_image(first) or b"")[:2], "unknown")
    about = f"{about}, {coding} images"
    return Encoded(about, count, classes, read, about)


def _checked(record: Any, name: str, classes: int) -> tuple[bytes, str]:
    """A record's image and its name. InputError if it has no image or no label."""
    image, label = _image(record), _label(record)
    if image is None:
        raise InputError(f"{name}: the record has no encoded image")
    if label is None:
        raise InputError(f"{name}: the record has no label, or several")
    if not 0 <= label < classes:
        raise InputError(f"{name}: label {label}, of {classes} classes from 0")
    return image, name


def _image(record: Any) -> bytes | None:
    images = record["image"].bytes_list.value
    return images[0] if len(images) == 1 else None


def _label(record: Any) -> int | None:
    labels = record["label"].int64_list.value
    return labels[0] if len(labels) == 1 and abs(labels[0]) < 2**31 else None


def _classes(name: str, features: Any) -> tuple[str, ...]:
    """The classes of a set with one image and one label each. InputError for others."""
    import tensorflow_datasets as tfds

    parts: Any = features if isinstance(features, tfds.features.FeaturesDict) else {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for key, kind in kinds.items():
        feature = parts[key] if key in parts else None
        if type(feature) is not kind:
            what = type(feature).__name__ if feature else "missing"
            raise InputError(
                f"--data {name}: needs an image and a class label: its {key} is {what}"
            )
    image, label = parts["image"], parts["label"]
    if np.dtype(image.np_dtype).kind != "u":  # float images are stored as raw bytes
        raise InputError(f"--data {name}: its images are {image.np_dtype}, not uint8")
    if not label.num_classes:
        raise InputError(f"--data {name}: its label has no classes")
    return tuple(label.names)


def _records(name: str, builder: Any, part: str) -> tuple[Callable, int]:
    """A function that returns encoded records by number, and how many there are."""
    from array_record.python.array_record_module import ArrayRecordReader

    def damaged(file: str | Path, reason: object) -> InputError:
        line = (str(reason) or type(reason).__name__).splitlines()[0]
        return InputError(f"--data {name}: {file}: {line}; {AGAIN}")

    split, files, readers, starts = builder.info.splits[part], [], [], [0]
    try:
        files = [os.fspath(file) for file in split.filepaths]
    except ValueError as error:  # no names can be made of the template there
        raise damaged(Path(builder.data_path, INFO), error) from None
    for file, length in zip(files, split.shard_lengths, strict=True):
        try:  # records are read one by one, so nothing is read ahead
            reader = ArrayRecordReader(
                file, "readahead_buffer_size:0", file_reader_buffer_size=2**15
            )
            count = reader.num_records()
        except Exception as error:  # RuntimeError, and perhaps others
            raise damaged(file, error) from None
        if count != length:
            raise damaged(file, f"has {count:,} records, and {INFO} says {length:,}")
        readers.append(reader)
        starts.append(starts[-1] + length)
    if not starts[-1]:
        raise InputError(f"--data {name}: its {part} split is empty")

    def fetch_some(numbers: Sequence[int]) -> list[bytes]:
        records = []
        for n in numbers:
            place = bisect.bisect(starts, n) - 1
            try:
                records += readers[place].read([n - starts[place]])
            except Exception as error:
                raise damaged(files[place], error) from None
        return records

    def fetch(numbers: Any) -> list[bytes]:
        parts = np.array_split(np.asarray(numbers, np.int64), READERS)
        with ThreadPoolExecutor(READERS) as pool:
            fetched = pool.map(fetch_some, (part.tolist() for part in parts))
            return [record for part in fetched for record in part]

    return fetch, starts[-1]


def _prepared(name: str) -> Any | None:
    """The builder of a set that is prepared, made from its files alone; or None."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        return _in_array_records(name, builder_from_files(name))
    except tfds.core.DatasetNotFoundError:
        return None
    except InputError:
        raise
    except Exception as error:
        raise _cannot_open(name, error, _folder_of(name)) from None


def _builder(name: str) -> Any:
    """The builder of a prepared set; with TensorFlow installed, prepare it first."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # warns about versions
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)  # no network
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; perhaps {close[0]}?" if close else ""
        raise InputError(
            f"--data {name}: no such folder, and no set of TFDS{hint}"
        ) from None
    except ImportError as error:
        needed, *_ = (error.name or str(error)).splitlines() or ["more"]
        raise InputError(
            f"--data {name}: needs {needed}: pip install -e '.[tfds]'"
        ) from None
    except (ValueError, AssertionError) as error:  # no name, or no such version
        reason = str(error).splitlines()[0]
        raise InputError(f"--data {name}: not a TFDS name: {reason}") from None
    except Exception as error:  # a damaged set, or a TFDS_DATA_DIR that is no folder
        raise _cannot_open(name, error, _folder_of(name)) from None
    if builder.is_prepared():
        return _in_array_records(name, builder)
    if importlib.util.find_spec("tensorflow") is None:
        folder = builder.data_path.parents[builder.info.full_name.count("/")]
        raise InputError(
            f"--data {name}: not prepared in {folder}; set TFDS_DATA_DIR to "
            "the folder that holds it, or pip install -e '.[tfds]' to let TFDS "
            "download it; `digits` needs no download"
        )
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:  # no network, a full disk, files to fetch by hand
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"--data {name}: TFDS cannot prepare it: {reason}") from None
    return tfds.builder(name)


def _in_array_records(name: str, builder: Any) -> Any:
    import tensorflow_datasets as tfds

    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"--data {name}: {builder.data_path} is not in array_record form; "
            "prepare it with download_and_prepare(file_format='array_record')"
        )
    return builder


def _folder_of(name: str) -> Path:
    return _data_dir() / re.split("[:/]", name)[0]


def _cannot_open(name: str, error: Exception, folder: Path) -> InputError:
    """What is wrong with a set that TFDS cannot open."""
    for file in sorted(folder.rglob("*.json")):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as reason:
            return InputError(f"--data {name}: {file}: not JSON: {reason}; {AGAIN}")
    reason = f"{type(error).__name__} {error}".splitlines()[0]
    return InputError(f"--data {name}: TFDS cannot open {folder}: {reason}")


def _data_dir() -> Path:
    from tensorflow_datasets.core import constants

    return Path(constants.DATA_DIR)
