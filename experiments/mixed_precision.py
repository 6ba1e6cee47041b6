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

from _arms import Experiment, Options, options

from alexvgg_jax import report
from alexvgg_jax.config import RECIPES, Compute
from alexvgg_jax.errors import one_line


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
    experiment = Experiment("mixed_precision", given)
    _, recipe = RECIPES["cifar-18pct"]
    arms: dict[str, list[dict[str, Any]]] = {}
    for compute in get_args(Compute):
        model = replace(recipe.model, compute=compute)
        arms[compute] = []
        for seed in range(given.seeds):
            run = replace(recipe, model=model, epochs=given.epochs, seed=seed)
            history = experiment.train(compute, run).history
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
        "commit": experiment.commit,
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
