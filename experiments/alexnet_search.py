"""Search: does a better `alexnet-small` than the paper's lie near it?

Optuna's tree-structured Parzen estimator over the rate, the weight decay, dropout, the
width of the classifier, the crop, the colour noise and LRN's alpha. A trial trains by a
short schedule (nine epochs, whatever --epochs), is tested on a tenth of the training
images, which it does not see, and is stopped after two or four epochs if its lowest
error is above the median that the completed trials had by then, once there are five.
The best is trained again by the whole schedule (or --epochs), on all training images,
beside the paper's settings with the same seeds; the test set is first looked at then.
No claim of the paper.

The study is a SQLite file beside the runs: a search that was cut short goes on with its
trials, and `--resume --trials 60` adds more.

    pip install -e '.[search]'
    python experiments/alexnet_search.py                # digits
    python experiments/alexnet_search.py --data cifar10
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from _arms import SMALL, Experiment, Options, alone, options, scaled, switched
from _figures import TEST, each

from alexvgg_jax import report
from alexvgg_jax.config import Augment, Run
from alexvgg_jax.errors import Diverged, InputError, one_line

try:
    import optuna
    import sqlalchemy
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError
except ModuleNotFoundError:
    raise SystemExit("error: the search needs pip install -e '.[search]'") from None

PAPERS, BEST = "the paper's settings", "best found"
State = optuna.trial.TrialState
ENDED = (State.COMPLETE, State.PRUNED)
RUNGS = (2, 4, 9)  # epochs after which a trial can be stopped; the last is its end
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


def brief(point: dict[str, Any], experiment: Experiment) -> Run:
    """By the short schedule, on the training images but those held out."""
    run = scaled(run_of(point), RUNGS[-1])
    held_out = int(HELD_OUT * experiment.source.count)
    return replace(run, data=replace(run.data, held_out=held_out))


def objective(trial: optuna.Trial, number: int, experiment: Experiment) -> float:
    """The error on the held-out images at the end of the short schedule, in %."""
    run = brief(suggest(trial), experiment)
    for epochs in RUNGS:
        try:
            name = f"trial {number}, {epochs} epochs"
            history = experiment.history(name, replace(run, epochs=epochs))
        except Diverged:
            raise optuna.TrialPruned from None
        error = history[-1].test_error
        trial.report(error, epochs)
        if epochs < RUNGS[-1] and trial.should_prune():
            raise optuna.TrialPruned
    return error


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[optuna.Study]:
    """The study of that name in a file. What SQLite cannot read or write there is one
    line: it is no data base, or the disk is full."""
    engine = {"poolclass": sqlalchemy.NullPool}  # leaves no file open
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=engine)
        yield optuna.create_study(
            storage=storage, study_name=name, load_if_exists=True, pruner=pruner
        )
    except (sqlalchemy.exc.DatabaseError, StorageInternalError) as error:
        raise InputError(f"{path}: {(error.__cause__ or error).args[0]}") from None


def search(study: optuna.Study, trials: int, experiment: Experiment) -> None:
    """Go on to so many trials, those that were cut short begun again."""
    ended = study.get_trials(states=ENDED)
    if len(ended) > trials:
        raise InputError(f"--trials {trials}: the study has {len(ended)}")
    if not study.get_trials(states=(*ENDED, State.WAITING)):
        study.enqueue_trial(PAPER)
    for number, trial in enumerate(ended):  # whose seconds and commits count
        if trial.last_step is not None:
            run = replace(brief(trial.params, experiment), epochs=trial.last_step)
            experiment.history(f"trial {number}", run)
    for number in range(len(ended), trials):
        # Which point comes next depends on the ended trials before it alone, so that
        # of one that was cut short comes again.
        study.sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=8)
        trial = study.ask()
        try:
            study.tell(trial, objective(trial, number, experiment))
        except optuna.TrialPruned:
            study.tell(trial, state=State.PRUNED)


def importance(study: optuna.Study) -> dict[str, float]:
    """How much of the error's variance each setting explains, of what all explain."""
    complete = study.get_trials(states=(State.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=fanova)


def draw(result: report.Result, path: Path) -> None:
    """The importance of each setting; the best error so far."""
    from matplotlib.figure import Figure  # 0.5 s to import
    from matplotlib.ticker import MaxNLocator

    points = {
        state: [
            (t["number"], t["error, %"])
            for t in result.arms["trials"]
            if t["state"] == state and t["error, %"] is not None
        ]
        for state in ("COMPLETE", "PRUNED")
    }
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    (importance,) = result.arms["importance"]
    least_first = dict(sorted(importance.items(), key=lambda item: item[1]))
    left.barh(list(least_first), list(least_first.values()), color="C0")
    title = f"importance (fANOVA of {len(points['COMPLETE'])} trials)"
    left.set(title=title, xlabel="share of the explained variance")
    for state, mark in (("COMPLETE", "k."), ("PRUNED", "x")):
        if points[state]:
            label = "completed" if state == "COMPLETE" else "stopped early"
            right.plot(*zip(*points[state], strict=True), mark, label=label)
    numbers, errors = zip(*points["COMPLETE"], strict=True)
    best = [min(errors[: i + 1]) for i in range(len(errors))]
    right.step(numbers, best, where="post", color="C1", label="best so far")
    right.set(title="trials", xlabel="trial", ylabel="held-out error, %")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    title = "; ".join([result.data["set"], *tested(result.arms)])
    figure.suptitle(title, fontsize="medium")
    report.write_figure(figure, path)


def tested(arms: Mapping[str, Any]) -> list[str]:
    """The test error of either setting after the whole schedule, in words."""
    retrained = {arm: arms[arm] for arm in (PAPERS, BEST)}
    return [
        f"{name.removesuffix(', %')}: {report.show(value)}%"
        for name, value in each(retrained, TEST).items()
    ]


def main() -> None:
    given = options(__doc__, SearchOptions())
    if given.trials < 2:
        raise InputError(f"--trials {given.trials}: at least 2")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    experiment = Experiment("alexnet_search", given.shared)
    experiment.needs(brief(PAPER, experiment))
    out, name = given.shared.out, "alexnet_search"
    with (
        alone(out / "runs" / name),
        opened(out / f"{name}.db", experiment.set) as study,
    ):
        search(study, given.trials, experiment)
    if not study.get_trials(states=(State.COMPLETE,)):
        raise InputError(f"--trials {given.trials}: none of them came to its end")
    arms = experiment.arms({PAPERS: SMALL, BEST: run_of(study.best_params)})
    print(*tested(arms), sep="\n")
    arms["settings"] = [{"of": PAPERS} | PAPER, {"of": BEST} | study.best_params]
    arms["importance"] = [importance(study)]
    arms["trials"] = [
        {"number": number, "error, %": t.value, "state": t.state.name} | t.params
        for number, t in enumerate(study.get_trials(states=ENDED))
    ]
    experiment.finish({}, arms, draw)


if __name__ == "__main__":
    with one_line():
        main()
