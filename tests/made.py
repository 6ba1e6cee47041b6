"""Records for tests of what is computed from them."""

from dataclasses import replace
from typing import Any

from _ablation import CHOOSES, Experiment
from _runs import VIEWS, settings_of

from alexvgg_jax.results import GAP, TEST, TOP5, TRAINING, Record

CIFAR10 = {
    "set": "TFDS cifar10/3.0.2, PNG images",
    "classes": 10,
    "train": 50_000,
    "test": 10_000,
    "grey": False,
    "digest": "c1fa",
}


def record(
    experiment: Experiment,
    arm: str,
    seed: int = 0,
    epochs: int = 0,
    data: dict[str, Any] = CIFAR10,
    error: float = 40.0,
    diverged: bool = False,
    extra: dict[str, Any] | None = None,
    curve: list[float] | None = None,
    **figures: float,
) -> Record:
    """A record whose figures are all `error`, with others by name."""
    run = experiment.run(arm, epochs or experiment.first(arm).epochs)
    names = (TEST, TOP5, TRAINING, GAP, *VIEWS.values(), *experiment.measures)
    curve = curve or [60.0, 50.0, error]
    return Record(
        arm=arm,
        seed=seed,
        settings=settings_of(replace(run, seed=seed)),
        data=data,
        commit="0" * 40,
        clean=True,
        machine={"processor": "EPYC", "cores": 2, "devices": "1 cpu"},
        jax="0.10",
        seconds=1.0,
        figures=dict.fromkeys(names, error) | figures,
        curves={TEST: curve, TRAINING: curve},
        diverged=diverged,
        extra=extra or {},
    )


def tries(
    experiment: Experiment, epochs: int = 0, data: dict[str, Any] = CIFAR10
) -> list[Record]:
    """Records of the runs that choose each arm's rate: its own is the best."""
    return [
        replace(
            chosen := record(experiment, arm, CHOOSES, epochs, data),
            settings=chosen.settings
            | {"optim": chosen.settings["optim"] | {"rate": rate}},
            figures=chosen.figures | {TEST: abs(rate - run.optim.rate)},
        )
        for arm, run in experiment.arms.items()
        for rate in experiment.rates
    ]
