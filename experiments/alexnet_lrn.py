"""AlexNet §3.3: response normalisation after the ReLU of conv1 and conv2 lowers errors.

Trains `alexnet-small` with the paper's normalisation; without any; and with alpha
divided by n = 5, as the original program computes it. With k = 2 the normalisation also
multiplies its input by 2^-0.75 = 0.59. With alpha = 0 it does only that, so this arm
shows what the normalisation itself does. The published points are the net with
normalisation minus the net without. (`cifar_lrn.py` measures the paper's 13% and 11% on
CIFAR-10.)

Planned before the run: 1.4 points. In a pilot of 20 nets of the first arm, test errors
had a standard deviation of 0.40 points over seeds. Given this deviation, eight pairs of
seeds detect a difference of 0.65 points with 80% power. The pilot had about 25%
training and 27.8% test error. Each arm's rate is 0.005, 0.01 or 0.02; a seed that is
not counted chooses it.

Verdict: by the rule in `alexvgg_jax/results.py`, on the test error without
normalisation minus that with it. The verdict says if the net with alpha = 0 is not
worse too: the gain may be the constant's.

    python experiments/alexnet_lrn.py                   # digits
    python experiments/alexnet_lrn.py --data cifar10
"""

from _ablation import Experiment, dots
from _runs import SMALL, Run, with_net
from _session import main

from alexvgg_jax import paper
from alexvgg_jax.models.alexnet import Step
from alexvgg_jax.results import TEST, TOP5, Arms, Finding, difference, each, verdict

PAPER, WITHOUT = "after the ReLU (paper)", "without"
DIVIDED = "alpha / n"
CONSTANT = "alpha = 0"  # multiplies by k^-beta, whatever the input


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    ours = {
        "top-1 error": difference(arms, PAPER, WITHOUT, TEST),
        "top-5 error": difference(arms, PAPER, WITHOUT, TOP5),
        "against alpha = 0": difference(arms, PAPER, CONSTANT, TEST),
        "alpha / n against alpha = 0": difference(arms, DIVIDED, CONSTANT, TEST),
        **each(arms, TEST),
    }
    published = -paper.claim("AlexNet §3.3").published["top-1 error"].value
    decided = verdict(difference(arms, WITHOUT, PAPER, TEST), published)
    normalising = verdict(difference(arms, CONSTANT, PAPER, TEST))
    if decided.word in ("agrees", "sign only") and normalising.word != "agrees":
        decided = decided.because("not better than its constant alone")
    return {"AlexNet §3.3": Finding(ours, decided)}


def after(steps: tuple[Step, ...]) -> Run:
    """Return the run with these steps after conv1 and conv2."""
    return with_net(SMALL, after_conv1=steps, after_conv2=steps)


EXPERIMENT = Experiment(
    "alexnet_lrn",
    __doc__,
    arms={
        PAPER: SMALL,
        WITHOUT: after(("act", "pool")),
        DIVIDED: with_net(SMALL, lrn_alpha=1e-4 / 5),
        CONSTANT: with_net(SMALL, lrn_alpha=0.0),
    },
    judge=judge,
    draw=dots(TEST),
    seeds=8,
    first_seed=10,
    rates=(0.005, 0.01, 0.02),
)

if __name__ == "__main__":
    main(EXPERIMENT)
