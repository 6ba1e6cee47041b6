"""How the programs end when something is wrong: one line, and a non-zero exit."""

import contextlib
import sys
from collections.abc import Iterator


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
def one_line() -> Iterator[None]:
    """Turn the errors that a user can mend into one line on stderr and an exit code."""
    try:
        yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
