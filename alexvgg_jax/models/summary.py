"""What a network costs, layer by layer, without computing it."""

import math
from typing import NamedTuple

from rich import box
from rich.table import Table

from alexvgg_jax.models.layers import Shape
from alexvgg_jax.models.net import Net

FLOAT32_BYTES = 4


class LayerCost(NamedTuple):
    """The cost of one layer, for one image."""

    name: str
    shape: Shape  # of its output
    parameters: int
    multiply_adds: int  # in convolutions and fully-connected layers
    activation_bytes: int  # of its output, in float32
    # Pixels that one output sees in one direction, in an image without borders. After a
    # fully-connected layer these are all pixels of the image.
    receptive_field: int


def costs(net: Net, image_size: int | None = None) -> list[LayerCost]:
    """VGG Table 2: the cost of every layer, in the order of computation.

    `image_size` is that of a larger image, over which a dense or gap head slides.
    """
    shapes, params = net.shapes(image_size), net.param_shapes()
    size = image_size or net.image_size
    shape: Shape = (size, size, 3)
    field, jump = 1, 1  # pixels that an output sees, and between neighbouring outputs
    layer_costs = []
    for layer in net.layers():
        if layer.window is None:
            field = size
        else:
            window, stride = layer.window
            field, jump = field + (window - 1) * jump, jump * stride
        layer_costs.append(
            LayerCost(
                name=layer.name,
                shape=shapes[layer.name],
                parameters=sum(p.size for p in params.get(layer.name, {}).values()),
                multiply_adds=layer.multiply_adds(shape),
                activation_bytes=math.prod(shapes[layer.name]) * FLOAT32_BYTES,
                receptive_field=field,
            )
        )
        shape = shapes[layer.name]
    return layer_costs


def table(name: str, net: Net, image_size: int | None = None) -> Table:
    """The costs as a table, with their sums."""
    size = image_size or net.image_size
    title = f"{name}, one image of {size}x{size}x3"
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
    layer_costs = costs(net, image_size)
    for cost in layer_costs:
        drawn.add_row(
            cost.name,
            "x".join(map(str, cost.shape)),
            f"{cost.parameters:,}" if cost.parameters else "",
            f"{cost.multiply_adds:,}" if cost.multiply_adds else "",
            f"{cost.activation_bytes:,}",
            f"{cost.receptive_field}",
        )
    drawn.add_section()
    drawn.add_row(
        "total",
        "",
        f"{sum(cost.parameters for cost in layer_costs):,}",
        f"{sum(cost.multiply_adds for cost in layer_costs):,}",
        f"{sum(cost.activation_bytes for cost in layer_costs):,}",
        "",
    )
    return drawn
