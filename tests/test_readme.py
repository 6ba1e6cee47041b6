"""The README's examples run, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
from flax import linen as nn

from alexvgg_jax import __main__ as command_line
from alexvgg_jax import models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = README.replace("\\\n", " ")
COMMANDS = re.findall(r"^    python -m alexvgg_jax (.+)$", SHELL, re.MULTILINE)
SCRIPTS = set(re.findall(r"python (experiments/[\w/]+\.py)", README))
LINKS = re.findall(r"\]\((?!http|#)([^)#]+)", README)


def test_the_examples_run_in_order():
    names: dict = {}
    for block in CODE:
        exec(compile(block, "README.md", "exec"), names)
    assert names["features"]["relu5"].shape == (1, 13, 13, 256)
    assert issubclass(names["Tagger"], nn.Module)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command):
    assert command_line.parse(shlex.split(command, comments=True))


@pytest.mark.parametrize("path", sorted(SCRIPTS | set(LINKS)))
def test_the_files_exist(path):
    assert (ROOT / path).exists()


def test_the_table_of_networks_names_models():
    rows = [line for line in README.splitlines() if line.startswith('| `"')]
    names = {name for line in rows for name in re.findall(r'`"([\w-]+)"`', line)}
    assert len(names) > 8
    assert names <= set(models.MODELS)
