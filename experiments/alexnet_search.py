"""Search: does a better `alexnet-small` than the paper's lie near it? (No claim.)

Optuna's tree-structured Parzen estimator searches the rate, the weight decay, dropout,
the width of the classifier, the crop, the colour noise and LRN's alpha. A trial trains
by a short schedule of nine epochs (whatever --epochs), and is tested on a tenth of the
training images, which it does not see. It stops after two or four epochs if its lowest
error is above the median of the completed trials, once there are five. The best
settings and the paper's are then trained by the complete schedule on all training
images, with the same seeds. The test set is first used then.

A trial is a record. A search that was interrupted continues; `--trials 60` adds more.

    pip install -e '.[search]'
    python experiments/alexnet_search.py                # digits
    python experiments/alexnet_search.py --data cifar10
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _ablation import Experiment
from _runs import SMALL, Run, scaled, with_net
from _session import Options, Session, options, run

from alexvgg_jax import plots
from alexvgg_jax.config import Augment
from alexvgg_jax.errors import Diverged, InputError, one_line
from alexvgg_jax.results import TEST, Record, Result, each

if TYPE_CHECKING:
    import optuna

TRIALS, PAPERS, BEST = "trials", "the paper's settings", "best settings"
HELD_OUT = "error on held-out images"
RUNGS = (2, 4, 9)  # epochs after which a trial can be stopped; the last is its end
SHARE = 0.1  # of the training images are held out
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
class SearchOptions(Options):
    trials: int = 30  # in all, with those already recorded


def space() -> dict[str, Any]:
    """Return the range of each setting, around PAPER."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "rate": FloatDistribution(0.002, 0.05, log=True),
        "weight decay": FloatDistribution(1e-5, 5e-3, log=True),
        "dropout": FloatDistribution(0.0, 0.7),
        "classifier": FloatDistribution(0.25, 2.0, log=True),
        "crop": IntDistribution(24, 32, step=2),
        "colour": FloatDistribution(0.0, 0.3),
        "lrn alpha": FloatDistribution(1e-7, 1e-3, log=True),
    }


def run_of(point: dict[str, Any]) -> Run:
    """Return the run with these settings."""
    sizes = {name: point[name] for name in ("dropout", "classifier")}
    rates = {"rate": point["rate"], "weight_decay": point["weight decay"]}
    return replace(
        with_net(SMALL, **sizes, lrn_alpha=point["lrn alpha"]),
        optim=replace(SMALL.optim, **rates),
        augment=Augment(point["crop"], mirror=True, colour=point["colour"]),
    )


def study_of(records: Sequence[Record]) -> "optuna.Study":
    """Return the study whose trials are these records."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    study = optuna.create_study(pruner=pruner)
    for record in records:
        seen = record.curves[TEST]
        values = {epochs: seen[epochs - 1] for epochs in RUNGS if epochs <= len(seen)}
        complete = record.extra["complete"]
        states = optuna.trial.TrialState
        trial = optuna.trial.create_trial(
            params=record.extra["point"],
            distributions=space(),
            intermediate_values={} if record.diverged else values,
            value=record.figures[HELD_OUT] if complete else None,
            state=states.COMPLETE if complete else states.PRUNED,
        )
        study.add_trial(trial)
    return study


def try_next(session: Session, trials: list[Record]) -> Record:
    """Train the next trial, and record it."""
    import optuna

    number, study = len(trials), study_of(trials)
    # The next point depends on the recorded trials alone, so an interrupted trial
    # is tried again.
    study.sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=8)
    if not trials:
        study.enqueue_trial(PAPER)
    trial = study.ask(space())
    short = scaled(run_of(trial.params), RUNGS[-1])
    held_out = int(SHARE * session.data["train"])
    short = replace(short, data=replace(short.data, held_out=held_out))
    history, error, wild, complete = [], 100.0, False, False
    for epochs in RUNGS:
        short = replace(short, epochs=epochs)
        try:
            history = session.train(f"trial {number}", short).history
        except Diverged:
            wild = True
            break
        error = history[-1].test_error
        trial.report(error, epochs)
        complete = epochs == RUNGS[-1]
        if not complete and trial.should_prune():
            break
    extra = {"point": trial.params, "complete": complete}
    record = session.new(TRIALS, short, history, {HELD_OUT: error}, extra)
    return session.add(replace(record, seed=number, diverged=wild))


def search(session: Session, trials: int) -> None:
    """Record all trials, then the best settings and the paper's."""
    digest = session.data["digest"]
    trials_of_all = (r for r in session.records if r.arm == TRIALS)
    known = [r for r in trials_of_all if r.data["digest"] == digest]
    while len(known) < trials:
        known.append(try_next(session, known))
    complete = [record for record in known if record.extra["complete"]]
    if not complete:
        raise InputError(f"--trials {trials}: none of them came to its end")
    best = min(complete, key=lambda record: record.figures[HELD_OUT])
    for seed in session.seeds(PAPERS):
        papers = session.run(PAPERS, seed)
        session.record(PAPERS, papers)
        other = scaled(run_of(best.extra["point"]), papers.epochs)
        session.record(BEST, replace(other, seed=seed))


def select(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records on the newest images; the last of each arm and seed."""
    if not records:
        return {}
    digest = records[-1].data["digest"]
    last = {(r.arm, r.seed): r for r in records if r.data["digest"] == digest}
    arms: dict[str, list[Record]] = {TRIALS: [], PAPERS: [], BEST: []}
    for arm, seed in sorted(last):
        arms[arm].append(last[arm, seed])
    return arms if all(arms.values()) else {}


def correlation(trials: Sequence[Record], setting: str) -> float:
    """Return the rank correlation of a setting with the error (Spearman's)."""
    values = [record.extra["point"][setting] for record in trials]
    errors = [record.figures[HELD_OUT] for record in trials]
    ranks = np.argsort(np.argsort(np.array([values, errors]), axis=1), axis=1)
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def draw(result: Result, path: Path) -> None:
    """Draw each setting's correlation with the error, and the trials."""
    complete = [r for r in result.arms[TRIALS] if r.extra["complete"]]
    stopped = [r for r in result.arms[TRIALS] if not r.extra["complete"]]
    figure = plots.new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    if len(complete) > 2:
        ranked = {name: correlation(complete, name) for name in PAPER}
        ranked = dict(sorted(ranked.items(), key=lambda item: abs(item[1])))
        left.barh(list(ranked), list(ranked.values()))
    left.set(title=f"{len(complete)} complete trials", xlabel="rank correlation")
    kinds = ((complete, "k.", "complete"), (stopped, "x", "stopped"))
    for records, mark, label in kinds:
        errors = [record.figures[HELD_OUT] for record in records]
        right.plot([record.seed for record in records], errors, mark, label=label)
    errors = [record.figures[HELD_OUT] for record in complete]
    best = np.minimum.accumulate(errors)
    right.step([r.seed for r in complete], best, where="post", label="best so far")
    right.set(title="trials", xlabel="trial", ylabel=f"{HELD_OUT}, %")
    right.legend(frameon=False)
    tested = {arm: result.arms[arm] for arm in (PAPERS, BEST)}
    text = "; ".join(f"{name}: {error}" for name, error in each(tested, TEST).items())
    figure.suptitle(f"{result.records[0].data['set']}\n{text}", fontsize="medium")
    plots.write_figure(figure, path)


EXPERIMENT = Experiment(
    "alexnet_search",
    __doc__,
    arms={PAPERS: SMALL},
    judge=lambda _: {},
    draw=draw,
    select=select,
)

if __name__ == "__main__":
    with one_line():
        chosen = options(__doc__, SearchOptions())
        if chosen.trials < 2:
            raise InputError(f"--trials {chosen.trials}: at least 2")
        try:
            import optuna
        except ModuleNotFoundError:
            raise InputError("the search needs pip install -e '.[search]'") from None
        run(replace(EXPERIMENT, train=partial(search, trials=chosen.trials)), chosen)
