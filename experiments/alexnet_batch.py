"""One weird trick batch: k times the batch needs k times the rate, not its square root.

Trains `alexnet-small` with batches of 128, 512 and 1024. The learning rate is
multiplied by k, or by its square root, which keeps the variance of an update. With the
root, the weight decay grows by the root too. Rate times decay is then k times as large
in both, and an epoch decays the weights equally. (An epoch of CIFAR-10 has 49 batches
of 1024. One of ImageNet, which the paper used, has 1,251.)

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error at 1024
with the square root minus that with k.

    python experiments/alexnet_batch.py                 # digits
    python experiments/alexnet_batch.py --data cifar10
"""

from dataclasses import replace

from _ablation import ablation
from _runs import SMALL, Run
from _session import main

from alexvgg_jax.results import TEST, TRAINING


def batched(k: int, power: float) -> Run:
    """Return the run with k times the batch and k^power times the rate."""
    optim = replace(
        SMALL.optim,
        rate=SMALL.optim.rate * k**power,
        weight_decay=SMALL.optim.weight_decay * k ** (1 - power),
    )
    return replace(SMALL, batch=k * SMALL.batch, optim=optim)


EXPERIMENT = ablation(
    "alexnet_batch",
    __doc__,
    tag="One weird trick batch",
    arms={
        "128": SMALL,
        "512, linear": batched(4, 1.0),
        "512, root": batched(4, 0.5),
        "1024, linear": batched(8, 1.0),
        "1024, root": batched(8, 0.5),
    },
    better="1024, linear",
    worse="1024, root",
    compared={"at 1024, linear minus root": TEST},
    also_shown=(TEST, TRAINING),
    first_seed=20,
)

if __name__ == "__main__":
    main(EXPERIMENT)
