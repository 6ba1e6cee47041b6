"""How the programs end when something is wrong: one line, and a non-zero exit."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

import jax


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names it."""


class Stopped(Exception):
    """Training ended early; the message says where it can go on."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Diverged(Stopped):
    """The loss, or a parameter, is no longer a finite number."""


@contextlib.contextmanager
def short_usage() -> Iterator[None]:
    """Around a call of tyro, whose errors are boxes: the box's message as one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        words = [line.strip("│╭╰╮╯ ") for line in box.getvalue().splitlines()]
        text = "\n".join(words[1:])
        message = " ".join(re.split("─{8,}", text)[0].split())
        if hint := re.search(r"Perhaps you meant:\s+(\S+)", text):
            message += f"; perhaps {hint[1]}?"
        if hint := re.search(r"Available subcommands: ([^─]+)", text):
            message += f"; choose from {' '.join(hint[1].split())}"
        raise InputError(message or "wrong command line; see --help") from None


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors that a user can mend into one line on stderr and an exit code."""
    try:
        yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (InputError, OSError, jax.errors.JaxRuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if of_jax and not first.startswith("RESOURCE_EXHAUSTED"):
            raise
        print(f"error: {first}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # an orderly end crashes where the compiler is at work
