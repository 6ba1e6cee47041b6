"""A run's folder: its settings, the images it was trained on, and their statistics.

run.json          the settings
earlier.jsonl     earlier settings, each with the step at which they were replaced
data.json         which images, as `Images`
statistics.npz    the mean image and colour components of the training set
checkpoints/, metrics.jsonl, tensorboard/
.lock             held by the process that trains
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from alexvgg_jax.augment import Statistics, statistics
from alexvgg_jax.config import Run, from_settings, to_settings
from alexvgg_jax.data.decode import BadImages
from alexvgg_jax.data.sources import (
    Source,
    check_classes,
    folder_of,
    is_small,
    open_source,
)
from alexvgg_jax.errors import InputError
from alexvgg_jax.files import read_bytes, read_json, write_bytes, write_json, write_text
from alexvgg_jax.models import Net

SETTINGS, DATA, STATISTICS = "run.json", "data.json", "statistics.npz"
CHECKPOINTS, LOCK, CHECKSUM = "checkpoints", ".lock", "checksum"
EARLIER = "earlier.jsonl"
FILES = (SETTINGS, EARLIER, DATA, STATISTICS, "metrics.jsonl", LOCK)
FOLDERS = (CHECKPOINTS, "tensorboard")
MAY_CHANGE = {"epochs", "mesh", "until_error", "checkpoint_every"}  # when resuming
ON_PURPOSE = {"optim", "augment"}  # with --change too
STATISTICS_IMAGES = 100_000  # of a larger set, a sample this large is enough
STATISTICS_PART = 128  # images at a time: as float64, 225 MB of ImageNet's


@dataclass(frozen=True)
class Images:
    """The images that a run is trained and tested on."""

    set: str
    classes: tuple[str, ...]
    train: int  # images
    test: int
    digest: str  # tells them from other images


def net_of(run: Run, classes: int | None = None) -> Net:
    """The run's net for images of its size, and for `classes` classes (or the net's own
    number). Raises InputError if the images are too small."""
    size = run.augment.crop or run.data.size
    net = replace(run.net, image_size=size, classes=classes or run.net.classes)
    net.shapes()
    return net


def open_images(run: Run) -> tuple[Source, Source, Images]:
    """The run's training and test set, and what describes both.

    Raises InputError if they cannot be opened, or if nothing can be learnt from them.
    """
    parts, bad = [], []
    for split, size in (("train", run.data.size), ("test", run.test_size)):
        try:
            parts.append(open_source(replace(run.data, size=size), split))
        except BadImages as error:
            bad += error.errors
    if bad:
        raise BadImages(bad)
    train, test = parts
    if run.batch > train.count:
        raise InputError(
            f"--batch {run.batch}: at most {train.count}, the number of training "
            f"images of {train.about}"
        )
    check_classes(train, count=is_small(train, run.data.size))
    return train, test, images_of(train, test)


def images_of(train: Source, test: Source) -> Images:
    """What describes a training and a test set."""
    parts = [train.digest, test.digest, train.classes, train.count, test.count]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return Images(train.about, train.classes, train.count, test.count, digest)


def training_statistics(source: Source) -> Statistics:
    """The mean image and colour components of (a sample of) a training set, without
    damaged images."""
    count = min(source.count, STATISTICS_IMAGES)
    numbers = np.linspace(0, source.count - 1, count).astype(np.int64)
    parts = np.array_split(numbers, -(-count // STATISTICS_PART))
    fetched = map(source.fetch, parts)
    return statistics(images[labels >= 0] for images, labels in fetched)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a run's folder, and keep other processes from training in it.

    The operating system releases the lock when a process ends, also when it is killed.
    On several hosts, the first one holds the lock. If nothing was written, the lock's
    file is removed at the end, and so is the folder if it is new. Raises InputError if
    another process holds the lock, if the folder cannot be made, or if something else
    has the name of one of its files.
    """
    _check_name(directory)
    try:
        _check_places(directory)
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("w")
    except OSError as error:
        raise InputError(f"--out {directory}: {error.strerror}") from None
    with file:
        try:
            if jax.process_index() == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another process is training there"
            raise InputError(f"--out {directory}: {reason}") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            if jax.process_index() == 0:
                _leave(directory, is_new)


def _leave(directory: Path, is_new: bool) -> None:
    """Remove the lock of a folder that has nothing else, and a new folder."""
    with contextlib.suppress(OSError):
        if [path.name for path in directory.iterdir()] == [LOCK]:
            (directory / LOCK).unlink()
            if is_new:
                directory.rmdir()


def _check_name(directory: Path) -> None:
    """InputError for a path that JSON or tensorstore cannot hold, or for a URL."""
    if directory.parts[:1] and directory.parts[0].endswith(":"):
        raise InputError(f"{directory}: not a folder of this machine")
    path = str(directory.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!a}: not a name in UTF-8") from None
    if "\\" in path:
        raise InputError(f"{path}: no checkpoint can be saved below a backslash")


def _check_places(directory: Path) -> None:
    """InputError for a file of the run that is no regular one, as a pipe, which would
    be waited for, and for a folder that is none."""
    for name in FILES:
        if (path := directory / name).exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file")
    for name in FOLDERS:
        if (path := directory / name).exists() and not path.is_dir():
            raise InputError(f"{path}: not a folder")


def continued(directory: Path, run: Run) -> Run:
    """The run. If it names nothing to start from, it gets what the run in the folder
    started from, and the layers. Raises InputError if that run cannot be read."""
    if run.init_from or not (directory / SETTINGS).exists():
        return run
    old = settings(directory)
    return replace(run, init_from=old.init_from, init_layers=old.init_layers)


def check(
    directory: Path, run: Run, images: Images, resume: bool, change: bool = False
) -> bool:
    """Whether a run's folder has a checkpoint to resume from.

    Raises InputError if the folder has another run, or a run on other images. A run
    without a checkpoint starts anew, with any settings.
    """
    path = directory / SETTINGS
    if change and not resume:
        raise InputError("--change: only with --resume")
    begun = any(p.name.isdecimal() for p in (directory / CHECKPOINTS).glob("*"))
    if not resume and (path.exists() or begun):
        raise InputError(
            f"{directory} holds a run already: --resume continues it, another --out "
            "starts a new one"
        )
    if resume and not begun and jax.process_index() == 0:
        print(f"{directory} has no checkpoint: the run starts anew", file=sys.stderr)
    if begun:
        _check_same(settings(directory), run, path, change)
        if (trained_on := read_images(directory)).digest != images.digest:
            raise InputError(
                f"{directory} was trained on other images: {_counts(trained_on)}, "
                f"not {_counts(images)}"
            )
    return begun


def _counts(images: Images) -> str:
    return (
        f"{images.set}, {images.train:,} training and {images.test:,} test images "
        f"(digest {images.digest})"
    )


def _check_same(old: Run, new: Run, path: Path, change: bool) -> None:
    """InputError for a setting that a resumed run may not change. Images may move:
    their digest tells whether they are the same."""
    moved = replace(old.data, name=new.data.name, skip_bad=new.data.skip_bad)
    before = to_settings(replace(old, data=moved))
    now: dict[str, Any] = to_settings(new) | {"init_from": _absolute(new).init_from}
    for part in before.keys() - MAY_CHANGE - (ON_PURPOSE if change else set()):
        if before[part] == now[part]:
            continue
        name, was, is_now = part, before[part], now[part]
        if isinstance(was, dict):
            key = next(k for k in was if was[k] != is_now.get(k))
            name, was, is_now = f"{part}.{key}", was[key], is_now.get(key)
        how = " (unless --change is set)" if part in ON_PURPOSE else ""
        raise InputError(
            f"{path}: {name} is {was}, not {is_now}; a resumed run keeps it{how}"
        )
    if net_of(old).param_shapes() != net_of(new).param_shapes():
        raise InputError(
            f"{path}: augment.crop is {old.augment.crop}, not {new.augment.crop}; a "
            "resumed run keeps it even with --change: layers would have other shapes"
        )


def _absolute(run: Run) -> Run:
    """The run with absolute paths of its images and of what it starts from. An id of
    the Hugging Face Hub stays: its owner is no folder."""
    start = Path(run.init_from).expanduser().resolve()
    is_path = run.init_from and start.parent.exists()
    data, images = run.data, folder_of(run.data.name)
    if images is not None:
        data = replace(data, name=str(images.resolve()))
    return replace(run, data=data, init_from=str(start) if is_path else run.init_from)


def write(
    directory: Path, run: Run, images: Images, stats: Statistics, step: int
) -> None:
    """Write what describes the run from `step` on, on the first host, once all hosts
    have checked."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checked")
    if jax.process_index() == 0:
        _keep_earlier(directory, _absolute(run), step)
        arrays = io.BytesIO()
        np.savez(arrays, **jax.device_get(stats)._asdict())
        write_bytes(arrays.getvalue(), directory / STATISTICS)
        write_json(_checked(dataclasses.asdict(images)), directory / DATA)
        write_json(_checked(to_settings(_absolute(run))), directory / SETTINGS)


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with a checksum, which `_read` verifies."""
    text = json.dumps(fields, sort_keys=True)
    checksum = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return fields | {CHECKSUM: checksum}


def _read(path: Path) -> Any:
    """The fields of a file. InputError if it is damaged. A file that was edited may
    have no checksum."""
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not a dictionary")
    checksum = fields.pop(CHECKSUM, None)
    if checksum and checksum != _checked(fields)[CHECKSUM]:
        raise InputError(
            f"{path}: damaged; if it was edited on purpose, delete its {CHECKSUM}"
        )
    return fields


def _keep_earlier(directory: Path, run: Run, step: int) -> None:
    """Append the old settings to `earlier.jsonl` if `run` has new ones from `step` on.
    A run at its start has no earlier settings."""
    path = directory / EARLIER
    if not step:
        path.unlink(missing_ok=True)
    elif (before := settings(directory)) != run:
        lines = path.read_text(errors="replace") if path.exists() else ""
        line = json.dumps({"until_step": step, "settings": to_settings(before)})
        write_text(f"{lines}{line}\n", path)


def settings(directory: Path) -> Run:
    """The settings of a run. InputError if it cannot be read."""
    path = directory / SETTINGS
    _check_name(directory)
    if not path.exists():
        raise InputError(f"{directory}: no run there (it has no {SETTINGS})")
    fields = _read(path)
    try:
        return from_settings(fields)
    except (InputError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not the settings of a run: {error}") from None


def read_images(directory: Path) -> Images:
    """The images that a run was trained on. InputError if it cannot be read."""
    path = directory / DATA
    try:
        fields = _read(path)
        return Images(**fields | {"classes": tuple(fields["classes"])})
    except (OSError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a run's images: {error!r}") from None


def read_statistics(directory: Path) -> Statistics:
    """The statistics of a run's training set. InputError if they cannot be read."""
    path = directory / STATISTICS
    try:
        content = io.BytesIO(read_bytes(path))
        size = settings(directory).data.size
        with np.load(content, allow_pickle=False) as arrays:
            stats = Statistics(*(jnp.asarray(arrays[n]) for n in Statistics._fields))
        if (shapes := [array.shape for array in stats]) != [(size, size, 3), (3, 3)]:
            raise ValueError(f"shapes {shapes} for images of {size} pixels")
        return stats
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a run's statistics: {error!r}") from None
