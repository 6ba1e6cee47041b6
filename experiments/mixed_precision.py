"""Benchmark: training in bfloat16 beside float32, the loss curves of the same runs.

Products and activations in bfloat16; parameters, their gradients, normalisation and the
loss in float32. Seeds, batches and noise are the same in both; the rate stays the first
of the net's schedule. Made for GPUs and TPUs,
whose bfloat16 is several times as fast; the curves can be drawn anywhere.

    python experiments/mixed_precision.py                  # the 18% net on digits
    python experiments/mixed_precision.py --data cifar10
"""

from dataclasses import replace
from typing import Any, get_args

from _arms import Experiment, Options, options
from _figures import TEST, curves

from alexvgg_jax.config import RECIPES, Compute
from alexvgg_jax.errors import one_line

NET, EPOCHS = "cifar-18pct", 20


def main() -> None:
    given = options(__doc__, Options(seeds=2, epochs=EPOCHS))
    given = replace(given, epochs=given.epochs or EPOCHS)
    experiment = Experiment("mixed_precision", given)
    _, recipe = RECIPES[NET]
    experiment.needs(recipe)
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
                    TEST: history[-1].test_error,
                    "seconds": sum(epoch.seconds for epoch in history),
                    "curve": [(float(e.epoch), e.train_loss) for e in history],
                }
            )
    for compute, seeds in arms.items():
        errors = ", ".join(f"{seed[TEST]:.2f}%" for seed in seeds)
        print(f"{compute}: test error {errors}")
    experiment.finish(
        {}, arms, curves(y="training loss, nats", dashed=("bfloat16",), title=NET)
    )


if __name__ == "__main__":
    with one_line():
        main()
