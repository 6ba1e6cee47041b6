"""What a network costs, layer by layer, without computing it."""

import math
from typing import NamedTuple

from rich import box
from rich.table import Table

from alexvgg_jax.models import Model
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    GlobalAverage,
    Layer,
    Local,
    Pool,
    Shape,
    SlidingDense,
)

FLOAT32_BYTES = 4


class Row(NamedTuple):
    """One layer, for one image."""

    name: str
    shape: Shape  # of its output
    parameters: int
    multiply_adds: int  # of convolutions and fully-connected layers
    activation_bytes: int  # of its output, in float32
    # Pixels that one output sees, in one direction, of an image so large that no border
    # cuts them off; behind a fully-connected layer all of this one's.
    receptive_field: int


def rows(net: Model) -> list[Row]:
    """VGG Table 2: what every layer of `net` costs, in the order of computation."""
    params = net.param_shapes()
    shapes = net.shapes()
    before: Shape = net.input_shape
    field, jump = 1, 1  # pixels that an output sees, and between two neighbours
    found = []
    for layer in net.rows:
        size, stride = _window(layer)
        field, jump = field + (size - 1) * jump, jump * stride
        if isinstance(layer, Dense | GlobalAverage):
            field = net.image_size  # as every pixel
        after = shapes[layer.name]
        found.append(
            Row(
                name=layer.name,
                shape=after,
                parameters=sum(p.size for p in params.get(layer.name, {}).values()),
                multiply_adds=_multiply_adds(layer, before, after),
                activation_bytes=math.prod(after) * FLOAT32_BYTES,
                receptive_field=field,
            )
        )
        before = after
    return found


def _window(layer: Layer) -> tuple[int, int]:
    if isinstance(layer, Conv | Pool):
        return layer.size, layer.stride
    if isinstance(layer, Local | SlidingDense):
        return layer.size, 1
    if isinstance(layer, LRN) and layer.over == "pixels":
        return layer.size, 1
    return 1, 1


def _multiply_adds(layer: Layer, before: Shape, after: Shape) -> int:
    if isinstance(layer, Conv):
        return math.prod(after) * layer.size**2 * before[-1] // layer.groups
    if isinstance(layer, Local | SlidingDense):
        return math.prod(after) * layer.size**2 * before[-1]
    if isinstance(layer, Dense):
        return math.prod(before) * math.prod(after) // layer.groups
    return 0


def table(net: Model) -> Table:
    """The rows as a table, with their sums."""
    title = f"{net.name}, one image of {_product(net.input_shape)}"
    drawn = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    drawn.add_column("layer")
    for heading in (
        "output",
        "parameters",
        "multiply-adds",
        "activation\nbytes",
        "receptive\nfield",
    ):
        drawn.add_column(heading, justify="right", no_wrap=True)
    found = rows(net)
    for row in found:
        drawn.add_row(
            row.name,
            _product(row.shape),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.multiply_adds:,}" if row.multiply_adds else "",
            f"{row.activation_bytes:,}",
            f"{row.receptive_field}",
        )
    drawn.add_section()
    drawn.add_row(
        "total",
        "",
        f"{sum(row.parameters for row in found):,}",
        f"{sum(row.multiply_adds for row in found):,}",
        f"{sum(row.activation_bytes for row in found):,}",
        "",
    )
    return drawn


def _product(shape: Shape) -> str:
    return "x".join(map(str, shape))
