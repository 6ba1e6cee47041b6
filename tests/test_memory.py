import math

import jax
import pytest

from alexvgg_jax import memory, paper
from alexvgg_jax.models import build
from alexvgg_jax.step import compiler_options


@pytest.mark.skipif(
    jax.default_backend() == "cpu" and not compiler_options(),
    reason="this version of XLA refuses the options of CPUs",
)
def test_remat_needs_less_memory():
    kept, again = (
        memory.of_training(build("vgg-a", width=1 / 8, remat=remat), batch=8)
        for remat in (False, True)
    )
    assert again[:4] == kept[:4]
    assert again.activations < 0.7 * kept.activations
    assert again.total < kept.total


def test_memory_of_parameters_and_velocity():
    """AlexNet §3.5: 60 million parameters of four bytes, and as many velocities."""
    found = memory.of_training(build("alexnet-paper"), batch=2)
    assert found.parameters == 4 * paper.PARAMETERS["alexnet-paper"]
    assert found.optimizer == found.gradients == found.parameters
    assert found.images == 2 * 224 * 224 * 3
    assert 4 * found.parameters > found.total > 2 * found.parameters


def test_activations_are_what_the_backward_pass_keeps():
    """VGG Table 1: at least what every convolution of a batch reads, four bytes each,
    and in proportion to the batch; gradients take their places one by one."""
    net = build("vgg-a", width=1 / 8)
    eight, sixteen = (memory.of_training(net, batch) for batch in (8, 16))
    shapes = net.shapes()
    read = ("pool1", "pool2", "relu3_1", "pool3", "relu4_1", "pool4", "relu5_1")
    floats = sum(math.prod(shapes[name]) for name in read)
    assert eight.activations > 8 * 4 * floats
    assert 1.7 < sixteen.activations / eight.activations < 2.1
    assert eight.total < sum(eight[:-1])
