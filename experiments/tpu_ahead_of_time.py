"""Benchmark: what a training step costs on a TPU v5e, from the compiler, without a TPU.

The whole step of AlexNet and VGG (crop, mirror, colour, loss, gradients, the update) in
bfloat16 is compiled ahead of time for one v5e chip. The compiler says how many
operations and bytes of memory traffic it takes, how much memory, and after how many
seconds its model of the chip is done. From that comes a bound of the speed, not a
measurement. A step whose traffic takes longer at the chip's bandwidth than its
operations at its peak is bound by memory.

AlexNet's parts are found by leaving them out: its response normalisation, or its first
convolution in the form that TPUs are said to like (space to depth, MLPerf's ResNet-50).

    pip install 'jax[tpu]' && pip install -e .     # in an environment of its own
    python experiments/tpu_ahead_of_time.py
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _tpu
import jax.numpy as jnp
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexvgg_jax import config, report
from alexvgg_jax.errors import one_line, short_usage
from alexvgg_jax.mesh import make_mesh
from alexvgg_jax.models import Model, build
from alexvgg_jax.models.layers import Conv

# cloud.google.com/tpu/docs/v5e: bfloat16 operations and bytes a second
PEAK, BANDWIDTH = 197e12, 819e9


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...] = ("alexnet-paper", "vgg-d")  # rows of MODELS
    batches: tuple[int, ...] = (128, 256, 512, 1024)  # images a step
    out: Path = Path("results")  # folder for tpu_ahead_of_time.json and its table


class SpaceToDepth(Conv):
    """A convolution of stride s as one of stride 1 over s x s pixels in one place."""

    def __call__(self, x, *, train, key):
        s, cells = self.stride, -(-self.size // self.stride)
        rows, columns, maps = self.output(x.shape[1:])
        size = [(n - 1 + cells) * s for n in (rows, columns)]
        spare = [(0, n - given) for n, given in zip(size, x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *spare, (0, 0)))
        batch, channels = len(x), x.shape[3]
        x = x.reshape(batch, size[0] // s, s, size[1] // s, s, channels)
        x = x.swapaxes(2, 3).reshape(batch, size[0] // s, size[1] // s, -1)
        inner = Conv(self.name, maps, cells, init=self.init, bias=self.bias)
        return inner(x, train=train, key=key)


def variants(name: str) -> dict[str, Model]:
    """The net, and AlexNet without one of its parts or with another form of it."""
    net = build(name, compute="bfloat16")
    if name != "alexnet-paper":
        return {"": net}
    order = "act pool"
    first = net.rows[0]
    assert isinstance(first, Conv)
    stem = SpaceToDepth(first.name, first.features, first.size, first.stride)
    return {
        "": net,
        "without LRN": build(name, compute="bfloat16", layer1=order, layer2=order),
        "conv1 space to depth": replace(net, rows=(stem, *net.rows[1:])),
    }


def cost(net: Model, batch: int, mesh: Mesh) -> dict[str, float] | None:
    """What the compiler says of one training step; None if it does not fit the chip."""
    if (compiled := _tpu.compiled(net, batch, mesh)) is None:
        return None
    costs = _tpu.costs(compiled)
    return {
        "batch": batch,
        **costs,
        "images a second": batch / costs["optimal seconds"],
        "seconds of operations": costs["operations"] / PEAK,
        "seconds of traffic": costs["bytes"] / BANDWIDTH,
    }


def table(result: dict[str, Any]) -> Table:
    drawn = Table(
        title=f"one TPU v5e, bfloat16, as jax {result['machine']['jax']} plans"
    )
    for heading in (
        "net",
        "batch",
        "GFLOP",
        "GB of\ntraffic",
        "GiB of\nmemory",
        "optimal\nms",
        "images/s\nat most",
        "bound by",
    ):
        drawn.add_column(heading, justify="right" if heading != "net" else "left")
    for net, rows in result["nets"].items():
        for batch, row in rows.items():
            if row is None:
                drawn.add_row(net, batch, *[""] * 5, "too large")
                continue
            bound = row["seconds of traffic"] > row["seconds of operations"]
            drawn.add_row(
                net,
                batch,
                f"{row['operations'] / 1e9:,.0f}",
                f"{row['bytes'] / 1e9:,.1f}",
                f"{row['memory, bytes'] / 2**30:.1f}",
                f"{1e3 * row['optimal seconds']:.1f}",
                f"{row['images a second']:,.0f}",
                "memory" if bound else "operations",
            )
    return drawn


def main() -> None:
    with short_usage():
        given = tyro.cli(Options, description=__doc__)
    (chip, *_) = _tpu.chips("v5e:2x4")
    mesh = make_mesh(config.Mesh(), [chip])
    nets = {
        f"{name}, {variant}".removesuffix(", "): net
        for name in given.nets
        for variant, net in variants(name).items()
    }
    result: dict[str, Any] = {
        "name": "tpu_ahead_of_time",
        "command": report.command(),
        "commit": report.commit(),
        "machine": report.machine() | {"compiled for": chip.device_kind},
        "nets": {name: {} for name in nets},
    }
    jobs = [(name, batch) for name in nets for batch in given.batches]
    for name, batch in track(jobs, "compiling", console=Console(stderr=True)):
        result["nets"][name][str(batch)] = cost(nets[name], batch, mesh)
    path = given.out / "tpu_ahead_of_time.json"
    report.write_json(result, path)
    report.write_table(table(result), path.with_suffix(".txt"), width=120)
    print(path.with_suffix(".txt").read_text(encoding="utf-8"))
    print(f"wrote {path}, and beside it the table (.txt)")


if __name__ == "__main__":
    with one_line():
        main()
