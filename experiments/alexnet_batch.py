"""One weird trick batch: k times the batch needs k times the rate, not its square root.

Trains `alexnet-small` with batches of 128, 512 and 1024 at five rates each, for equally
many epochs: 5,047 updates at 1024. Neighbouring rates differ by the root of 8, so that
from 128 to 1024 the best rate moves by two of them if it grows as k, by one if as the
root. Rate times decay is proportional to the batch, so that an epoch decays the weights
equally. This takes days of CPU time: it needs a GPU.

Planned before the run: a power of 1; theory asks for 0.5. Each rate has three seeds.
There is no pilot of their deviation, nor of the training and test error.

Verdict: by the rule in `alexvgg_jax/results.py`, on the power of k with which the rate
of the lowest test error grows from 128 to 1024, against no effect at 0.5. It is
undecided if a best rate is the lowest or the highest that was tried.

    python experiments/alexnet_batch.py                 # digits
    python experiments/alexnet_batch.py --data cifar10
"""

import math
from dataclasses import replace

from _ablation import Experiment, dots
from _runs import SMALL, Run, scaled
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, Arms, Finding, Verdict

TAG = "One weird trick batch"
FIGURE = "power of k in the best rate"
LONG = scaled(SMALL, 103)
FACTORS = (1, 4, 8)
RATES = tuple(LONG.optim.rate * 8 ** (step / 2) for step in range(-1, 4))


def arm_of(k: int, rate: float) -> str:
    return f"{k * LONG.batch}, rate {rate:.2g}"


def batched(k: int, rate: float) -> Run:
    """Return the run with k times the batch. Rate times decay is k times as large."""
    decay = LONG.optim.weight_decay * k * LONG.optim.rate / rate
    optim = replace(LONG.optim, rate=rate, weight_decay=decay)
    return replace(LONG, batch=k * LONG.batch, optim=optim)


def best_rates(arms: Arms, k: int) -> list[float]:
    """Return the rate with the lowest test error, for each seed."""
    errors = [results.values(arms[arm_of(k, rate)], TEST) for rate in RATES]
    return [RATES[seed.index(min(seed))] for seed in zip(*errors, strict=True)]


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    rates = {k: best_rates(arms, k) for k in FACTORS}
    ends = list(zip(rates[FACTORS[0]], rates[FACTORS[-1]], strict=True))
    powers = [math.log(large / small, FACTORS[-1]) for small, large in ends]
    power = results.estimate(powers, "")
    ours = {FIGURE: power}
    for k, best in rates.items():
        ours[f"best rate, batch {k * LONG.batch}"] = results.estimate(best, "")
    ours |= results.each(arms, TEST)
    decided = results.verdict(power, paper.claim(TAG).published[FIGURE].value, 0.5)
    if {RATES[0], RATES[-1]} & {rate for pair in ends for rate in pair}:
        decided = Verdict("undecided", "a best rate is at the end of those tried")
    return {TAG: Finding(ours, decided)}


EXPERIMENT = Experiment(
    "alexnet_batch",
    __doc__,
    arms={arm_of(k, rate): batched(k, rate) for k in FACTORS for rate in RATES},
    judge=judge,
    draw=dots(TEST),
    first_seed=20,
)

if __name__ == "__main__":
    main(EXPERIMENT)
