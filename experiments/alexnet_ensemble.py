"""AlexNet §6 five nets: averaging the predictions of five nets beats one of them.

Trains seven `alexnet-small` that differ only in their seed, and averages the
probabilities of one, of five and of seven. Each image is seen through its centre crop.
The figure of five nets is the mean over each choice of five. A record is such a choice.
The gain is measured against the same nets one by one. Choices share nets, so its
standard error is the delete-d jackknife's (Shao and Wu, 1989). (Two of the paper's
seven nets had other training data first, so its last figure is not compared.)

Verdict: by the rule in `alexvgg_jax/results.py`, on what five nets gain.

    python experiments/alexnet_ensemble.py              # digits
    python experiments/alexnet_ensemble.py --data cifar10
"""

import itertools
import math
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
from _ablation import Experiment
from _runs import SMALL, mean_errors, predict
from _session import Session, main

from alexvgg_jax import paper, plots
from alexvgg_jax.errors import InputError
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import (
    TEST,
    TOP5,
    Arms,
    Finding,
    Record,
    Result,
    t_margin,
    verdict,
)

TAG = "AlexNet §6 five nets"
NETS, SIZES = 7, (1, 5, 7)

Choice = tuple[int, ...]


def arm_of(nets: Choice) -> str:
    return f"nets {' '.join(map(str, nets))}"


CHOICES = [nets for size in SIZES for nets in itertools.combinations(range(NETS), size)]


def train(session: Session) -> None:
    """Record the error of each choice of nets."""
    if session.chosen.seeds not in (0, NETS):
        raise InputError(f"--seeds {session.chosen.seeds}: always {NETS} nets")
    run = session.run(arm_of(CHOICES[0]), 0)
    missing = [nets for nets in CHOICES if not session.known(arm_of(nets), run)]
    if not missing:
        return
    runs = [session.run(arm_of((net,)), net) for net in range(NETS)]
    trained = [session.train("net", each) for each in runs]
    predicted = [predict(net) for net in trained]
    for nets in missing:
        mean = np.mean([predicted[net][0] for net in nets], axis=0)
        top1, top5 = mean_errors(mean, predicted[0][1])
        history = trained[nets[0]].history if len(nets) == 1 else []
        figures = {TEST: top1, TOP5: top5}
        session.add(session.new(arm_of(nets), run, history, figures))


def sized(arms: Arms, size: int) -> dict[Choice, Record]:
    """Return the record of each choice of `size` nets."""
    return {nets: arms[arm_of(nets)][0] for nets in CHOICES if len(nets) == size}


def gain(arms: Arms, size: int, figure: str) -> Figure:
    """Return how far averaging lowers the error: the mean over each choice of nets,
    with the interval of a jackknife that leaves out the others."""
    one = {nets: record.figures[figure] for nets, record in sized(arms, 1).items()}
    lower = [
        fmean(one[net,] for net in nets) - record.figures[figure]
        for nets, record in sized(arms, size).items()
    ]
    error = pstdev(lower) * math.sqrt(size / (NETS - size))
    return Figure(fmean(lower), "points", t_margin(error, NETS - 1))


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    top1, top5 = (gain(arms, 5, figure) for figure in (TEST, TOP5))
    ours = {
        "top-1 error, five nets": top1._replace(value=-top1.value),
        "top-5 error, five nets": top5._replace(value=-top5.value),
    }
    for figure in (TEST, TOP5):
        for size in SIZES:
            errors = [r.figures[figure] for r in sized(arms, size).values()]
            ours[f"{figure}, {size} net{'s' * (size > 1)}"] = Figure(fmean(errors), "%")
    published = -paper.claim(TAG).published["top-1 error, five nets"].value
    return {TAG: Finding(ours, verdict(top1, published))}


def draw(result: Result, path: Path) -> None:
    """Draw the error of each choice, by the number of nets."""
    sizes = {f"{n} net{'s' * (n > 1)}": sized(result.arms, n) for n in SIZES}
    arms = {name: list(records.values()) for name, records in sizes.items()}
    plots.plot_arms(arms, path, text=plots.title(result), figures=(TEST,))


EXPERIMENT = Experiment(
    "alexnet_ensemble",
    __doc__,
    arms={arm_of(nets): SMALL for nets in CHOICES},
    judge=judge,
    draw=draw,
    train=train,
)

if __name__ == "__main__":
    main(EXPERIMENT)
