"""AlexNet §6 five nets: averaging the predictions of five nets beats one of them.

Seven `alexnet-small`, or up to ten, that differ in their seed alone; the probabilities
of one, of five and of seven are averaged, each image seen through its centre crop. The
figure of so many nets is the mean over every choice of them. What averaging gains is
measured against the same nets one by one; since choices share nets, its standard error
is the delete-d jackknife's (Shao and Wu, 1989). (Two of the paper's seven had other
training data first, so that its last row is not compared.)

Verdict: reproduced if the mean test error of one net is above that of five by more than
two standard errors, not reproduced if below by as much, undecided between.

    python experiments/alexnet_ensemble.py              # digits
    python experiments/alexnet_ensemble.py --data cifar10
"""

import itertools
import math
from statistics import fmean, pstdev

import numpy as np
from _arms import SMALL, Experiment, Options, options
from _figures import TEST, TOP5, bars, each

from alexvgg_jax import evaluate, loop
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.report import Seeds, Value, verdict

SIZES = (1, 5, 7)
MOST = 10  # nets, of which 252 choices of five are averaged


def main() -> None:
    given = options(__doc__, Options(seeds=max(SIZES)))
    if not max(SIZES) <= given.seeds <= MOST:
        raise InputError(f"--seeds {given.seeds}: from {max(SIZES)} to {MOST} nets")
    experiment = Experiment("alexnet_ensemble", given)
    predicted = []
    for work, _, params in experiment.seeds(SMALL.model.name, SMALL):
        probabilities, labels = loop.predict(work, params, work.test_source)
        predicted.append(probabilities)
    arms: dict[str, list] = {}
    for size in SIZES:
        chosen = itertools.combinations(range(given.seeds), size)
        averaged = (np.mean([predicted[i] for i in nets], axis=0) for nets in chosen)
        found = [evaluate.errors(mean, labels) for mean in averaged]
        arms[f"{size} net{'s' * (size > 1)}"] = [
            {TEST: errors.top1, TOP5: errors.top5} for errors in found
        ]
    gained = {
        figure: gain(arms["1 net"], arms["5 nets"], 5, figure)
        for figure in (TEST, TOP5)
    }
    ours = {
        "top-1 error points, five nets": negative(gained[TEST]),
        "top-5 error points, five nets": negative(gained[TOP5]),
    }
    ours |= each(arms, TEST) | each(arms, TOP5)
    experiment.finish(
        {"AlexNet §6 five nets": (ours, verdict(gained[TEST]))}, arms, bars(TEST)
    )


def gain(one: Seeds, many: Seeds, size: int, figure: str) -> Value:
    """How far averaging lowers the error: the mean over every choice of so many nets,
    with the standard error of a jackknife that leaves out the others."""
    chosen = itertools.combinations(one, size)
    less = [
        fmean(net[figure] for net in nets) - averaged[figure]
        for nets, averaged in zip(chosen, many, strict=True)
    ]
    error = pstdev(less) * math.sqrt(size / (len(one) - size))
    return {"mean": fmean(less), "error": error}


def negative(value: Value) -> Value:
    return value | {"mean": -value["mean"]}


if __name__ == "__main__":
    with one_line():
        main()
