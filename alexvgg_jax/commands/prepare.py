"""The command `prepare`."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from alexvgg_jax.data import records
from alexvgg_jax.data.batches import prefetch
from alexvgg_jax.data.decode import Encoded, Reader
from alexvgg_jax.data.manifest import (
    LEFT_OUT,
    RULES,
    Manifest,
    Settings,
    Shard,
    counts,
    listed,
)
from alexvgg_jax.data.sources import find_encoded, folder_of
from alexvgg_jax.data.tfds import INFO
from alexvgg_jax.errors import InputError, printable

Part = Literal["train", "test"]
Parts = dict[str, Encoded]  # by split

READ = 256  # images that a source is asked for at a time
AHEAD = 4  # images that wait for each thread
SHOWN = 3  # images of a rule that the report names; prepared.json names all


class Made(NamedTuple):
    """What became of an image."""

    record: bytes | None  # None if it is left out
    name: str  # and why it is left out
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Prepare:
    """Scale all images once, for fast training: prepare --from FOLDER --to FOLDER.

    The new folder has the form of TensorFlow Datasets: name its path where a set is
    asked for, also in tfds.builder_from_directory. A few large files hold JPEGs with
    their labels, and are read in any order. prepared.json has the settings, what became
    of each unusual image, and the digests of the files. Damaged images are left out;
    the exit status is then 1.

    Rerun an interrupted command and it continues. The files are the same however often
    it was interrupted, and with any number of threads.
    """

    # a folder with a folder for each class, a TFDS name, or a folder that has
    # ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz
    source: Annotated[str, tyro.conf.arg(name="from")]
    to: Path  # the folder to write: a new one, or that of an interrupted command
    size: int = 256  # pixels: short side of the images (AlexNet §2)
    # store only the centre square (AlexNet §2); otherwise the whole image (VGG §3.1)
    square: bool = False
    quality: int = 95  # of the JPEGs, from 1 to 100
    shard: int = 8192  # images in a file
    splits: tuple[Part, ...] = ("train", "test")  # which images
    threads: int = 0  # images that are scaled at a time; 0: one for each core

    def __call__(self) -> None:
        self._check()
        records.import_tfds()
        console = Console(stderr=True)
        with console.status("listing the images"):
            parts: Parts = {split: self._open(split) for split in self.splits}
        if len({part.classes for part in parts.values()}) > 1:
            raise InputError(f"--from {self.source}: train and test differ in classes")
        notes = "; ".join(part.note for part in parts.values() if part.note)
        for note in dict.fromkeys(filter(None, notes.split("; "))):
            print(note, file=sys.stderr)
        manifest = Manifest(
            Settings(self.size, self.square, self.quality, self.shard),
            parts[self.splits[0]].classes,
            {
                split: f"{part.about} ({part.count:,} images, digest "
                f"{part.digest[:16]})"
                for split, part in parts.items()
            },
        )
        with records.locked(self.to):
            self._write(parts, manifest, console)
            records.write_metadata(self.to, manifest)
        _report(self.to, manifest)

    def _check(self) -> None:
        for name, least in {"size": 1, "quality": 1, "shard": 1, "threads": 0}.items():
            if (value := getattr(self, name)) < least:
                raise InputError(f"--{name} {value}: at least {least}")
        for name, most in {"size": records.MAX_SIDE, "quality": 100}.items():
            if (value := getattr(self, name)) > most:
                raise InputError(f"--{name} {value}: at most {most:,}")
        if not self.splits or len({*self.splits}) < len(self.splits):
            raise InputError("--splits: train, test, or both")
        root, to = folder_of(self.source), self.to.resolve()
        if root and root.resolve() in (to, *to.parents):
            raise InputError(f"--to {self.to}: inside {self.source}")

    def _open(self, split: Part) -> Encoded:
        if self.source == "digits":
            raise InputError("--from digits: they are part of scikit-learn, not files")
        try:
            images = find_encoded(self.source, split)
        except InputError as error:
            only = "; `--splits train` prepares the training images alone"
            hint = only if split == "test" and len(self.splits) > 1 else ""
            line = str(error).replace("--data ", "--from ", 1)
            raise InputError(f"{line}{hint}") from None
        for name in images.classes:
            if name != name.strip() or "\n" in name:
                raise InputError(f"{images.about}: TFDS cannot store the name {name!r}")
        return images

    def _write(self, parts: Parts, manifest: Manifest, console: Console) -> None:
        """Write the files that are not finished yet, and the manifest, which then has
        all of them."""
        with console.status("comparing digests"):
            manifest.files.update(records.finished(self.to, manifest))
        settings = manifest.settings
        with Progress(console=console, transient=True) as progress:
            for split, part in parts.items():
                task = progress.add_task(split, total=part.count)
                names = records.shard_names(split, part.count, settings)
                for i, name in enumerate(names):
                    start = i * settings.shard
                    end = min(start + settings.shard, part.count)
                    if name not in manifest.files:
                        (self.to / INFO).unlink(missing_ok=True)
                        manifest.write(self.to)
                        made = self._records(part, np.arange(start, end), settings)
                        advance = partial(progress.advance, task)
                        manifest.files[name] = _write_shard(
                            self.to / name, made, advance
                        )
                    progress.update(task, completed=end)
        manifest.write(self.to)

    def _records(
        self, part: Encoded, numbers: np.ndarray, settings: Settings
    ) -> Iterator[Made]:
        """The records of images, in order."""
        root = folder_of(self.source)
        prefix = f"{root}/" if root else ""

        def make(reader: Reader, label: int) -> Made:
            try:
                encoded, path = reader()
                image, rules = records.shrink(encoded, path, settings)
            except InputError as error:
                return Made(None, str(error).removeprefix(prefix), (LEFT_OUT,))
            name = path.removeprefix(prefix)
            record = records.as_record(image, label, name)
            return Made(record, printable(name), rules)

        def calls() -> Iterator[Callable[[], Made]]:
            for few in np.array_split(numbers, -(-len(numbers) // READ)):
                readers, labels = part.read(few)
                yield from map(partial(partial, make), readers, labels.tolist())

        threads = self.threads or os.cpu_count() or 1
        return prefetch(calls(), AHEAD * threads, threads)


def _write_shard(
    path: Path, made: Iterable[Made], advance: Callable[[], object]
) -> Shard:
    """Write a file. Returns what is known of it. Calls `advance` for every image."""
    shard = Shard()
    with records.write_shard(path) as write:
        for record, name, rules in made:
            advance()
            for rule in rules:
                shard.add(rule, name)
            if record is not None:
                write(record)
                shard.images += 1
    shard.bytes, shard.sha256 = path.stat().st_size, records.sha256(path)
    return shard


def _report(folder: Path, manifest: Manifest) -> None:
    """Print what became of all images. Exits with 1 if any was left out."""
    files = [*manifest.files.values()]
    count = counts(files)
    for line in listed(files, LEFT_OUT):
        print(f"{LEFT_OUT}: {line}")
    for rule, what in RULES.items():
        if count[rule]:
            names = listed(files, rule)[:SHOWN]
            such_as = f": {', '.join(names)}" if names and rule != LEFT_OUT else ""
            more = ", ..." if such_as and count[rule] > len(names) else ""
            print(f"{rule}: {count[rule]:,} ({what}){such_as}{more}")
    images = " and ".join(
        f"{counts(of_split)['images']:,} {split}"
        for split, of_split in manifest.splits().items()
    )
    print(f"wrote {folder}: {images} images, {count['bytes'] / 1e6:,.1f} MB")
    if count[LEFT_OUT]:
        sys.exit(1)
