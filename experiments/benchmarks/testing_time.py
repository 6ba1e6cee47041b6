"""Benchmark: dense evaluation against 50 crops, beside what arithmetic predicts.

VGG §3.2: dense evaluation computes what crops share only once. The prediction is the
ratio of multiply-adds, the measurement is the ratio of times, in alternating rounds.

    python experiments/benchmarks/testing_time.py                    # VGG-A, an eighth
    python experiments/benchmarks/testing_time.py --net vgg-d --width 1
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _records import OUT, Result, origin, table, write

from alexvgg_jax import protocols
from alexvgg_jax.errors import one_line
from alexvgg_jax.models import Net, build
from alexvgg_jax.protocols import Protocol
from alexvgg_jax.step import compiler_options

COMPARED: tuple[Protocol, ...] = ("centre", "dense", "multi-crop")


@dataclass(frozen=True)
class Options:
    net: str = "vgg-a"  # a VGG
    width: float = 0.125  # factor of its kernels and units
    scale: int = 256  # pixels of the short side; the long side is a third longer
    batch: int = 1  # images at a time
    rounds: int = 5  # each times every protocol once
    out: Path = OUT  # folder for testing_time.json and its table


def seconds(net: Net, options: Options) -> dict[Protocol, list[float]]:
    """The seconds of each protocol for a batch, in every round."""
    shape = (options.scale, 4 * options.scale // 3)
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    params, mean = net.init(jax.random.key(0)), jnp.zeros((1, 1, 3))
    runs: dict[Protocol, Callable[[], object]] = {}
    for protocol in COMPARED:
        batch = protocols.pictures(net, protocol, [photo] * options.batch, shape)
        how = partial(protocols.probabilities, net, protocol)
        run = jax.jit(how, compiler_options=compiler_options())
        runs[protocol] = partial(run, params, jax.device_put(batch), mean)
        jax.block_until_ready(runs[protocol]())
    taken: dict[Protocol, list[float]] = {protocol: [] for protocol in runs}
    for _ in range(options.rounds):
        for protocol, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken[protocol].append(time.perf_counter() - start)
    return taken


def page(result: Result) -> str:
    rows = []
    crops = result["protocols"]["multi-crop"]
    for name, figures in result["protocols"].items():
        predicted = crops["multiply-adds"] / figures["multiply-adds"]
        measured = median(crops["seconds"]) / median(figures["seconds"])
        rows.append(
            (
                name,
                f"{figures['multiply-adds']:,}",
                f"{median(figures['seconds']):.3f}",
                f"{predicted:.1f}",
                f"{measured:.1f}",
            )
        )
    height, width = result["image"]
    title = (
        f"{result['net']}, width {result['width']}, {result['batch']} images of "
        f"{height}x{width}, jax {result['machine']['jax']}"
    )
    headings = (
        "protocol",
        "multiply-adds an image",
        "seconds",
        "predicted",
        "measured",
    )
    return table(f"{title}\nHow many times less than 50 crops:", headings, rows)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    net = build(options.net, width=options.width)
    shape = (options.scale, 4 * options.scale // 3)
    result = origin("testing_time") | {
        "net": options.net,
        "width": options.width,
        "batch": options.batch,
        "image": shape,
        "protocols": {
            protocol: {
                "multiply-adds": protocols.cost(net, protocol, *shape),
                "seconds": taken,
            }
            for protocol, taken in seconds(net, options).items()
        },
    }
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
