"""How the programs end when something is wrong: one line and a non-zero exit status."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax


def printable(text: str) -> str:
    """The text with escapes in place of what cannot be printed in a line: a file's name
    can contain a newline, or bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InputError(Exception):
    """The user passed something wrong; the message is one line that names it.

    It does not derive from ValueError: tyro catches ValueErrors of the settings that it
    builds, and would print its own message instead.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class Stopped(Exception):
    """Training ended early; the message says how to continue."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self):  # another process can raise it
        return type(self), (str(self), self.exit_code)


class Diverged(Stopped):
    """The loss or a parameter is no longer a finite number."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn errors that a user can fix into one line on stderr and an exit status."""
    try:
        yield
    except Stopped as stop:
        with contextlib.suppress(OSError):  # a terminal that was closed
            print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (InputError, OSError, jax.errors.JaxRuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        from_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if from_jax and not first.startswith("RESOURCE_EXHAUSTED"):
            raise
        print(f"error: {first}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # a normal exit crashes while XLA is compiling
