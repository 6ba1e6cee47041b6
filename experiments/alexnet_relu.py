"""AlexNet §3.1: a four-layer CNN learns several times faster with ReLU than with tanh.

Figure 1 of the paper: 25% training error on CIFAR-10 after six times fewer epochs. The
same net is trained with each function, without any regularisation, at a learning rate
chosen for each function, "to make training as fast as possible": one seed tries each
rate for a few epochs, and the two best until 25%; all seeds then train at the faster.
An epoch's training error is the mean over its batches, and counts for the middle of the
epoch.

Verdict: by the rule in `alexvgg_jax/results.py`, on r, the mean over seeds
of (epochs of tanh / epochs of ReLU), against no effect at 1. A tanh net that does not
reach 25% counts with all its epochs less half an epoch. Then r is a lower bound, which
can only agree, or else is undecided. There is no r if a ReLU net does not reach 25%, or
if a net diverges. Only CIFAR-10 tests the claim.

    python experiments/alexnet_relu.py                  # digits
    python experiments/alexnet_relu.py --data cifar10
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from _ablation import Experiment
from _runs import Run, recipe, with_net
from _session import Session, main

from alexvgg_jax import paper, plots, results
from alexvgg_jax.config import Optim
from alexvgg_jax.results import TRAINING, Arms, Finding, Record, Result, Verdict

TAG = "AlexNet §3.1"
FIGURE = "speed-up to 25% training error"
TARGET = 25.0  # % training error
RATES = {"relu": (0.001, 0.003, 0.01), "tanh": (0.003, 0.01, 0.03)}
EPOCHS = 60  # at most; tanh takes 44 on CIFAR-10
TRIED_EPOCHS = 5  # after 2, the highest rate leads, and falls behind later


def net(activation: str, rate: float, epochs: int) -> Run:
    """Return the run of figure 1's net: "no regularization of any kind"."""
    run = with_net(recipe("cifar-19pct"), activation=activation)
    optim = Optim(rate=rate, weight_decay=0.0)
    return replace(run, optim=optim, epochs=epochs, until_error=TARGET)


def complete(activation: str, rate: float) -> str:
    return f"{activation}, rate {rate:g}"


def tried(activation: str, rate: float) -> str:
    return f"{activation}, rate {rate:g}, first epochs"


PAIRS = [(activation, rate) for activation, rates in RATES.items() for rate in rates]


def points(record: Record) -> tuple[list[float], list[float]]:
    """Return epochs and training errors, from chance at epoch 0."""
    errors = record.curves[TRAINING]
    chance = 100 - 100 / record.data["classes"]
    return [0.0, *(i + 0.5 for i in range(len(errors)))], [chance, *errors]


def epochs_to_target(record: Record) -> float | None:
    """Return when the training error reaches TARGET, by linear interpolation."""
    for (x, y), (next_x, next_y) in pairwise(zip(*points(record), strict=True)):
        if next_y < TARGET:
            return x + (next_x - x) * (y - TARGET) / (y - next_y)
    return None


def rank(record: Record) -> tuple[float, float]:
    """Sort the fastest to TARGET first, then the lowest error."""
    error = 100.0 if record.diverged else record.curves[TRAINING][-1]
    return epochs_to_target(record) or math.inf, error


def train(session: Session) -> None:
    """Choose each function's rate, then train all seeds at it."""
    for activation, rates in RATES.items():

        def record(name: str, seed: int = 0) -> Record:
            return session.record(name, session.run(name, seed))

        first = {rate: rank(record(tried(activation, rate))) for rate in rates}
        two = sorted(rates, key=first.__getitem__)[:2]
        last = {rate: rank(record(complete(activation, rate))) for rate in two}
        best = complete(activation, min(two, key=last.__getitem__))
        for seed in session.seeds(best):
            record(best, seed)


def chosen(arms: Arms, activation: str) -> str | None:
    """Return the arm of the function's best rate, judged by the first seed."""
    names = [complete(activation, rate) for rate in RATES[activation]]
    first = {name: arms[name][0] for name in names if name in arms}
    return min(first, key=lambda name: rank(first[name])) if first else None


def speed_up(relu: Sequence[Record], tanh: Sequence[Record]) -> Finding:
    """Return our figures and the verdict by the rule above."""
    fast = [epochs for r in relu if (epochs := epochs_to_target(r)) is not None]
    slow = [epochs_to_target(record) for record in tanh]
    if len(fast) < len(relu) or any(record.diverged for record in tanh):
        why = "a ReLU net did not reach 25%, or a net diverged"
        return Finding({}, Verdict("undecided", why))
    all_epochs = [n or r.epochs - 0.5 for n, r in zip(slow, tanh, strict=True)]
    pairs = zip(all_epochs, fast, strict=True)
    ratio = results.estimate([t / r for t, r in pairs], "times")
    ours = {
        FIGURE: ratio,
        "epochs of ReLU": results.estimate(fast, "epochs"),
        "epochs of tanh": results.estimate(all_epochs, "epochs"),
    }
    published = paper.claim(TAG).published[FIGURE].value
    decided = results.verdict(ratio, published, null=1.0)
    if None in slow:
        bound = "tanh did not reach 25%"
        if decided.word == "agrees":
            decided = decided.because(f"a lower bound, for {bound}")
        else:
            decided = Verdict("undecided", bound)
    return Finding(ours, decided)


def judge(arms: Arms) -> dict[str, Finding]:
    """Compare the two functions at their best rates."""
    relu, tanh = chosen(arms, "relu"), chosen(arms, "tanh")
    if not relu or not tanh:
        return {}
    seeds = {r.seed for r in arms[relu]} & {r.seed for r in arms[tanh]}
    both = ([r for r in arms[arm] if r.seed in seeds] for arm in (relu, tanh))
    return {TAG: speed_up(*both)._replace(arms=(relu, tanh))}


def draw(result: Result, path: Path) -> None:
    """Draw figure 1 of the paper, for our nets."""
    if not result.findings:
        return
    finding = result.findings[TAG]
    lines = {arm: [points(r) for r in result.arms[arm]] for arm in finding.arms}
    times = finding.figures.get(FIGURE, "unknown times")
    told = f"tanh needs {times} the epochs of ReLU (published: 6)"
    text, tanh = f"{plots.title(result)}\n{told}", finding.arms[1:]
    plots.plot_curves(lines, path, text=text, y=TRAINING, dashed=tanh, level=TARGET)


EXPERIMENT = Experiment(
    "alexnet_relu",
    __doc__,
    arms={complete(*pair): net(*pair, EPOCHS) for pair in PAIRS}
    | {tried(*pair): net(*pair, TRIED_EPOCHS) for pair in PAIRS},
    judge=judge,
    draw=draw,
    train=train,
    partial=True,
    cifar10=(TAG,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
