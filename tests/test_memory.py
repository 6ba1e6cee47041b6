import math

import jax
import pytest
from counts import PARAMETERS

from alexvgg_jax import memory
from alexvgg_jax.models import build
from alexvgg_jax.step import compiler_options


@pytest.mark.skipif(
    jax.default_backend() == "cpu" and not compiler_options(),
    reason="this version of XLA refuses the options of CPUs",
)
def test_remat_needs_less_memory():
    kept, again = (
        memory.of_training(build("alexnet-small", image_size=32, remat=remat), batch=64)
        for remat in (False, True)
    )
    assert again[:4] == kept[:4]
    assert again.activations < 0.7 * kept.activations
    assert again.total < kept.total


def test_memory_of_parameters_and_velocity():
    """AlexNet §3.5: 60 million parameters of four bytes, and as many velocities."""
    needed = memory.of_training(build("alexnet-paper"), batch=2)
    assert needed.parameters == 4 * PARAMETERS["alexnet-paper"]
    assert needed.optimizer == needed.gradients == needed.parameters
    assert needed.images == 2 * 224 * 224 * 3
    assert 4 * needed.parameters > needed.total > 2 * needed.parameters


def test_activations_are_what_the_backward_pass_keeps():
    """VGG Table 1: at least the inputs of all convolutions, four bytes a number, and in
    proportion to the batch. Gradients take their places."""
    net = build("vgg-a", width=1 / 8, image_size=64)
    eight, sixteen = (memory.of_training(net, batch) for batch in (8, 16))
    shapes = net.shapes()
    read = ("pool1", "pool2", "relu3_1", "pool3", "relu4_1", "pool4", "relu5_1")
    assert eight.activations > 8 * 4 * sum(math.prod(shapes[name]) for name in read)
    assert 1.7 < sixteen.activations / eight.activations < 2.1
    assert eight.total < sum(eight[:-1])
