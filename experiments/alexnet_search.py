"""Search: does a better `alexnet-small` than the paper's lie near it?

Optuna's tree-structured Parzen estimator over the rate, the weight decay, dropout, the
width of the classifier, the crop, the colour noise and LRN's alpha. A trial trains by a
short schedule, is tested on a tenth of the training images, which it does not see, and
is stopped after two or four epochs if half of the others were better then. The best is
trained again by the whole schedule, on all training images, beside the paper's settings
with the same seeds; the test set is first looked at then. No claim of the paper.

The study is a SQLite file beside the runs: `--resume --trials 60` goes on with it.

    pip install -e '.[search]'
    python experiments/alexnet_search.py                # digits
    python experiments/alexnet_search.py --data cifar10
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import optuna
import tyro
from _arms import SMALL, TEST, Experiment, Options, each, options, scaled, switched

from alexvgg_jax import report
from alexvgg_jax.config import Augment, Data, Run
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.errors import Diverged, InputError, one_line

RUNGS = (2, 4, 8)  # epochs after which a trial can be stopped; the last is its end
HELD_OUT = 0.1  # of the training images
PAPER: dict[str, Any] = {
    "rate": SMALL.optim.rate,
    "weight decay": SMALL.optim.weight_decay,
    "dropout": 0.5,
    "classifier": 1.0,
    "crop": SMALL.augment.crop,
    "colour": SMALL.augment.colour,
    "lrn alpha": 1e-4,
}


@dataclass(frozen=True)
class SearchOptions:
    shared: Annotated[Options, tyro.conf.OmitArgPrefixes] = field(
        default_factory=Options
    )
    trials: int = 30  # of the whole study, those before a --resume included


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """A point of the space, around PAPER."""
    return {
        "rate": trial.suggest_float("rate", 0.002, 0.05, log=True),
        "weight decay": trial.suggest_float("weight decay", 1e-5, 5e-3, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.7),
        "classifier": trial.suggest_float("classifier", 0.25, 2.0, log=True),
        "crop": trial.suggest_int("crop", 24, 32, step=2),
        "colour": trial.suggest_float("colour", 0.0, 0.3),
        "lrn alpha": trial.suggest_float("lrn alpha", 1e-7, 1e-3, log=True),
    }


def run_of(point: dict[str, Any]) -> Run:
    run = switched(
        SMALL,
        dropout=point["dropout"],
        classifier=point["classifier"],
        lrn_alpha=point["lrn alpha"],
    )
    optim = replace(run.optim, rate=point["rate"], weight_decay=point["weight decay"])
    augment = Augment(point["crop"], mirror=True, colour=point["colour"])
    return replace(run, optim=optim, augment=augment)


def objective(trial: optuna.Trial, experiment: Experiment) -> float:
    """The error on the held-out images at the end of the short schedule, in %."""
    data = open_source(Data(experiment.given.data), "train")
    run = scaled(run_of(suggest(trial)), RUNGS[-1])
    run = replace(run, data=replace(run.data, held_out=int(HELD_OUT * data.count)))
    error = 100.0
    for epochs in RUNGS:
        try:
            name = f"trial {trial.number}, {epochs} epochs"
            trained = experiment.train(name, replace(run, epochs=epochs))
        except Diverged:
            raise optuna.TrialPruned from None
        error = trained.history[-1].test_error
        trial.report(error, epochs)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


def search(experiment: Experiment, trials: int) -> optuna.Study:
    """The study with so many trials, those that were cut short begun again."""
    given = experiment.given
    given.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{given.out}/alexnet_search.db",
        study_name=Path(given.data).name,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    if not study.trials:
        study.enqueue_trial({**PAPER})
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=ended)) < trials:
        study.optimize(lambda trial: objective(trial, experiment), n_trials=1)
    return study


def importance(study: optuna.Study) -> dict[str, float]:
    """How much of the variance of the error each setting explains."""
    if len({trial.value for trial in study.get_trials() if trial.value}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def draw(result: dict[str, Any], path: Path) -> None:
    """How much of the error's variance each setting explains; the best so far."""
    from matplotlib.figure import Figure  # 0.5 s to import

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    importance = dict(sorted(result["importance"].items(), key=lambda item: item[1]))
    left.barh(list(importance), list(importance.values()), color="C0")
    left.set(title="importance (fANOVA)", xlim=(0, None))
    ended = [t for t in result["trials"] if t["error, %"] is not None]
    right.plot([t["number"] for t in ended], [t["error, %"] for t in ended], "k.")
    best = [min(t["error, %"] for t in ended[: i + 1]) for i in range(len(ended))]
    right.step([t["number"] for t in ended], best, where="post", color="C1")
    right.set(title="held-out error, %, and the best so far", xlabel="trial")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    given = options(__doc__, SearchOptions())
    if given.trials < 2:
        raise InputError(f"--trials {given.trials}: at least 2")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    experiment = Experiment("alexnet_search", given.shared)
    study = search(experiment, given.trials)
    arms = experiment.arms({"paper": SMALL, "best found": run_of(study.best_params)})
    result = {
        "name": experiment.name,
        "command": report.command(),
        "commit": experiment.commit,
        "machine": report.machine(),
        "data": given.shared.data,
        "best": study.best_params,
        "paper": PAPER,
        "importance": importance(study),
        "trials": [
            {"number": t.number, "error, %": t.value, "state": t.state.name} | t.params
            for t in study.trials
        ],
        "arms": arms,
    }
    path = given.shared.out / "alexnet_search.json"
    report.write_json(result, path)
    draw(result, path.with_suffix(".png"))
    for name, value in each(arms, TEST).items():
        print(f"{name[:-3]}: {report.show(value)}%")
    print(f"wrote {path}, and beside it the plot (.png) and the study (.db)")


if __name__ == "__main__":
    with one_line():
        main()
