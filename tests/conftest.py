import gc
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Some tests send Ctrl-C and SIGHUP. A shell or nohup can make this process ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Compiling takes most of the tests' time. With these flags it takes a third less, and
# the programs are hardly slower.
QUICK = ["--xla_backend_optimization_level=2"]
if jax.__version_info__ < (0, 11):  # newer ones do not know it
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*QUICK, os.environ.get("XLA_FLAGS", "")])

# Most programs run once. This makes them slow, but compiling them takes less. Tests
# that train use the fixture `optimized`.
jax.config.update("jax_disable_most_optimizations", True)

# Many tests train the same net: all processes share its compiled program.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
FIRST = os.getppid() if IS_WORKER else os.getpid()
COMPILED = Path(tempfile.gettempdir(), f"alexvgg_jax-tests-{FIRST}")
for option, value in (
    ("jax_compilation_cache_dir", str(COMPILED)),
    ("jax_persistent_cache_min_compile_time_secs", 0.1),
):
    jax.config.update(option, value)
    os.environ[option.upper()] = str(value)  # for the commands that tests start


def pytest_collection_finish():
    gc.freeze()  # no modules are garbage
    gc.set_threshold(50_000, 20, 20)  # each collection calls jax: saves a twentieth


def pytest_sessionfinish():
    if not IS_WORKER:
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(scope="module")
def optimized():
    """For tests that train: quick programs."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def unchecked():
    """Without the type checks of these tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
