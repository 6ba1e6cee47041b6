"""What the benchmarks share: the start of a result, its tables and its files.

A result is one JSON file, by default `results/benchmarks/NAME.json`. The tables and
plots next to it are rendered from the JSON alone.
"""

import io
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from alexvgg_jax import results
from alexvgg_jax.files import write_json, write_text

OUT = Path("results/benchmarks")
Result = dict[str, Any]


def origin(name: str) -> Result:
    """The start of a result: its name, command, commit and machine."""
    commit, clean = results.commit()
    return {
        "name": name,
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "clean": clean,
        "machine": results.machine() | {"jax": jax.__version__},
    }


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as text, its first column on the left and the others on the right."""
    drawn = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for cells in rows:
        drawn.add_row(*cells)
    page = io.StringIO()
    Console(file=page, width=100).print(drawn)
    lines = [title, *page.getvalue().rstrip().splitlines(), ""]
    return "\n".join(line.rstrip() for line in lines)


def write(result: Result, page: str, folder: Path) -> None:
    """Write NAME.json and its tables, NAME.txt, and print the tables."""
    path = folder / f"{result['name']}.json"
    write_json(result, path)
    write_text(page, path.with_suffix(".txt"))
    print(f"{page}\nwrote {path} and {path.with_suffix('.txt')}")
