"""The manifest of a set that `prepare` writes: prepared.json.

It has the settings, the classes, the source, and the size and digest of every file that
is finished. Its own digest comes last, so a change of it is seen too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import read_json, write_json

MANIFEST, DIGEST = "prepared.json", "sha256"
NAME = "images"  # of the set, as TFDS names its files
LEFT_OUT, UNCHANGED, UNREAD = "left out", "unchanged", "unread"
RULES = {
    LEFT_OUT: "damaged or too large: not in the set",
    UNCHANGED: "a JPEG in colour, upright and already of this size: stored as it is",
    "grey": "stored with three equal channels",
    "CMYK": "stored as RGB, converted without a colour profile",
    "transparent": "laid on white",
    "rotated": "turned upright as its EXIF data says",
    UNREAD: "Pillow cannot read its header, which would tell what it is",
}


@dataclass(frozen=True)
class Settings:
    """What the images of a set become."""

    size: int  # pixels: short side
    square: bool  # only the centre square
    quality: int  # of the JPEGs
    shard: int  # images in a file
    opencv: str = cv2.__version__  # another one can write other bytes


@dataclass
class Shard:
    """What is known of a finished file."""

    images: int = 0  # that the file holds
    bytes: int = 0
    sha256: str = ""
    unchanged: int = 0
    # rule -> the names of its images; unchanged images are only counted
    unusual: dict[str, list[str]] = field(default_factory=dict)

    def add(self, rule: str, name: str) -> None:
        if rule == UNCHANGED:
            self.unchanged += 1
        else:
            self.unusual.setdefault(rule, []).append(name)


Shards = dict[str, Shard]  # by the name of the file


@dataclass(frozen=True)
class Manifest:
    """What is known of a set so far."""

    settings: Settings
    classes: tuple[str, ...]
    source: dict[str, str]  # split -> where its images come from
    files: Shards = field(default_factory=dict)

    def split(self, name: str) -> list[Shard]:
        """The finished files of a split, in order."""
        start = f"{NAME}-{name}."
        return [self.files[n] for n in sorted(self.files) if n.startswith(start)]

    def splits(self) -> dict[str, list[Shard]]:
        """The finished files of each split."""
        return {name: self.split(name) for name in self.source}

    def write(self, folder: Path) -> None:
        content = {
            "settings": asdict(self.settings),
            "classes": list(self.classes),
            "source": self.source,
            "rules": RULES,
            "images": {name: counts(files) for name, files in self.splits().items()},
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }
        write_json(content | {DIGEST: _digest(content)}, folder / MANIFEST)


def read(folder: Path) -> tuple[Manifest, str]:
    """The manifest in a folder, and its digest. InputError if it was changed."""
    path = folder / MANIFEST
    try:
        content = read_json(path)
        digest = content.pop(DIGEST)
        if digest != _digest(content):
            raise ValueError
        settings, classes = Settings(**content["settings"]), tuple(content["classes"])
        files = {name: Shard(**shard) for name, shard in content["files"].items()}
        return Manifest(settings, classes, content["source"], files), digest
    except (TypeError, ValueError, KeyError, AttributeError):
        again = "prepare the set again in another folder"
        raise InputError(f"{path}: not as `prepare` wrote it: {again}") from None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def counts(files: Sequence[Shard]) -> dict[str, int]:
    """How many images and bytes some files have, and how many images of each rule."""
    usual = {
        "images": sum(file.images for file in files),
        "bytes": sum(file.bytes for file in files),
        UNCHANGED: sum(file.unchanged for file in files),
    }
    unusual = {rule: len(listed(files, rule)) for rule in RULES if rule not in usual}
    return usual | unusual


def listed(files: Sequence[Shard], rule: str) -> list[str]:
    """The names of all images of a rule."""
    return [name for file in files for name in file.unusual.get(rule, ())]
