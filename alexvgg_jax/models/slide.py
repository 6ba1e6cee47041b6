"""VGG §3.2: any net over whole images of any size, with the parameters it has."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.cpu import at_least_float32
from alexvgg_jax.models.layers import (
    Dense,
    GlobalAverage,
    Layer,
    Pool,
    Shape,
    SlidingDense,
)
from alexvgg_jax.models.net import Compute, Net, Params, compute_dtype


def slide(net: Net) -> tuple[Layer, ...]:
    """VGG §3.2: the net's layers, fully-connected ones turned into convolutions.

    The first fully-connected layer becomes a convolution as large as the maps that it
    was trained on (7x7 in VGG), the others become 1x1. The parameters stay the same.
    The last layer averages the class score map. A net that averages its maps itself
    (`head="gap"`) keeps its layers. Raises InputError for a layer that has weights of
    its own at each position.
    """
    layers: list[Layer] = []
    shape, slid = net.input_shape, False
    for layer in net.layers():
        output = layer.output(shape)
        if isinstance(layer, Dense) and (slid or len(shape) == 3):
            size = 1 if slid else shape[0]
            shared = {field.name: getattr(layer, field.name) for field in fields(layer)}
            layer, slid = SlidingDense(**shared, size=size), True
        elif layer.fixes_image_size(shape):
            raise InputError(
                f"{type(net).__name__} cannot slide over an image: {layer.name} has "
                "weights of its own at each position"
            )
        layers.append(layer)
        shape = output
    return (*layers, GlobalAverage("average")) if slid else tuple(layers)


def multiply_adds(layers: Sequence[Layer], shape: Shape) -> int:
    """The multiplications of `layers` for one image of `shape`."""
    total = 0
    for layer in layers:
        total += layer.multiply_adds(shape)
        shape = layer.output(shape)
    return total


def map_sizes(
    layers: Sequence[Layer], sizes: Int[np.ndarray, "batch 2"]
) -> Int[np.ndarray, "layers batch 2"]:
    """The height and width of each layer's input, for images of these sizes; 0 where
    the input is no map. Raises InputError for an image that is too small."""
    of_size: dict[tuple[int, ...], list[Shape]] = {}
    for size in {tuple(size) for size in sizes.tolist()}:
        shape: Shape = (*size, 3)
        of_size[size] = []
        for layer in layers:
            of_size[size].append(shape[:2] if len(shape) == 3 else (0, 0))
            try:
                shape = layer.output(shape)
            except InputError as error:
                raise InputError(
                    f"an image of {size[0]}x{size[1]} is too small, at {layer.name} "
                    f"{error}"
                ) from None
    each = [of_size[tuple(size)] for size in sizes.tolist()]
    return np.array(each, np.int32).swapaxes(0, 1)


def score(
    layers: Sequence[Layer],
    params: Params,
    images: Float[Array, "batch height width 3"],
    maps: Int[Array, "layers batch 2"],
    compute: Compute,
) -> Float[Array, "batch classes"]:
    """VGG §3.2: each image's class scores, averaged over its score map.

    An image can be smaller than its array. `maps` are the `map_sizes` of the images.
    Every layer masks what is beyond an image: with zeros, and in maximum pooling with
    minus infinity, as at the border of an array. So the padding changes no score, and
    images of several sizes share one compiled program.
    """
    x = images.astype(compute_dtype(images, compute))
    for layer, sizes in zip(layers, maps, strict=True):
        run = partial(layer, params.get(layer.name, {}), train=False, key=None)
        if x.ndim < 4 or layer.window == (1, 1):  # sees one position
            x = run(x)
            continue
        seen = _inside(x, sizes)
        largest = isinstance(layer, Pool) and layer.kind == "max"
        x = jnp.where(seen, x, jnp.array(-jnp.inf if largest else 0, x.dtype))
        if _averages(layer):  # what is seen, not the array
            exact = at_least_float32(x)
            x = (run(exact) / run(seen.astype(exact.dtype))).astype(x.dtype)
        else:
            x = run(x)
    return x.astype(images.dtype)


def _averages(layer: Layer) -> bool:
    return isinstance(layer, GlobalAverage) or (
        isinstance(layer, Pool) and layer.kind == "average"
    )


def _inside(
    x: Float[Array, "batch height width maps"], sizes: Int[Array, "batch 2"]
) -> Bool[Array, "batch height width 1"]:
    """Which positions of `x` belong to maps of these sizes."""
    rows = jnp.arange(x.shape[1])[None, :] < sizes[:, :1]
    columns = jnp.arange(x.shape[2])[None, :] < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[..., None]
