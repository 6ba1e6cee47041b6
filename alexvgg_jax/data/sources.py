"""Where images come from: the embedded digits, TFDS, folders of classes or of tars.

A `Source` returns images by index, all of one size, uint8 and RGB. Small sets are kept
in memory, where a batch is one gather (over 1,000,000 images/s).
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int

from alexvgg_jax.config import Data
from alexvgg_jax.data.decode import (
    BadImages,
    Encoded,
    Images,
    Labels,
    Resize,
    decode_all,
    decode_scales,
    fit,
)
from alexvgg_jax.data.folder import Split, list_images
from alexvgg_jax.data.tars import has_tars, list_tars
from alexvgg_jax.data.tfds import is_prepared, open_prepared, open_tfds
from alexvgg_jax.errors import InputError

IN_MEMORY_BYTES = 2**31  # sets up to this size are decoded once and kept


class Picture(NamedTuple):
    """A labelled image that keeps its aspect ratio, at several scales."""

    name: str  # its file, or its place in the set
    label: int  # -1 if it is damaged; then there are no scales
    scales: Sequence[np.ndarray]  # uint8 RGB, one for each size of the short side


# (numbers, sizes of the short side, resize) -> the pictures in that order
ReadPictures = Callable[[np.ndarray, Sequence[int], Resize], list[Picture]]


@dataclass(frozen=True)
class Source:
    """`count` labelled images; `fetch(numbers)` returns them in that order, as squares.

    `pictures` returns them with their aspect ratio (VGG §3.2), each decoded once for
    all scales. With `Data.skip_bad`, a damaged image has the label -1, and batches mask
    it.
    """

    about: str  # which set this is, as results name it
    count: int
    classes: tuple[str, ...]
    fetch: Callable[[np.ndarray], tuple[Images, Labels]]
    labels: Callable[[], Labels]  # of all images; decodes none
    digest: str  # tells the images from others
    note: str = ""  # one line about what was left out, if anything was
    pictures: ReadPictures = field(kw_only=True)


def open_source(data: Data, split: Split, prepare: bool = True) -> Source:
    """A split of the set that `data` names, in memory if it is small enough.

    Raises InputError, which says what to do, if there is no such set. It names all
    damaged images of a set that is kept in memory. Without `prepare`, TFDS prepares
    nothing: for a name that the user did not give.
    """
    source = find_source(data, split, prepare)
    if is_small(source, data.size):
        return hold_in_memory(source, split)
    return source


def is_small(source: Source, size: int) -> bool:
    """Whether a set is kept in memory, as squares of `size` pixels."""
    return source.count * size**2 * 3 <= IN_MEMORY_BYTES


def find_source(data: Data, split: Split, prepare: bool = True) -> Source:
    """The same as `open_source`, but decodes no image yet."""
    if data.held_out:
        everything = find_source(replace(data, held_out=0), "train", prepare)
        return _part_of(everything, data.held_out, split)
    if data.count and split == "train":
        everything = find_source(replace(data, count=0, first=False), split, prepare)
        return _subset(everything, choose(everything, data), data)
    if data.name == "digits":
        return _digits(split, data.size)
    return _decoded(find_encoded(data.name, split, prepare), data)


def find_encoded(name: str, split: Split, prepare: bool = True) -> Encoded:
    """A split of a set of files: a folder of classes, a prepared folder, a folder of
    ILSVRC's tars, or a set of TFDS. Raises InputError if there is no such set."""
    root, testing = folder_of(name), split != "train"
    if root is None:
        return open_tfds(name, testing, prepare)
    if is_prepared(root):
        return open_prepared(root, testing)
    return list_tars(root, testing) if has_tars(root) else list_images(root, split)


def find_rest(data: Data) -> Source | None:
    """The training images that `data.count` leaves out, or None if there are none."""
    if not data.count:
        return None
    everything = find_source(replace(data, count=0, first=False), "train")
    chosen = choose(everything, data)
    rest = np.setdiff1d(np.arange(everything.count), chosen)
    return _subset(everything, rest, data) if len(rest) else None


def choose(source: Source, data: Data) -> Int[np.ndarray, " chosen"]:
    """The numbers of the images that `data.count` chooses, in order; at most all.

    They are the first ones, or a choice that is the same for every run: equal numbers
    of each class, or all images of a class that has too few.
    """
    if data.first or not 0 < data.count < source.count:
        return np.arange(min(data.count or source.count, source.count))
    order = np.random.default_rng(0).permutation(source.count)
    labels, rank = source.labels()[order], np.empty(source.count, np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    return np.sort(order[np.argsort(rank, kind="stable")[: data.count]])


def folder_of(name: str) -> Path | None:
    """The folder that a data set's name means, or None.

    "digits" is never a folder. An existing folder is preferred to a TFDS set, and so is
    a file, which is then refused.
    """
    if name == "digits":
        return None
    if name.startswith((".", "/", "~")) or Path(name or "?").exists():
        try:
            str(folder := Path(name).expanduser().absolute()).encode()
        except UnicodeEncodeError:
            raise InputError(f"--data {name}: the path is not UTF-8") from None
        except RuntimeError as error:  # ~nobody
            raise InputError(f"--data {name}: {error}") from None
        return folder
    return None


def check_classes(train: Source, count: bool = True) -> None:
    """InputError for training images of a single class: nothing can be learnt. With
    `count`, also for a class without images; a large set is read for that."""
    if len(train.classes) < 2:
        raise InputError(f"{train.about}: only one class, {' '.join(train.classes)}")
    if count:
        labels = train.labels()
        counts = np.bincount(labels[labels >= 0], minlength=len(train.classes))
        if not counts.all():
            name = train.classes[int(counts.argmin())]
            raise InputError(f"{train.about}: no training images of {name}")


def with_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """The same images, labelled by the same names in the order of `classes`.

    Raises InputError if `source` has a class that is not one of them.
    """
    if unknown := [name for name in source.classes if name not in classes]:
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise InputError(
            f"{source.about}: the net has no class {unknown[0]!r}; it has {known}"
        )
    # The last number is that of label -1.
    numbers = np.array([*map(classes.index, source.classes), -1], np.int32)

    def fetch(indices: np.ndarray) -> tuple[Images, Labels]:
        images, labels = source.fetch(indices)
        return images, numbers[labels]

    def pictures(*args: Any) -> list[Picture]:
        read = source.pictures(*args)
        return [picture._replace(label=int(numbers[picture.label])) for picture in read]

    return replace(
        source,
        classes=classes,
        fetch=fetch,
        pictures=pictures,
        labels=lambda: numbers[source.labels()],
    )


def hold_in_memory(source: Source, split: Split) -> Source:
    """The same images, kept in memory; `split` says which they are."""
    images, labels = source.fetch(np.arange(source.count))
    bad, note = int((labels < 0).sum()), source.note
    if bad == source.count:
        raise InputError(f"{source.about}: all {bad:,} images are damaged")
    if bad:
        kind = "" if split == "all" else f"{split} "
        left_out = f"{source.about}: left out {bad:,} of {source.count:,} {kind}images"
        note = "; ".join(filter(None, (note, left_out)))
    return replace(
        source,
        fetch=lambda numbers: (images[numbers], labels[numbers]),
        labels=lambda: labels,
        note=note,
    )


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
    return replace(numbered(source, chosen), about=about)


def _subset(source: Source, chosen: np.ndarray, data: Data) -> Source:
    """The images that `data.count` chooses or leaves out, told from others."""
    if len(chosen) == source.count:
        return source
    how = "first " if data.first else ""
    about = f"{source.about}, {how}{data.count:,} of {source.count:,}"
    content = source.digest.encode() + chosen.astype("<i8").tobytes()
    digest = hashlib.sha256(content).hexdigest()
    return replace(numbered(source, chosen), about=about, digest=digest)


def numbered(source: Source, chosen: np.ndarray) -> Source:
    """The images of these numbers, in this order."""
    return replace(
        source,
        count=len(chosen),
        fetch=lambda numbers: source.fetch(chosen[numbers]),
        pictures=lambda numbers, sides, resize: source.pictures(
            chosen[numbers], sides, resize
        ),
        labels=lambda: source.labels()[chosen],
    )


def _decoded(encoded: Encoded, data: Data) -> Source:
    """Images that are decoded and resized when they are fetched."""
    reported: set[str] = set()

    def report(bad: list[InputError]) -> None:
        if bad and not data.skip_bad:
            raise BadImages(bad)
        for line in dict.fromkeys(map(str, bad)):
            if line not in reported:
                print(f"left out: {line}", file=sys.stderr)
        reported.update(map(str, bad))

    def fetch(numbers: np.ndarray) -> tuple[Images, Labels]:
        readers, labels = encoded.read(numbers)
        images, errors = decode_all(readers, data.size)
        report([error for error in errors if error])
        return images, np.where([error is None for error in errors], labels, -1)

    def pictures(
        numbers: np.ndarray, sizes: Sequence[int], resize: Resize
    ) -> list[Picture]:
        readers, labels = encoded.read(numbers)
        decoded = decode_scales(readers, sizes, resize)
        report([image for _, image in decoded if isinstance(image, InputError)])
        return [
            Picture(name, -1, ())
            if isinstance(scales, InputError)
            else Picture(name, int(label), scales)
            for (name, scales), label in zip(decoded, labels, strict=True)
        ]

    def labels() -> Labels:
        parts = np.array_split(np.arange(encoded.count), -(-encoded.count // 1000))
        return np.concatenate([encoded.read(part)[1] for part in parts])

    return Source(
        encoded.about,
        encoded.count,
        encoded.classes,
        fetch,
        labels,
        encoded.digest,
        encoded.note,
        pictures=pictures,
    )


@functools.cache
def _digit_pixels() -> Any:
    from sklearn.datasets import load_digits  # 1 s to import, for this set only

    return load_digits(return_X_y=True)


def _digits(split: Split, size: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels scaled up; the last fifth is
    for testing."""
    pixels, digits = _digit_pixels()
    cut = len(pixels) * 4 // 5
    part = slice(cut) if split == "train" else slice(cut, None)
    greys = (pixels[part] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)  # of 0 to 16
    digits_8x8 = [cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB) for grey in greys]
    images = np.stack([fit(image, size) for image in digits_8x8])
    labels = digits[part].astype(np.int32)

    def pictures(
        numbers: np.ndarray, sizes: Sequence[int], resize: Resize
    ) -> list[Picture]:
        return [
            Picture(
                f"digits[{n + part.indices(len(pixels))[0]}]",
                int(labels[n]),
                [resize(digits_8x8[n], side) for side in sizes],
            )
            for n in numbers
        ]

    about, classes = "scikit-learn's digits", tuple("0123456789")

    return Source(
        about,
        len(images),
        classes,
        lambda numbers: (images[numbers], labels[numbers]),
        lambda: labels,
        about,
        pictures=pictures,
    )
