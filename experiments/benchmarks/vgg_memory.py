"""Benchmark: where the memory of training VGG's net D goes, and what remat saves.

On 32 images of 224 pixels. By layer: the parameters, and the outputs that a training
step computes. In all: the memory of a training step as the compiler reports it, with
all activations kept and with those between poolings computed again (remat), for the
paper's head and for global average pooling. Nothing is trained.

    python experiments/benchmarks/vgg_memory.py         # minutes: the compiler's
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
from _records import OUT, Result, origin, table, write

from alexvgg_jax import memory
from alexvgg_jax.errors import one_line
from alexvgg_jax.models import summary
from alexvgg_jax.models.vgg import VGG

MIB = 2**20


@dataclass(frozen=True)
class Options:
    batch: int = 32
    size: int = 224  # pixels
    width: float = 1.0  # factor of the kernels
    out: Path = OUT  # folder for vgg_memory.json and its tables


def layers(net: VGG, batch: int) -> dict[str, dict[str, float]]:
    """The MiB of each layer's parameters and of its outputs for a batch."""
    return {
        cost.name: {
            "parameters": cost.parameters * summary.FLOAT32_BYTES / MIB,
            "outputs": batch * cost.activation_bytes / MIB,
        }
        for cost in summary.costs(net)
    }


def steps(net: VGG, batch: int) -> dict[str, dict[str, float]]:
    """The MiB of a training step by head, with and without remat."""
    nets = {
        f"{head}, {'remat' if remat else 'kept'}": replace(net, head=head, remat=remat)
        for head in ("fc", "gap")
        for remat in (False, True)
    }
    return {
        name: {k: v / MIB for k, v in memory.of_training(each, batch)._asdict().items()}
        for name, each in nets.items()
    }


def page(result: Result) -> str:
    """The two tables."""
    options = result["options"]
    images = f"{options['batch']} images of {options['size']} pixels"
    of_layers = (
        (name, *(f"{value:,.1f}" for value in parts.values()))
        for name, parts in result["layers"].items()
    )
    of_steps = (
        (name, *(f"{value:,.0f}" for value in parts.values()))
        for name, parts in result["steps"].items()
    )
    by_layer = f"vgg-d, {images}: MiB by layer"
    by_head = f"vgg-d, {images}: MiB of a training step, by head"
    first = next(iter(result["steps"].values()))
    return "\n".join(
        (
            table(by_layer, ("layer", "parameters", "outputs"), of_layers),
            table(by_head, ("head", *first), of_steps),
        )
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    net = VGG(column="D", image_size=options.size, width=options.width)
    shown = {k: v for k, v in asdict(options).items() if k != "out"}
    result = origin("vgg_memory") | {
        "options": shown,
        "layers": layers(net, options.batch),
        "steps": steps(net, options.batch),
    }
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
