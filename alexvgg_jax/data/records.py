"""Write labelled images as a set of TensorFlow Datasets, without TensorFlow.

images-train.array_record-00000-of-00157   the images: JPEGs with their labels
images-test.array_record-00000-of-00007
prepared.json                              the manifest
dataset_info.json, features.json, label.labels.txt, as TFDS reads them

`dataset_info.json` is written last, so an unfinished set cannot be read.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from alexvgg_jax.data import manifest
from alexvgg_jax.data.decode import JPEG, decode_whole, fit, peculiarities, scale_short
from alexvgg_jax.data.manifest import (
    MANIFEST,
    NAME,
    UNCHANGED,
    UNREAD,
    Manifest,
    Settings,
    Shards,
)
from alexvgg_jax.data.tfds import INFO
from alexvgg_jax.errors import InputError
from alexvgg_jax.files import write_text

VERSION = "1.0.0"
# Single records can be read. JPEGs do not become smaller.
OPTIONS = "group_size:1,uncompressed"
MAX_SIDE = 65_500  # pixels of a JPEG, in libjpeg


def shard_names(split: str, count: int, settings: Settings) -> list[str]:
    """The names of the files of a split with `count` images."""
    shards = -(-count // settings.shard)
    return [f"{NAME}-{split}.array_record-{i:05}-of-{shards:05}" for i in range(shards)]


def shrink(
    encoded: bytes, name: str, settings: Settings
) -> tuple[bytes, tuple[str, ...]]:
    """An image as a JPEG of the settings' size, and which `RULES` applied to it.

    Raises what `decode` raises, and InputError if a side is too long for a JPEG.
    """
    image, size = decode_whole(encoded, name, settings.size), settings.size
    resized = fit(image, size) if settings.square else scale_short(image, size)
    try:
        rules = peculiarities(encoded)
    except Exception:  # Pillow raises many kinds of errors, where OpenCV does not
        rules = (UNREAD,)
    if not rules and resized.shape == image.shape and encoded.startswith(JPEG):
        return encoded, (UNCHANGED,)
    bgr = cv2.cvtColor(resized, cv2.COLOR_RGB2BGR)
    # Huffman codes of its own make a JPEG 5% smaller.
    how = (cv2.IMWRITE_JPEG_QUALITY, settings.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    height, width = bgr.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise InputError(f"{name}: {width:,} x {height:,} pixels are no JPEG")
    return cv2.imencode(".jpg", bgr, how)[1].tobytes(), rules


def import_tfds() -> None:
    """Import all of TFDS that is needed, in this thread and before any other starts.

    TFDS imports its parts when they are first used, and changes `__import__` meanwhile.
    Two threads that do so wait for each other, and others fail.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import (  # noqa: F401
        dataset_info,
        naming,
        read_only_builder,
        splits,
    )
    from tensorflow_datasets.proto import tf_example_pb2  # noqa: F401

    _ = tfds.features.Image, tfds.core.FileFormat


def as_record(image: bytes, label: int, name: str) -> bytes:
    """An encoded image, its label and its file's name as TFDS stores them."""
    from tensorflow_datasets.proto import tf_example_pb2

    example: Any = tf_example_pb2.Example()  # pyrefly: ignore (generated code)
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    features["label"].int64_list.value.append(label)
    features["file_name"].bytes_list.value.append(os.fsencode(name))
    return example.SerializeToString(deterministic=True)


@contextlib.contextmanager
def write_shard(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that writes a record to a file. The file has its name only when the
    context ends without an error. OSError if the disk is full."""
    from array_record.python.array_record_module import ArrayRecordWriter

    unfinished = path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)  # of a crash; never written through a link
    try:
        writer = ArrayRecordWriter(str(unfinished), OPTIONS)
        try:
            yield writer.write
        finally:
            writer.close()
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except RuntimeError as error:
        raise OSError(f"{path}: {str(error).split(';')[0]}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other processes from preparing a set there. InputError if
    one does, or if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"--to {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"--to {folder}: another process writes there") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def finished(folder: Path, wanted: Manifest) -> Shards:
    """The finished files of a folder that are as they were written. InputError if the
    folder holds anything else, or images with other settings or of another source."""
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.iterdir()):
            raise InputError(f"--to {folder}: not empty, and not written by `prepare`")
        return {}
    written, _ = manifest.read(folder)
    was = asdict(written.settings)
    for name, now in asdict(wanted.settings).items():
        if was[name] != now:
            raise InputError(
                f"{path}: {name} is {was[name]}, not {now}; name another --to"
            )
    if written.source != wanted.source:
        were, are = (", ".join(m.source.values()) for m in (written, wanted))
        raise InputError(f"{path}: the images are {were}, not {are}; name another --to")
    changed = dict(_changed(folder, written.files))
    return {name: file for name, file in written.files.items() if name not in changed}


def write_metadata(folder: Path, written: Manifest) -> None:
    """Write what TFDS needs to read the set."""
    import tensorflow_datasets as tfds
    from etils import epath
    from tensorflow_datasets.core import dataset_info, naming
    from tensorflow_datasets.core.splits import SplitDict, SplitInfo

    side = written.settings.size if written.settings.square else None
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(written.classes)),
            "file_name": tfds.features.Text(),
        }
    )
    version = tfds.core.Version(VERSION)
    identity = dataset_info.DatasetIdentity(NAME, version, str(folder), "")
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=("image", "label")
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    template = naming.ShardedFileTemplate(
        epath.Path(folder),
        naming.DEFAULT_FILENAME_TEMPLATE,
        NAME,
        filetype_suffix="array_record",
    )
    info.set_splits(
        SplitDict(
            SplitInfo(
                name=split,
                shard_lengths=[shard.images for shard in shards],
                num_bytes=sum(shard.bytes for shard in shards),
                filename_template=template.replace(split=split),
            )
            for split, shards in written.splits().items()
        )
    )
    features.save_config(str(folder))
    write_text(info.as_json + "\n", folder / INFO)  # last: now it can be read


def damaged(folder: Path) -> Iterator[str]:
    """A line for every file of a prepared set that differs from its manifest, or one
    for a manifest that was changed."""
    if not (folder / MANIFEST).exists():  # prepared by TFDS
        return
    try:
        written, _ = manifest.read(folder)
    except InputError as error:
        yield str(error)
    else:
        for name, why in _changed(folder, written.files):
            yield f"{folder / name}: {why}"


def _changed(folder: Path, files: Shards) -> Iterator[tuple[str, str]]:
    """The files that are not as they were written, and why."""
    for name, file in files.items():
        try:
            if sha256(folder / name) != file.sha256:
                yield name, f"its digest is not that of {MANIFEST}"
        except OSError as error:
            yield name, error.strerror or str(error)
