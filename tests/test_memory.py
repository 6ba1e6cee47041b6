import math

import jax
import pytest
from nets import stack

from alexvgg_jax import memory
from alexvgg_jax.models.layers import Conv, Dense, Pool, activation
from alexvgg_jax.models.summary import costs
from alexvgg_jax.step import compiler_options

LAYERS = (
    Conv("conv1", 32, 3, pad=1),
    activation("relu", "1"),
    Pool("pool1", size=2, stride=2),
    Conv("conv2", 64, 3, pad=1),
    activation("relu", "2"),
    Pool("pool2", size=2, stride=2),
    Conv("conv3", 64, 3, pad=1),
    activation("relu", "3"),
    Dense("fc4", 10),
)
READ_AGAIN = ("pool1", "pool2", "relu3")  # by the backward pass


@pytest.mark.skipif(
    jax.default_backend() == "cpu" and not compiler_options(),
    reason="this version of XLA refuses the options of CPUs",
)
def test_remat_needs_less_memory():
    kept, again = (
        memory.of_training(stack(*LAYERS, image_size=32, remat=remat), batch=64)
        for remat in (False, True)
    )
    assert again[:4] == kept[:4]
    assert again.activations < 0.8 * kept.activations
    assert again.total < kept.total


def test_memory_of_parameters_and_velocity():
    """Four bytes for each of them, and of the gradients."""
    net = stack(*LAYERS[:-1], Dense("fc4", 1000), image_size=32)
    needed = memory.of_training(net, batch=2)
    assert needed.parameters == 4 * sum(cost.parameters for cost in costs(net))
    assert needed.optimizer == needed.gradients == needed.parameters
    assert needed.images == 2 * 32 * 32 * 3
    assert 4 * needed.parameters > needed.total > 2 * needed.parameters


def test_activations_are_what_the_backward_pass_keeps():
    """At least the inputs of all later layers, four bytes a number, and in proportion
    to the batch. Gradients take their places."""
    net = stack(*LAYERS, image_size=32)
    eight, sixteen = (memory.of_training(net, batch) for batch in (8, 16))
    shapes = net.shapes()
    kept = sum(math.prod(shapes[name]) for name in READ_AGAIN)
    assert eight.activations > 8 * 4 * kept
    assert 1.7 < sixteen.activations / eight.activations < 2.1
    assert eight.total < sum(eight[:-1])
