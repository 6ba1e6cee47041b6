"""List the images of a folder of classes.

The images lie in `ROOT/train/CLASS/` and `ROOT/test/CLASS/`, or in `ROOT/CLASS/`, where
every tenth image of a class is for testing. A class can have subfolders. Links are
followed. Hidden files, and files that are no images, are skipped and counted.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from alexvgg_jax.data.decode import Encoded, read_file
from alexvgg_jax.errors import InputError

# "all": every image of a folder of classes; of other sets, the test images.
Split = Literal["train", "test", "all"]

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".gif"),
}
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first with classes
HASHED_FILES = 1_000  # whose content enters the digest; all of a smaller set
HELD_OUT = "`train --data.held-out N` tests on N of the training images"


class File(NamedTuple):
    """An image's file."""

    path: str  # of ImageNet, `Path`s would take 600 MB, and these take 130 MB
    size: int  # bytes


def image_files(path: Path) -> list[Path]:
    """The path itself, or all images in a folder and its subfolders. InputError if
    there is no such path."""
    if not path.exists():
        raise InputError(f"{path}: No such file or directory")
    if not path.is_dir():
        return [path]
    return [Path(file.path) for file in _walk(path, Counter())]


def list_images(root: Path, split: Split) -> Encoded:
    """The images of a split of a folder. InputError, which says what was looked for, if
    its layout is another one."""
    if not root.is_dir():
        moved = "no such folder; if the images moved, name the new one"
        what = "a file, not a folder of classes" if root.exists() else moved
        raise InputError(f"--data {root}: {what}")
    top, classes, has_parts = _layout(root, split)
    skipped: Counter[str] = Counter()
    _check_no_images_in(top)
    by_class = [list(_walk_class(top / name, skipped)) for name in classes]
    empty = [name for name, files in zip(classes, by_class, strict=True) if not files]
    if empty and (split == "train" or not has_parts and split == "test"):
        raise InputError(
            f"{top / empty[0]}: a class without images{_counted(skipped, ', only ')}"
        )
    if not has_parts and split != "all":
        testing = split == "test"
        by_class = [
            [file for i, file in enumerate(files) if (i % 10 == 9) == testing]
            for files in by_class
        ]
    files = [file for files in by_class for file in files]
    if not files:
        kind, rule = "" if split == "all" else f"{split} ", ""
        if split == "test":
            tenth = "" if has_parts else ", where every tenth of a class is for testing"
            rule = f"{tenth}; {HELD_OUT}"
        only = _counted(skipped, ", only ")
        raise InputError(f"--data {root}: no {kind}images in {top}/CLASS/{only}{rule}")
    labels = np.repeat(np.arange(len(classes)), list(map(len, by_class)))
    notes = [_counted(skipped, f"{top}: skipped ")]
    if has_parts and empty:
        notes.append(f"{top}: no images of {', '.join(empty)}")
    elif few := [c for c, files in zip(classes, by_class, strict=True) if not files]:
        notes.append(f"{top}: every tenth is for testing: none of {', '.join(few)}")
    return _encoded(root, files, tuple(classes), labels.astype(np.int32), notes)


def _encoded(
    root: Path,
    files: list[File],
    classes: tuple[str, ...],
    labels: np.ndarray,
    notes: list[str],
) -> Encoded:
    def read(numbers: np.ndarray):
        paths = [files[n].path for n in numbers]
        return [lambda p=p: (read_file(p), p) for p in paths], labels[numbers]

    return Encoded(
        about=f"folder {root.resolve().name}",
        count=len(files),
        classes=classes,
        read=read,
        digest=_digest(root, files),
        note="; ".join(filter(None, notes)),
    )


def _digest(root: Path, files: list[File]) -> str:
    """Depends on the names and sizes of all files below the root, and on the content of
    up to `HASHED_FILES`: a tenth of a second, or a few on a slow disk."""
    digest = hashlib.sha256()
    for path, size in files:
        digest.update(os.fsencode(f"{path.removeprefix(f'{root}/')} {size}\n"))
    numbers = np.linspace(0, len(files) - 1, min(len(files), HASHED_FILES))
    with ThreadPoolExecutor() as pool:
        for content in pool.map(lambda n: _hash(files[int(n)].path), numbers):
            digest.update(content)
    return digest.hexdigest()


def _hash(path: str) -> bytes:
    try:
        return hashlib.sha256(read_file(path)).digest()
    except InputError:  # it is named when it is decoded
        return b""


def _layout(root: Path, split: Split) -> tuple[Path, list[str], bool]:
    """The folder of the split's classes, the names of all classes, and whether the
    root has folders for training and testing."""
    names = _subfolders(root)
    train = [name for name in names if name.lower() in TRAIN]
    tests = sorted(
        (name for name in names if name.lower() in TEST),
        key=lambda name: TEST.index(name.lower()),
    )
    if len(train) > 1:
        raise InputError(f"--data {root}: has {' and '.join(train)}: name one of them")
    if not train and (not tests or len(tests) < len(names)):
        return root, names, False
    if split == "train" or not tests:
        wanted, folders = (TRAIN, train) if split == "train" else (TEST, tests)
        if not folders:
            looked = f"looked for {'/, '.join(wanted)}/"
            hint = f"; {HELD_OUT}" if train and split != "all" else ""
            kind = "train" if split == "train" else "test"
            raise InputError(f"--data {root}: no {kind} images: {looked}{hint}")
        return root / train[0], _subfolders(root / train[0]), True
    classes = _subfolders(root / train[0]) if train else []
    top = _labelled(root, train, tests, classes)
    return top, classes or _subfolders(top), True


def _labelled(
    root: Path, train: list[str], tests: list[str], classes: list[str]
) -> Path:
    """The first folder of test images that has folders of (known) classes: ImageNet's
    test/ has none, but its val/ has. InputError for unknown classes."""
    folders = {name: _subfolders(root / name) for name in tests}
    for name, names in folders.items():
        unknown = [n for n in names if n not in classes] if train else []
        if unknown and len(unknown) < len(names):
            raise InputError(
                f"{root / name / unknown[0]}: no such class in {root / train[0]}"
            )
        if names and not unknown:
            return root / name
    seen = (
        f"{root / name}/ has {', '.join(names[:3]) or 'no folders'}"
        for name, names in folders.items()
    )
    classes_of = f", as in {root / train[0]}/" if train else ""
    raise InputError(
        f"--data {root}: no test images in folders of classes{classes_of}: "
        f"{'; '.join(seen)}; {HELD_OUT}"
    )


def _walk_class(folder: Path, skipped: Counter[str]) -> Iterator[File]:
    """The images of a class."""
    if not folder.is_dir():  # a class that the test images lack
        return
    for name in _subfolders(folder):
        if name.lower() in TRAIN + TEST:
            above = folder.parent
            raise InputError(
                f"{folder / name}: looked for {above}/{name}/{folder.name}/ instead; "
                f"if {folder} is the set, name that"
            )
    yield from _walk(folder, skipped, (os.path.realpath(folder.parent),))


def _walk(
    folder: Path, skipped: Counter[str], above: tuple[str, ...] = ()
) -> Iterator[File]:
    """All images below a folder, in order. Counts what is skipped, by reason."""
    real = os.path.realpath(folder)
    if real in above:
        skipped["links to a folder above"] += 1
        return
    for entry in _entries(folder):
        if _is_hidden(entry.name):
            skipped["hidden"] += 1
        elif entry.is_dir():
            yield from _walk(Path(entry.path), skipped, (*above, real))
        elif not entry.is_file():
            skipped["not regular files"] += 1
        elif _suffix(entry.name) in SUFFIXES:
            yield File(entry.path, entry.stat().st_size)
        else:
            suffix = _suffix(entry.name) or "without suffix"
            skipped[suffix if suffix.isprintable() else "others"] += 1


def _check_no_images_in(top: Path) -> None:
    for entry in _entries(top):
        if _suffix(entry.name) in SUFFIXES and not _is_hidden(entry.name):
            raise InputError(
                f"{entry.path}: an image outside the folders of classes: looked for "
                f"{top}/CLASS/{entry.name}"
            )


def _subfolders(folder: Path) -> list[str]:
    """The names of all folders in a folder that are not hidden."""
    names = [entry.name for entry in _entries(folder) if entry.is_dir()]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder / name}: the name is not UTF-8") from None
    return [name for name in names if not _is_hidden(name)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # of macOS's zip files


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(skipped: Counter[str], text: str) -> str:
    """`text` and the counts of skipped files, if there are any."""
    reasons = (f"{count:,} {reason}" for reason, count in skipped.most_common(5))
    return f"{text}{', '.join(reasons)}" if skipped else ""
