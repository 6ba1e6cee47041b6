"""What the kinds of trouble in `reliability.py` share: trials, and damage to files.

An input is handled if it changes nothing, or if it ends in one clear line.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from alexvgg_jax.errors import InputError, Stopped

Outcome = Literal["handled", "lost", "wrong", "traceback"]
Random = np.random.Generator


class Trial(NamedTuple):
    """One input."""

    outcome: Outcome
    what: str  # the input, and what happened


Trouble = Callable[[int, Random, Path], Iterator[Trial]]


def attempt(what: str, use: Callable[..., str | None], *arguments: Any) -> Trial:
    """What becomes of an input. `use` returns what is wrong, if anything is."""
    try:
        wrong = use(*arguments)
    except (InputError, OSError, Stopped) as error:  # become one line
        one_line = str(error) and "\n" not in str(error)
        return Trial("handled" if one_line else "traceback", f"{what}: {error}")
    except Exception as error:
        return Trial("traceback", f"{what}: {error!r}")
    return Trial("wrong", f"{what}: {wrong}") if wrong else Trial("handled", what)


@contextlib.contextmanager
def printed() -> Iterator[Callable[[], str]]:
    """A function that returns what was printed to stderr since, by any library."""
    before = os.dup(2)
    with tempfile.NamedTemporaryFile("a", buffering=1) as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stderr(file):
                yield lambda: Path(file.name).read_text(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)


def equal(left: Any, right: Any) -> bool:
    """Whether two trees have the same arrays."""
    pairs = zip(*map(jax.tree.leaves, (left, right)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def spoilt(content: bytes, random: Random) -> tuple[str, bytes]:
    """How the content was damaged, and what is left of it."""
    at, other = (int(n) for n in random.integers(max(len(content), 1), size=2))
    flipped = bytes(byte ^ 1 << other % 8 for byte in content[at : at + 1])
    swapped = bytearray(content)
    a, b = (slice(n // 4 * 4, n // 4 * 4 + 4) for n in (at, other))
    swapped[a], swapped[b] = swapped[b], swapped[a]
    damages = {
        "a bit": content[:at] + flipped + content[at + 1 :],
        "a byte": content[:at] + random.bytes(1) + content[at + 1 :],
        "4 KB of zeros": content[:at] + bytes(len(content[at : at + 4096]))
        + content[at + 4096 :],
        "two words swapped": bytes(swapped),
        "cut short": content[:at],
        "emptied": b"",
        "garbage appended": content + random.bytes(1 + other % 100),
    }  # fmt: skip
    how = str(random.choice(list(damages)))
    return f"{how} at {at}", damages[how]


def damage(file: Path, random: Random) -> str:
    """Damage a file, and return how."""
    content, how = file.read_bytes(), int(random.integers(9))
    if how > 1:
        text, content = spoilt(content, random)
        file.write_bytes(content)
        return text
    file.unlink()
    if how == 1:
        file.mkdir()
    return ("deleted", "replaced by a folder")[how]
