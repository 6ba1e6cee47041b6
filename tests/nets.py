"""Helpers for tests of nets: shapes without computing, random parameters."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from alexvgg_jax.models import Net, Params
from alexvgg_jax.models.layers import Layer


def stack(*layers: Layer, image_size: int, remat: bool = False) -> Net:
    """A net of these layers."""

    class Stack(Net):
        def layers(self) -> tuple[Layer, ...]:
            return layers

    return Stack(image_size=image_size, remat=remat)


def trace(net: Net, size: int | None = None, **options) -> dict[str, tuple[int, ...]]:
    """Layer -> output shape as `apply` computes it, in the order of computation."""
    size = net.image_size if size is None else size
    shapes = {}

    def record(params, images):
        logits, features = net.apply(params, images, **options)
        shapes.update((name, value.shape[1:]) for name, value in features.items())
        return logits

    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    jax.eval_shape(record, net.param_shapes(), images)
    return shapes


def count(net: Net) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(net.param_shapes()))


def random_params(net: Net, only: Iterable[str] | None = None) -> Params:
    """Kernels that keep the size of activations, biases from N(0, 2^2); `only` of
    these layers."""
    rng = np.random.default_rng(0)
    shapes = net.param_shapes()

    def draw(layer, part, shape):
        deviation = 2.0
        if part == "kernel":
            local = layer.startswith("local")  # one kernel at every position
            inputs = shape[-2] if local else math.prod(shape[:-1])
            deviation = math.sqrt(2 / inputs)
        values = rng.standard_normal(shape, np.float32)
        return jnp.asarray(np.float32(deviation) * values)

    return {
        layer: {part: draw(layer, part, leaf.shape) for part, leaf in parts.items()}
        for layer, parts in shapes.items()
        if only is None or layer in only
    }
