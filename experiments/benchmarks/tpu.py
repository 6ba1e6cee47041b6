"""Benchmark: the cost of a training step on TPUs, from the TPU compiler alone.

No TPU is needed, and nothing runs. The step of AlexNet and VGG in bfloat16 (crop,
mirror, colour, loss, gradients, update) is compiled for TPU v5e: for one chip, and for
slices of 8, 32 and 256 chips. A slice splits the batch, or AlexNet's towers too
(AlexNet §3.2), or groups of four chips share the fully-connected layers (One weird
trick).

The compiler counts a chip's operations and memory traffic, and estimates the time of
its own work. `alexvgg_jax/ledger.py` counts the bytes that a chip receives. The columns
"operations", "memory" and "exchange" are the milliseconds that these take at the chip's
peak: the longest of them bounds the speed. The work and the exchange overlap in part,
so a step takes at least the longer of the two and about their sum at most.

    pip install 'jax[tpu]' && pip install -e .      # in a new environment
    python experiments/benchmarks/tpu.py            # about an hour on two cores
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from _records import OUT, Result, origin, table, write
from jax.experimental import topologies
from rich.console import Console
from rich.progress import track

from alexvgg_jax import ledger
from alexvgg_jax.config import Mesh
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.models import Net, build
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.sharding import make_mesh

# cloud.google.com/tpu/docs/v5e: bfloat16 operations, bytes of memory traffic and bytes
# received, each a second and chip
PEAK, BANDWIDTH, RECEIVING = 197e12, 819e9, 1600e9 / 8
SLICES = {1: "v5e:2x4", 8: "v5e:2x4", 32: "v5e:4x8", 256: "v5e:16x16"}
NO_LRN = ("act", "pool")
NETS: dict[str, Net] = {
    "alexnet-paper": build("alexnet-paper", compute="bfloat16"),
    "alexnet without LRN": build(
        "alexnet-paper", compute="bfloat16", after_conv1=NO_LRN, after_conv2=NO_LRN
    ),
    "vgg-d": build("vgg-d", compute="bfloat16"),
}
ALONE = (128, 256, 512, 1024)  # images a step on one chip
SHARED = {"alexnet-paper": 128, "vgg-d": 32}  # images a step and chip of a slice
SPLITS = {"batch": Mesh(), "groups of 4": Mesh(classifier=4)}
SPLITS["towers"] = Mesh(towers=True)
# libtpu then needs neither a TPU nor the network.
NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_ID": "0",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Options:
    chips: tuple[Literal[1, 8, 32, 256], ...] = (1, 8, 32, 256)  # to compile for
    out: Path = OUT  # folder for tpu.json and its table


@dataclass(frozen=True)
class Job:
    """A step to compile."""

    net: str
    chips: int
    split: str
    batch: int
    mesh: Mesh


def jobs(chips: int) -> list[Job]:
    """The steps for a number of chips.

    On slices, weak scaling keeps the images a chip, and strong scaling the images a
    step on 8 chips.
    """
    if chips == 1:
        return [Job(net, 1, "", batch, Mesh()) for net in NETS for batch in ALONE]
    return [
        Job(net, chips, split, batch, mesh)
        for net, images in SHARED.items()
        for split, mesh in SPLITS.items()
        if not mesh.towers or NETS[net].tower_count == 2
        for batch in sorted({8 * images, chips * images})
    ]


def devices(chips: int) -> list[Any]:
    """TPU chips to compile for. InputError without the compiler."""
    try:
        slice_ = topologies.get_topology_desc(SLICES[chips], "tpu")
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no TPU compiler; pip install 'jax[tpu]': {reason}") from None
    return list(slice_.devices)[:chips]


def cost(job: Job) -> Result | None:
    """The compiler's counts for one chip, or None if the step needs more memory."""
    net, paper = NETS[job.net], RECIPES["alexnet-paper"].run
    mesh = make_mesh(job.mesh, devices(job.chips))
    try:
        with jax.default_device(mesh.devices.flat[0]):
            step = ledger.compiled(net, job.batch, mesh, paper.augment, paper.data.size)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    counts, memory = step.cost_analysis(), step.memory_analysis()
    assert counts is not None and memory is not None
    # Each operation without an estimate (fusions that gather, random bits, collectives)
    # counts as -1 s. The sum of the others is far below 1 s.
    seconds = counts["optimal_seconds"] % 1
    received = ledger.read(step.as_text() or "", net)
    return {
        "operations": counts["flops"],
        "bytes": counts["bytes accessed"],
        "memory, bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "optimal seconds": seconds,
        "operations without an estimate": round(seconds - counts["optimal_seconds"]),
        "bytes received": received.total(),
        "bytes received, least": sum(ledger.least(net, job.batch, mesh).values()),
        "collectives": [e._asdict() | {"bytes": n} for e, n in received.items()],
    }


def page(result: Result) -> str:
    rows = []
    for step in result["steps"]:
        chips = ", ".join(filter(None, (str(step["chips"]), step["split"])))
        cells = ["", "", "", "too large"]
        if cost := step["cost"]:
            work, exchange = cost["optimal seconds"], cost["bytes received"] / RECEIVING
            seconds = cost["operations"] / PEAK, cost["bytes"] / BANDWIDTH, exchange
            speeds = {step["batch"] / t for t in (work + exchange, max(work, exchange))}
            cells = [f"{1e3 * n:.1f}" for n in seconds]
            cells.append(" to ".join(f"{s / 1e3:,.1f}" for s in sorted(speeds)))
        rows.append([step["net"], chips, f"{step['batch']:,}", *cells])
    headings = ("net", "chips", "images\na step")
    headings += ("operations\nms", "memory\nms", "exchange\nms", "1,000\nimages/s")
    title = f"TPU v5e, bfloat16, as jax {result['machine']['jax']} compiles"
    return table(title, headings, rows)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(NO_TPU)
    devices(1)  # InputError without the compiler
    steps = [step for chips in options.chips for step in jobs(chips)]
    result = origin("tpu") | {"compiled for": "TPU v5e"}
    result["steps"] = [
        asdict(step) | {"cost": cost(step)}
        for step in track(steps, "compiling", console=Console(stderr=True))
    ]
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
