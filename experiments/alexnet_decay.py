"""AlexNet §5 decay: weight decay of 0.0005 lowers the training error itself.

`alexnet-small` with it and without. The training error is that of the whole training
set at the end, without noise: with all units and centre crops.

Verdict: reproduced if the training error without decay is higher by more than two
standard errors, not reproduced if lower by as much, undecided between.

    python experiments/alexnet_decay.py                 # digits
    python experiments/alexnet_decay.py --data cifar10
"""

from dataclasses import replace

from _arms import SMALL, Experiment, Options, options
from _figures import TEST, TRAINING, bars, each

from alexvgg_jax.errors import one_line
from alexvgg_jax.report import difference, verdict

PAPER, WITHOUT = "0.0005 (paper)", "no decay"
ARMS = {
    PAPER: SMALL,
    WITHOUT: replace(SMALL, optim=replace(SMALL.optim, weight_decay=0.0)),
}


def main() -> None:
    experiment = Experiment("alexnet_decay", options(__doc__, Options()))
    arms = experiment.arms(ARMS)
    ours = {
        "training error, points": difference(arms, PAPER, WITHOUT, TRAINING),
        **each(arms, TRAINING),
        **each(arms, TEST),
    }
    found = verdict(difference(arms, WITHOUT, PAPER, TRAINING))
    experiment.finish({"AlexNet §5 decay": (ours, found)}, arms, bars(TEST, TRAINING))


if __name__ == "__main__":
    with one_line():
        main()
