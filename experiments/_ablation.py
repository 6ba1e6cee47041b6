"""Experiments as data: nets, what is measured, how claims are judged, a picture.

`_session.py` trains what an experiment's file of records lacks. Tables, verdicts and
plots come from that file alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _runs import (
    VIEWS,
    Measured,
    Run,
    Trained,
    Views,
    at_rate,
    describe,
    same_run,
    scaled,
)

from alexvgg_jax import paper, plots, results
from alexvgg_jax.config import Data
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding, Record, Result, Verdict

if TYPE_CHECKING:
    from _session import Session

DIGITS, DIGITS_EPOCHS = "scikit-learn's digits", 60  # an epoch of them has 11 steps
CIFAR10 = "TFDS cifar10/"  # how the name of that set begins

CHOOSES = 1000  # the seed whose runs choose a rate, and decide nothing else

Draw = Callable[[Result, Path], None]


@dataclass(frozen=True)
class Experiment:
    """A protocol: nets, what is measured, how claims are judged, and a picture."""

    name: str
    about: str | None  # the protocol in words, for --help
    arms: Mapping[str, Run]
    judge: Callable[[Arms], dict[str, Finding]]  # by tag of the claim
    draw: Draw
    seeds: int = 3
    # Experiments with a net in common differ in their seeds, and so in their luck.
    first_seed: int = 0
    rates: tuple[float, ...] = ()  # each arm is trained at the best of these
    digits_epochs: int = DIGITS_EPOCHS  # of the first arm on digits
    few_seeds: Mapping[str, int] = field(default_factory=dict)  # arms with fewer
    views: tuple[Views, ...] = ()
    measure: Callable[[Trained], Measured] | None = None  # beside the errors
    measures: tuple[str, ...] = ()  # names of its figures
    train: Callable[["Session"], None] | None = None  # other than every arm and seed
    images: Callable[[Data], dict[str, Any]] = describe  # what a record says of them
    # Which records are shown; those of the arms' settings if there is no function.
    select: Callable[[Sequence[Record]], dict[str, list[Record]]] | None = None
    # The experiment that records are of, where options choose its nets.
    of_records: Callable[[Sequence[Record]], "Experiment"] | None = None
    independent: bool = False  # arms are not compared with each other
    partial: bool = False  # not every arm needs a record
    cifar10: tuple[str, ...] = ()  # tags that only CIFAR-10 tests
    colour: tuple[str, ...] = ()  # tags that greyscale images cannot test

    def first(self, arm: str) -> Run:
        """The run whose epochs --epochs sets; those of an arm are in proportion."""
        return self.arms[arm] if self.independent else next(iter(self.arms.values()))

    def run(self, arm: str, epochs: int) -> Run:
        """An arm's run where the first arm has this many epochs."""
        run = self.arms[arm]
        return scaled(run, max(1, round(epochs * run.epochs / self.first(arm).epochs)))

    def tried(self, arm: str, epochs: int) -> list[Run]:
        """The arm's runs at each rate; the one run if there are no rates."""
        run = self.run(arm, epochs)
        return [at_rate(run, rate) for rate in self.rates] or [run]

    def full_epochs(self, arm: str, data_set: str) -> int:
        """The fewest epochs of the first arm that test a claim."""
        return self.digits_epochs if data_set == DIGITS else self.first(arm).epochs

    def figures(self, run: Run) -> set[str]:
        """The names of the figures that a run's record must have."""
        views = self.views if run.augment.crop else ()
        return {*(VIEWS[kind] for kind in views), *self.measures} or {TEST}


def ablation(
    name: str,
    about: str | None,
    *,
    tag: str,
    arms: Mapping[str, Run],
    better: str,
    worse: str,
    figure: str = TEST,
    compared: Mapping[str, str] | None = None,
    also_shown: Sequence[str] = (TEST,),
    picture: Sequence[str] = (TEST,),
    seeds: int = 3,
    first_seed: int = 0,
    rates: tuple[float, ...] = (),
) -> Experiment:
    """An experiment with one claim: `figure` is lower in one arm than in another.

    `compared` maps names of published figures to ours, better minus worse.
    """
    compared = compared or {figure: figure}
    claim = paper.claim(tag).published

    def judge(records: Arms) -> dict[str, Finding]:
        ours = {
            name: results.difference(records, better, worse, measured)
            for name, measured in compared.items()
        }
        for measured in also_shown:
            ours |= results.each(records, measured)
        effect = results.difference(records, worse, better, figure)
        size = next((claim[n].value for n in compared if n in claim), None)
        decided = results.verdict(effect, None if size is None else abs(size))
        return {tag: Finding(ours, decided, (better, worse))}

    draw = dots(*picture)
    return Experiment(
        name,
        about,
        arms,
        judge,
        draw,
        seeds=seeds,
        first_seed=first_seed,
        rates=rates,
    )


def dots(*figures: str) -> Draw:
    """Return what draws the figures of every arm."""

    return lambda result, path: plots.plot_arms(
        result.arms, path, text=plots.title(result), figures=figures
    )


def curves(curve: str = TEST, dashed: Sequence[str] = ()) -> Draw:
    """Return what draws a curve of every arm and seed."""
    shift = 0.5 if curve == TRAINING else 0.0  # the mean over an epoch: its middle

    def points(record: Record) -> tuple[list[float], list[float]]:
        values = record.curves[curve]
        return [epoch + 1 - shift for epoch in range(len(values))], values

    def draw(result: Result, path: Path) -> None:
        lines = {arm: list(map(points, seeds)) for arm, seeds in result.arms.items()}
        plots.plot_curves(lines, path, text=plots.title(result), y=curve, dashed=dashed)

    return draw


def result_of(experiment: Experiment, records: Sequence[Record]) -> Result:
    """Return what the records of an experiment show."""
    experiment = experiment.of_records(records) if experiment.of_records else experiment
    if experiment.select:
        return Result(experiment.name, experiment.select(records), {})
    arms = list(experiment.arms)
    shown: dict[str, list[Record]] = {}
    for compared in [[arm] for arm in arms] if experiment.independent else [arms]:
        shown |= _newest(experiment, records, compared)
    findings = experiment.judge(shown) if shown else {}
    checked = {tag: _checked(experiment, tag, f, shown) for tag, f in findings.items()}
    return Result(experiment.name, shown, checked)


def _newest(
    experiment: Experiment, records: Sequence[Record], arms: Sequence[str]
) -> dict[str, list[Record]]:
    """Return the newest complete group of records with equal data and epochs.

    A group is complete if its arms have a seed in common; the common seeds are shown.
    Records of other settings than an arm's are ignored.
    """
    # arm -> rate and seed -> record
    groups: dict[tuple, dict[str, dict[tuple[float, int], Record]]] = {}
    for record in (record for record in records if record.arm in arms):
        first, own = experiment.first(record.arm), experiment.arms[record.arm]
        epochs = round(record.epochs * first.epochs / own.epochs)
        runs = experiment.tried(record.arm, epochs)
        if any(same_run(record.settings, replace(r, seed=record.seed)) for r in runs):
            key = (record.data["set"], record.data["digest"], epochs)
            group = groups.pop(key, {arm: {} for arm in arms})
            rate = record.settings["optim"]["rate"]
            group[record.arm][rate, record.seed] = record
            groups[key] = group  # last, for it is the newest
    for rated in reversed(groups.values()):
        group = {arm: at_best_rate(experiment, r) for arm, r in rated.items()}
        if experiment.partial:
            return {arm: list(seeds.values()) for arm, seeds in group.items() if seeds}
        if common := set.intersection(*map(set, group.values())):
            return {a: [seeds[s] for s in sorted(common)] for a, seeds in group.items()}
    return {}


def at_best_rate(
    experiment: Experiment, records: Mapping[tuple[float, int], Record]
) -> dict[int, Record]:
    """Return an arm's records by seed, at the rate with the lowest test error in the
    run that only chooses it. None if a rate has not been tried."""
    if not experiment.rates:
        return {seed: record for (_, seed), record in records.items()}
    tried = {rate: r for (rate, seed), r in records.items() if seed == CHOOSES}
    if len(tried) < len(experiment.rates):
        return {}
    best = min(tried, key=lambda rate: tried[rate].figures[TEST])
    return {s: r for (rate, s), r in records.items() if rate == best and s != CHOOSES}


def _checked(
    experiment: Experiment, tag: str, finding: Finding, shown: Arms
) -> Finding:
    """Return the finding, as not tested where its records cannot test the claim."""
    judged = {arm: shown[arm] for arm in finding.arms or shown}
    for arm, records in judged.items():
        data = records[0].data
        epochs = experiment.run(arm, experiment.full_epochs(arm, data["set"])).epochs
        if tag in experiment.cifar10 and not data["set"].startswith(CIFAR10):
            why = "the published figure is CIFAR-10's"
        elif tag in experiment.colour and data["grey"]:
            why = "the images are greyscale"
        elif records[0].epochs < epochs:
            why = f"{records[0].epochs} of {epochs} epochs"
        else:
            continue
        return finding._replace(verdict=Verdict("not tested", why))
    wild = [arm for arm, seeds in judged.items() if any(r.diverged for r in seeds)]
    note = f"diverged: {', '.join(wild)}" if wild else ""
    return finding._replace(verdict=finding.verdict.because(note))
