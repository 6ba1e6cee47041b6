import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexvgg_jax

PACKAGE = Path(alexvgg_jax.__file__).parent

# A module imports from lower lines only. "" is the package itself.
LEVELS = (
    {"", "data", "paper", "config", "errors"},
    {
        "data.sources",
        "augment",
        "models.operations",
        "loss",
        "optim",
        "mesh",
        "report",
    },
    {"data.batches", "models.layers", "checkpoint", "folder", "log"},
    {"models.alexnet", "models.vgg", "models.cifar"},
    {"models"},
    {"models.summary", "models.parallel"},
    {"step"},
    {"evaluate", "memory", "ledger"},
    {"loop"},
    {"__main__"},
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
READ_THE_CLOCK = {"loop", "log", "folder", "__main__"}  # log dates, folder waits


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imports(source: str) -> set[str]:
    """Every module that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {_target(str(node.module), name.name) for name in node.names}
    return found


def _target(module: str, name: str) -> str:
    """`from a import b` imports a.b if that is a module of the package, else a."""
    inner = f"{module}.{name}".removeprefix("alexvgg_jax.")
    return f"alexvgg_jax.{inner}" if inner in FILES else module


def upward(module: str, source: str) -> list[str]:
    own = [
        name.removeprefix("alexvgg_jax").removeprefix(".")
        for name in imports(source)
        if name.split(".")[0] == "alexvgg_jax"
    ]
    return sorted(name for name in own if LEVEL[name] >= LEVEL[module])


def test_every_module_has_one_level():
    assert sum(len(modules) for modules in LEVELS) == len(LEVEL)
    assert set(LEVEL) == set(FILES)


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_import_runs_upward(module):
    found = upward(module, FILES[module].read_text(encoding="utf8"))
    assert not found, f"{module} imports {found}, not from a lower level"


@pytest.mark.parametrize("module", sorted(FILES))
def test_only_models_import_flax(module):
    found = {n.split(".")[0] for n in imports(FILES[module].read_text(encoding="utf8"))}
    assert "flax" not in found or module.split(".")[0] == "models"


@pytest.mark.parametrize("module", sorted(FILES))
def test_few_read_the_clock(module):
    found = {n.split(".")[0] for n in imports(FILES[module].read_text(encoding="utf8"))}
    clocks = found & {"time", "datetime", "timeit"}
    assert not clocks or module in READ_THE_CLOCK


@pytest.mark.parametrize(
    "line",
    [
        "from alexvgg_jax import loop",
        "from alexvgg_jax.loop import train",
        "import alexvgg_jax.step as s",
        "def f():\n    from alexvgg_jax.models import build",
        "from alexvgg_jax import mesh",  # a sibling
        "if TYPE_CHECKING:\n    from alexvgg_jax.models.vgg import VGG",
    ],
)
def test_this_test_sees_upward_imports(line):
    assert upward("optim", line)


def test_the_papers_need_no_jax():
    """Looking a claim up costs no second of importing."""
    names = ["alexvgg_jax"] + [f"alexvgg_jax.{m}" for m in ("paper", "config")]
    code = (
        f"import sys, {', '.join(names)}; print(sorted({{'jax', 'flax', 'numpy', "
        "'tensorflow_datasets'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
