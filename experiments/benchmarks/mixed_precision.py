"""Benchmark: training in bfloat16 against float32, the loss curves of the same runs.

Activations and products are bfloat16. Parameters, gradients, normalisation and the loss
stay float32. Both runs of a seed have the same batches and the same noise. GPUs and
TPUs multiply several times as fast in bfloat16; the curves can be drawn anywhere.

    python experiments/benchmarks/mixed_precision.py        # 18% net, digits, 20 epochs
    python experiments/benchmarks/mixed_precision.py --data cifar10
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import tyro
from _records import OUT, Result, origin, table, write

from alexvgg_jax import loop, plots
from alexvgg_jax.errors import one_line
from alexvgg_jax.models import Compute
from alexvgg_jax.recipes import RECIPES

NET, TEST = "cifar-18pct", "test error, %"


@dataclass(frozen=True)
class Options:
    data: str = "digits"  # or a TFDS name, such as cifar10
    epochs: int = 20  # of each run
    seeds: int = 2  # runs of each dtype
    out: Path = OUT  # folder for mixed_precision.json, its table and its plot


def train(options: Options, compute: Compute, seed: int) -> Result:
    """The final test error, the seconds, and the training loss after each epoch."""
    run = RECIPES[NET].run
    net, data = replace(run.net, compute=compute), replace(run.data, name=options.data)
    run = replace(run, net=net, data=data, epochs=options.epochs, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        history = loop.train(run, Path(folder, "run")).history
    return {
        "seed": seed,
        TEST: history[-1].test_error,
        "seconds": sum(epoch.seconds for epoch in history),
        "curve": [(epoch.epoch, epoch.train_loss) for epoch in history],
    }


def page(result: Result) -> str:
    rows = [
        (dtype, str(seed["seed"]), f"{seed[TEST]:.2f}", f"{seed['seconds']:,.0f}")
        for dtype, seeds in result["arms"].items()
        for seed in seeds
    ]
    title = f"{NET} on {result['data']['set']}, jax {result['machine']['jax']}"
    return table(title, ("dtype", "seed", TEST, "seconds"), rows)


def draw(result: Result, path: Path) -> None:
    figure = plots.new_figure()
    axes = figure.subplots()
    for dtype, style in (("float32", "C0"), ("bfloat16", "C1--")):
        for i, seed in enumerate(result["arms"][dtype]):
            label = None if i else dtype
            axes.plot(*zip(*seed["curve"], strict=True), style, label=label)
    axes.set(xlabel="epochs", ylabel="training loss, nats", xlim=(0, None))
    axes.set_ylim(0, None)
    axes.set_title(f"{NET} on {result['data']['set']}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    plots.write_figure(figure, path)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    result = origin("mixed_precision") | {
        "data": {"set": options.data, "epochs": options.epochs},
        "arms": {
            compute: [train(options, compute, seed) for seed in range(options.seeds)]
            for compute in get_args(Compute)
        },
    }
    write(result, page(result), options.out)
    draw(result, options.out / "mixed_precision.png")


if __name__ == "__main__":
    with one_line():
        main()
