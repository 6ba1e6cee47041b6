import jax
import pytest

from alexvgg_jax import memory, paper
from alexvgg_jax.models import build
from alexvgg_jax.step import compiler_options


@pytest.mark.skipif(
    jax.default_backend() == "cpu" and not compiler_options(True),
    reason="this version of XLA refuses the options of CPUs",
)
def test_remat_needs_less_memory():
    kept, again = (
        memory.of_training(build("vgg-a", width=1 / 8, remat=remat), batch=8)
        for remat in (False, True)
    )
    assert again[:3] == kept[:3]
    assert again.temporary < 0.7 * kept.temporary


def test_memory_of_parameters_and_velocity():
    """AlexNet §3.5: 60 million parameters of four bytes, and as many velocities."""
    found = memory.of_training(build("alexnet-paper"), batch=2)
    assert found.parameters == 4 * paper.PARAMETERS["alexnet-paper"]
    assert found.optimizer == found.parameters
    assert found.images == 2 * 224 * 224 * 3
    assert found.temporary > found.parameters  # the gradients among them
    assert found.total == sum(found)
