"""Write files so that a crash or a full disk never leaves half a file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexvgg_jax.errors import InputError


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write `data` as JSON, like `write_bytes`."""
    write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write `text` in UTF-8, like `write_bytes`."""
    write_bytes(text.encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file, and the folders above it, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.unlink(missing_ok=True)  # of a crash
        with unfinished.open("xb") as file:  # never through a link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path}: {error.strerror}") from None


def check_place(path: Path, flag: str) -> None:
    """InputError if no file can be written to a path, or to the folders above it."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{flag} {path}: no file can be written there")


def read_bytes(path: Path) -> bytes:
    """The content of a file. InputError if it is no regular file: a pipe would be
    waited for."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The content of a JSON file. InputError if it is no regular file, or not JSON."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # too deeply nested
        raise InputError(f"{path}: not JSON: {error}") from None
