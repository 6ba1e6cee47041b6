import importlib
import resource
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Many tests train the same net: it is compiled once a session.
COMPILED = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# What the fixtures need is imported in them, after the configuration above.
@pytest.fixture
def run(monkeypatch):
    """Run an experiment's main with options, and read what it wrote."""
    from alexvgg_jax import report

    def result(name: str, *arguments: str, out: Path) -> report.Result:
        script = f"experiments/{name}.py"
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(out)])
        importlib.import_module(name).main()
        return report.read(out / f"{name}.json")

    return result


@pytest.fixture
def largest_file():
    """Set how many bytes a file may have, as on a disk that is full; until the test's
    end, or for None any number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (soft if size is None else size, hard)
        )

    yield limit
    limit(None)


@pytest.fixture
def cifar10(monkeypatch):
    """CIFAR-10 as experiments find it, its images noise."""
    import _arms

    from alexvgg_jax.data.sources import Source

    def find(data, split) -> Source:
        assert data.name == "cifar10"
        count = 50_000 if split == "train" else 10_000
        about, classes = "TFDS cifar10/3.0.2, JPEG images", tuple("0123456789")
        return Source(about, count, classes, fetch)

    def fetch(numbers):
        images = np.random.default_rng(0).integers(256, size=(len(numbers), 32, 32, 3))
        return images.astype(np.uint8), np.zeros(len(numbers), np.int32)

    monkeypatch.setattr(_arms, "find_source", find)


@pytest.fixture
def untrained(monkeypatch):
    """Arms whose nets are built and not trained: the n-th of them has n% test error."""
    from _arms import Experiment
    from _figures import GAP, MORE_VIEWS, TEST, TOP5, TRAINING

    from alexvgg_jax.models import build

    def seed(number: int, arm: int, views: tuple[str, ...]) -> dict:
        curve = [[float(epoch), 50.0 / epoch + arm] for epoch in (1, 2, 3)]
        return {
            "seed": number,
            "seconds": 1.0,
            **dict.fromkeys((TEST, TOP5, TRAINING, GAP), arm + 0.1 * number),
            **{MORE_VIEWS[kind]: arm + 0.1 * len(kind) for kind in views},
            "curve": curve,
            "training curve": curve,
        }

    def arms(self, runs, views=()):
        found = {}
        for number, (arm, run_) in enumerate(runs.items()):
            size = run_.augment.crop or run_.data.size
            build(run_.model.name, **{**run_.model.switches, "image_size": size})
            found[arm] = [seed(n, number, views) for n in range(self.given.seeds)]
        return found

    monkeypatch.setattr(Experiment, "arms", arms)
