import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexvgg_jax

PACKAGE = Path(alexvgg_jax.__file__).parent

# A module imports from lower lines only. "" is the package itself.
LEVELS = (
    {"", "boxes", "data", "errors", "paper"},
    {"files", "results", "loss", "models.cpu", "data.decode"},
    {"page", "plots", "models.operations", "data.folder", "data.tars"},
    {"models.layers", "data.manifest"},
    {"data.tfds"},
    {"data.records"},
    {"models.net"},
    {"models.alexnet", "models.vgg", "models.cifar", "models.slide"},
    {"models"},
    {"models.summary", "config"},
    {"recipes", "augment", "optim", "data.sources", "models.parallel"},
    {"data.batches", "sharding", "hosts", "run", "log", "protocols"},
    {"step", "checkpoint"},
    {"ready", "memory", "ledger", "progress", "mistakes"},
    {"evaluate"},
    {"weights.provenance", "weights.wire", "weights.hub"},
    {"weights.stored", "weights.export", "perceptual"},
    {"weights.ours", "weights.torchvision", "weights.keras", "weights.steps"},
    {"weights.onnx", "weights.caffe"},
    {"weights"},
    {
        *("commands", "commands.convert", "commands.eval", "commands.features"),
        *("commands.predict", "commands.prepare"),
    },
    {"start"},
    {"loop"},
    {"__main__"},
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
READ_THE_CLOCK = {"loop", "log", "hosts"}  # log dates, hosts waits


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imports(source: str) -> set[str]:
    """Every module that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names |= {_target(str(node.module), name.name) for name in node.names}
    return names


def _target(module: str, name: str) -> str:
    """`from a import b` imports a.b if that is a module of the package, else a."""
    inner = f"{module}.{name}".removeprefix("alexvgg_jax.")
    return f"alexvgg_jax.{inner}" if inner in FILES else module


def packages(module: str) -> set[str]:
    source = FILES[module].read_text(encoding="utf8")
    return {name.split(".")[0] for name in imports(source)}


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
    wrong = upward(module, FILES[module].read_text(encoding="utf8"))
    assert not wrong, f"{module} imports {wrong}, not from a lower level"


@pytest.mark.parametrize("module", sorted(FILES))
def test_only_models_import_flax(module):
    assert "flax" not in packages(module) or module.split(".")[0] == "models"


@pytest.mark.parametrize("module", sorted(FILES))
def test_few_read_the_clock(module):
    clocks = packages(module) & {"time", "datetime", "timeit"}
    assert not clocks or module in READ_THE_CLOCK


@pytest.mark.parametrize(
    "line",
    [
        "from alexvgg_jax import loop",
        "from alexvgg_jax.loop import train",
        "import alexvgg_jax.step as s",
        "def f():\n    from alexvgg_jax.recipes import RECIPES",
        "from alexvgg_jax.models import summary",  # a sibling
        "if TYPE_CHECKING:\n    from alexvgg_jax.optim import original_sgd",
    ],
)
def test_this_test_sees_upward_imports(line):
    assert upward("config", line)


def test_the_papers_need_no_jax():
    """Looking up a claim does not wait for jax."""
    code = (
        "import sys, alexvgg_jax.paper; "
        "print(sorted({'jax', 'flax', 'numpy', 'matplotlib'} & {*sys.modules}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
