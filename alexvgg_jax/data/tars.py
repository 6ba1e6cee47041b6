"""List the images of ILSVRC-2012 in its tars, as they are published.

    ILSVRC2012_img_train.tar       one tar for each class, such as n01440764.tar
    ILSVRC2012_img_val.tar         ILSVRC2012_val_00000001.JPEG and so on
    ILSVRC2012_devkit_t12.tar.gz   the labels of the validation images

Nothing is extracted. The headers are read once for the places of the images, and then
each image is read from its place. A name in a tar is never used as a path.
"""

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from alexvgg_jax.data.decode import MAX_BYTES, Encoded
from alexvgg_jax.errors import InputError

TRAIN, TEST = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"  # in the devkit
CLASS = re.compile(r"(n\d{8})\.tar")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
DEVKIT_BYTES = 2**24  # of a file of the devkit


class Image(NamedTuple):
    """The place of an image in a tar."""

    name: str
    start: int  # bytes
    size: int


def has_tars(root: Path) -> bool:
    """Whether a folder has ILSVRC's training or validation images as a tar."""
    return (root / TRAIN).is_file() or (root / TEST).is_file()


def list_tars(root: Path, testing: bool) -> Encoded:
    """The training images, or the validation images with the labels of the devkit.

    Raises InputError for a tar that is missing, damaged or of another kind.
    """
    for needed in (TEST, DEVKIT) if testing else (TRAIN,):
        if not (root / needed).is_file():
            kind = "test" if testing else "train"
            raise InputError(f"--data {root}: no {kind} images: it has no {needed}")
    tars = _class_tars(root / TRAIN) if (root / TRAIN).is_file() else {}
    if not testing:
        by_class = {wnid: _images(root / TRAIN, tars[wnid]) for wnid in sorted(tars)}
        images = [image for images in by_class.values() for image in images]
        labels = np.repeat(np.arange(len(tars)), [*map(len, by_class.values())])
        return _encoded(root / TRAIN, images, tuple(by_class), labels)
    wnids = _validation_classes(root / DEVKIT)
    classes = tuple(sorted(tars or set(wnids)))
    numbers = {wnid: number for number, wnid in enumerate(classes)}
    if unknown := set(wnids) - set(classes):
        raise InputError(f"{root / TRAIN}: has no {min(unknown)}.tar")
    images = _validation(root / TEST, len(wnids))
    labels = np.array([numbers[wnid] for wnid in wnids])
    return _encoded(root / TEST, images, classes, labels)


def _encoded(
    tar: Path, images: list[Image], classes: tuple[str, ...], labels: np.ndarray
) -> Encoded:
    if not images:
        raise InputError(f"{tar}: has no images")
    labels, names = labels.astype(np.int32), [image.name for image in images]
    places = np.array([(image.start, image.size) for image in images])
    digest = hashlib.sha256(os.fsencode("\n".join([*classes, *names])))
    digest.update(places.tobytes() + labels.tobytes())

    def read_one(n: int) -> tuple[bytes, str]:
        start, size = map(int, places[n])
        name = f"{tar}/{names[n]}"
        if size > MAX_BYTES:
            raise InputError(f"{name}: {size:,} bytes are too many")
        try:
            with tar.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, start)
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}") from None
        if len(content) < size:
            raise InputError(f"{tar}: cut short")
        return content, name

    return Encoded(
        about=f"ILSVRC-2012, {tar.name}",
        count=len(images),
        classes=classes,
        read=lambda numbers: (
            [lambda n=int(n): read_one(n) for n in numbers],
            labels[numbers],
        ),
        digest=digest.hexdigest(),
    )


def _class_tars(tar: Path) -> dict[str, Image]:
    """The place of each class's tar in the training tar."""
    tars = {}
    for member in _members(tar):
        if not (match := CLASS.fullmatch(member.name)):
            raise InputError(f"{tar}: {member.name}: not the tar of a class")
        tars[match[1]] = member
    return tars


def _images(tar: Path, inside: Image) -> list[Image]:
    """The images of a class's tar, with their places in the training tar."""
    images = list(_members(tar, inside.start))
    end = inside.start + inside.size
    if not images or any(image.start + image.size > end for image in images):
        raise InputError(f"{tar}: {inside.name}: damaged")
    return images


def _validation(tar: Path, count: int) -> list[Image]:
    """The validation images in the order of their numbers, from 1 to `count`."""
    images = {}
    for member in _members(tar):
        if match := VALIDATION.fullmatch(member.name):
            images[int(match[1])] = member
    if sorted(images) != list(range(1, count + 1)):
        raise InputError(
            f"{tar}: has {len(images):,} images, and {DEVKIT} labels {count:,}"
        )
    return [images[number] for number in range(1, count + 1)]


def _members(tar: Path, start: int = 0) -> Iterator[Image]:
    """The regular files of a tar that starts at a byte of a file, without their
    folders. InputError if it is damaged."""
    with tar.open("rb", buffering=0) as file, _damaged(tar):
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg():
                    name = PurePosixPath(member.name).name
                    yield Image(name, member.offset_data, member.size)
            _check_end(file, archive.offset)


def _check_end(file: BinaryIO, end: int) -> None:
    """Raise ReadError if a tar does not end there with zeros: a damaged header ends the
    list too."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header at byte {end:,}")


def _validation_classes(devkit: Path) -> list[str]:
    """The class of every validation image, such as n01440764."""
    from scipy.io import loadmat

    with _damaged(devkit):
        files = {}
        with tarfile.open(devkit, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in (META, TRUTH) and member.size <= DEVKIT_BYTES:
                    content = archive.extractfile(member)
                    files[name] = content.read() if content else b""
        synsets = loadmat(io.BytesIO(files[META]), squeeze_me=True)["synsets"]
        ids = map(int, synsets["ILSVRC2012_ID"])
        wnids = dict(zip(ids, map(str, synsets["WNID"]), strict=True))
        return [wnids[int(line)] for line in files[TRUTH].split()]


@contextlib.contextmanager
def _damaged(file: Path) -> Iterator[None]:
    """Name the file in the error that its damage causes."""
    try:
        yield
    except (InputError, OSError, GeneratorExit):
        raise
    except Exception as error:  # tarfile, zlib and scipy raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: damaged: {type(error).__name__}: {reason}") from None
