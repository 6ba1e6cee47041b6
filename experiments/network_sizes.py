"""AlexNet §3.5, One weird trick, VGG Table 1, VGG Table 2, VGG §2.3: counts of nets.

Nothing is trained. Layers, parameters and computation follow from the nets' shapes.

Verdict: counted if every count is within 2% of the published figure, which the papers
round; it contradicts here otherwise.

    python experiments/network_sizes.py
"""

import math

import jax
import jax.numpy as jnp
from rich.console import Console

from alexvgg_jax import models, paper
from alexvgg_jax.models import Net, summary
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import Finding, Result, Verdict

COLUMNS = ("A", "A-LRN", "B", "C", "D", "E")


def parameters(net: Net) -> int:
    return sum(p.size for layer in net.param_shapes().values() for p in layer.values())


def neurons(net: Net) -> int:
    """Return the number of outputs of all layers that have parameters."""
    shapes = net.shapes()
    return sum(math.prod(shapes[layer]) for layer in net.param_shapes())


def shares(net: Net) -> dict[str, Figure]:
    """Return where the computation and the parameters of a net are."""
    layers = summary.costs(net)
    convolutions = [layer for layer in layers if layer.name.startswith("conv")]
    dense = [layer for layer in layers if layer.name.startswith("fc")]
    computed = sum(layer.multiply_adds for layer in convolutions)
    held = sum(layer.parameters for layer in dense)
    return {
        "computation in convolutions, at least": Figure(
            100 * computed / sum(layer.multiply_adds for layer in layers), "%"
        ),
        "parameters in fully-connected layers": Figure(
            100 * held / parameters(net), "%"
        ),
    }


def stacks() -> dict[str, Figure]:
    """Return what stacks of 3x3 convolutions see, and the weights of three of them and
    of one layer that sees as much."""
    kernels = [p["kernel"] for p in models.build("vgg-e").param_shapes().values()]
    three = [kernel for kernel in kernels if kernel.shape == (3, 3, 256, 256)]
    small = sum(kernel.size for kernel in three) / 256**2
    two_see, three_see = (1 + (seen(f"conv3_{i}") - seen("pool2")) / 4 for i in (2, 3))
    return {
        "more weights in the 7x7 layer": Figure(100 * (three_see**2 / small - 1), "%"),
        "weights of three 3x3 layers": Figure(small, "C^2"),
        "weights of one 7x7 layer": Figure(three_see**2, "C^2"),
        "side that two 3x3 layers see": Figure(two_see, "pixels"),
        "side that three 3x3 layers see": Figure(three_see, "pixels"),
    }


def seen(layer: str) -> int:
    """Return the side of the pixels that reach one output of a layer of VGG's net E,
    measured from its gradient.

    Tanh and averages pass every gradient on, unlike ReLU and maxima.
    """
    switches = {"activation": "tanh", "pool": "average"}
    net = models.build("vgg-e", image_size=64, width=1 / 64, **switches)
    params = net.init(jax.random.key(0))

    def middle(images: jax.Array) -> jax.Array:
        maps, _ = net.apply(params, images, train=False, until=layer)
        return maps[0, maps.shape[1] // 2, maps.shape[2] // 2].sum()

    gradient = jax.grad(middle)(jnp.zeros((1, *net.input_shape)))
    return int((gradient != 0).any(axis=(0, 2, 3)).sum())


def counts() -> dict[str, dict[str, Figure]]:
    """Return our figures, by tag of the claim."""
    alexnet = models.build("alexnet-paper")
    vgg = {column: models.build(f"vgg-{column.lower()}") for column in COLUMNS}
    return {
        "AlexNet §3.5": {
            "parameters": Figure(parameters(alexnet)),
            "neurons": Figure(neurons(alexnet)),
        },
        "One weird trick": shares(models.build("alexnet-owt")),
        "VGG Table 1": {
            f"{column}, weight layers": Figure(len(net.param_shapes()))
            for column, net in vgg.items()
        },
        "VGG Table 2": {
            column: Figure(parameters(net) / 1e6, "million")
            for column, net in vgg.items()
        },
        "VGG §2.3": stacks(),
    }


def judge(tag: str, ours: dict[str, Figure]) -> Finding:
    """Apply the rule above."""
    published = paper.claim(tag).published
    close = all(
        math.isclose(figure.value, published[name].value, rel_tol=0.02)
        for name, figure in ours.items()
    )
    return Finding(ours, Verdict("counted" if close else "contradicts here"))


def result() -> Result:
    """Return a result without records."""
    findings = {tag: judge(tag, ours) for tag, ours in counts().items()}
    return Result("network_sizes", {}, findings)


if __name__ == "__main__":
    from _session import tables

    Console().print(*tables(result()), sep="\n")
