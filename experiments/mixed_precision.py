"""Benchmark: training in bfloat16 beside float32, the loss curves of the same runs.

Products and activations in bfloat16; parameters, their gradients, normalisation and the
loss in float32. Seeds, batches and noise are the same in both. Made for GPUs and TPUs,
whose bfloat16 is several times as fast; the curves can be drawn anywhere.

    python experiments/mixed_precision.py                  # the 18% net on digits
    python experiments/mixed_precision.py --data cifar10
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from _arms import Options, options

from alexvgg_jax import loop, report
from alexvgg_jax.config import RECIPES, Compute
from alexvgg_jax.errors import InputError, one_line


def draw(result: dict[str, Any], path: Path) -> None:
    """Training loss against epochs."""
    report.plot_curves(
        [
            report.Curve(compute, style, [seed["curve"] for seed in seeds])
            for (compute, seeds), style in zip(
                result["arms"].items(), ("-", "--"), strict=True
            )
        ],
        path,
        title=f"cifar-18pct, {result['data']}",
        x="epochs",
        y="training loss, nats",
    )


def main() -> None:
    given = options(__doc__, Options(epochs=20, seeds=2))
    _, recipe = RECIPES["cifar-18pct"]
    runs = given.out / "runs" / f"mixed_precision-{Path(given.data).name}"
    if not given.resume and runs.exists():
        raise InputError(
            f"{runs} is there: --resume goes on, another --out starts anew"
        )
    arms: dict[str, list[dict[str, Any]]] = {}
    for compute in get_args(Compute):
        arms[compute] = []
        for seed in range(given.seeds):
            loop.console.rule(f"{compute}, seed {seed}", align="left")
            run = replace(
                recipe,
                data=replace(recipe.data, name=given.data),
                model=replace(recipe.model, compute=compute),
                epochs=given.epochs,
                seed=seed,
                devices=given.devices,
            )
            folder = runs / compute / f"seed{seed}"
            resume = (folder / "run.json").exists()
            history = loop.train(run, folder, resume=resume).history
            arms[compute].append(
                {
                    "seed": seed,
                    "test error, %": history[-1].test_error,
                    "seconds": sum(epoch.seconds for epoch in history),
                    "curve": [(float(e.epoch), e.train_loss) for e in history],
                }
            )
    result = {
        "name": "mixed_precision",
        "command": report.command(),
        "commit": report.commit(),
        "machine": report.machine(),
        "data": given.data,
        "arms": arms,
    }
    path = given.out / "mixed_precision.json"
    report.write_json(result, path)
    draw(result, path.with_suffix(".png"))
    for compute, seeds in arms.items():
        errors = ", ".join(f"{seed['test error, %']:.2f}%" for seed in seeds)
        print(f"{compute}: test error {errors}")
    print(f"wrote {path}, and beside it the plot (.png)")


if __name__ == "__main__":
    with one_line():
        main()
