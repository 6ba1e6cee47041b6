"""One weird trick batch: k times the batch wants k times the rate, not its square root.

`alexnet-small` with batches of 128, 512 and 1024, the learning rate multiplied by k, or
by its square root, which keeps the variance of an update. The weight decay goes up by
the root with the latter, so that an epoch decays as much: rate times decay is then k
times as large in either. A net that diverges counts with the error of chance. (An epoch
has 49 batches of 1024 on CIFAR-10, and 1,251 on ImageNet, where the paper measured.)

Verdict: reproduced if the test error at 1024 is higher with the square root than with k
by more than two standard errors, not reproduced if lower by as much, undecided between.

    python experiments/alexnet_batch.py                 # digits
    python experiments/alexnet_batch.py --data cifar10
"""

from dataclasses import replace

from _arms import SMALL, Experiment, Options, options
from _figures import TEST, TRAINING, bars, each

from alexvgg_jax.config import Run
from alexvgg_jax.errors import one_line
from alexvgg_jax.report import difference, verdict


def batched(k: int, power: float) -> Run:
    optim = SMALL.optim
    rate, decay = optim.rate * k**power, optim.weight_decay * k ** (1 - power)
    optim = replace(optim, rate=rate, weight_decay=decay)
    return replace(SMALL, batch=k * SMALL.batch, optim=optim)


RULES = {"linear": 1.0, "root": 0.5}
ARMS = {f"{SMALL.batch}": SMALL} | {
    f"{k * SMALL.batch}, {rule}": batched(k, power)
    for k in (4, 8)
    for rule, power in RULES.items()
}


def main() -> None:
    experiment = Experiment("alexnet_batch", options(__doc__, Options()))
    arms = experiment.arms(ARMS)
    ours = {
        f"{rule} at {batch} against {SMALL.batch}, points": difference(
            arms, f"{batch}, {rule}", f"{SMALL.batch}", TEST
        )
        for batch in (512, 1024)
        for rule in RULES
    }
    ours |= {**each(arms, TEST), **each(arms, TRAINING)}
    found = verdict(difference(arms, "1024, root", "1024, linear", TEST))
    experiment.finish({"One weird trick batch": (ours, found)}, arms, bars(TEST))


if __name__ == "__main__":
    with one_line():
        main()
