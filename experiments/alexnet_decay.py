"""AlexNet §5 decay: weight decay of 0.0005 lowers the training error itself.

Trains `alexnet-small` with weight decay and without. The training error is measured at
the end on the whole training set, without noise: with all units and centre crops.

Verdict: by the rule in `alexvgg_jax/results.py`, on the training error
without decay minus that with it. The paper gives no figure.

    python experiments/alexnet_decay.py                 # digits
    python experiments/alexnet_decay.py --data cifar10
"""

from dataclasses import replace

from _ablation import ablation
from _runs import SMALL
from _session import main

from alexvgg_jax.results import TEST, TRAINING

PAPER, WITHOUT = "0.0005 (paper)", "no decay"

EXPERIMENT = ablation(
    "alexnet_decay",
    __doc__,
    tag="AlexNet §5 decay",
    arms={
        PAPER: SMALL,
        WITHOUT: replace(SMALL, optim=replace(SMALL.optim, weight_decay=0.0)),
    },
    better=PAPER,
    worse=WITHOUT,
    figure=TRAINING,
    also_shown=(TRAINING, TEST),
    picture=(TEST, TRAINING),
)

if __name__ == "__main__":
    main(EXPERIMENT)
