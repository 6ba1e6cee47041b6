"""AlexNet §3.3 CIFAR-10: normalisation takes a four-layer net from 13% error to 11%.

Trains the original program's 13% net, two convolutions and two locally connected
layers, by its own recipe; and the same net with the response normalisation of the 11%
net, over 9 maps after pool1 and before pool2, with k = 1. Nothing else differs. (The
program's 11% net also has twice the kernels in one layer, another decay and a longer
schedule: see `cifar_ladder.py`.) Errors are those of ten views, as the program's were.
Each net takes more than an hour and is trained once.

Verdict: by the rule in `alexvgg_jax/results.py`, on CIFAR-10 only: the error
without normalisation minus the error with it. For one seed the interval is that of
counting the test images of both nets (binomial), and the verdict says so.

    python experiments/cifar_lrn.py --data cifar10
    python experiments/cifar_lrn.py                     # digits
"""

import math

from _ablation import Experiment, curves
from _runs import TEN, recipe, with_net
from _session import main

from alexvgg_jax import paper, results
from alexvgg_jax.results import TEST, Arms, Finding

TAG = "AlexNet §3.3 CIFAR-10"
WITHOUT, WITH = "cifar-13pct", "cifar-13pct with LRN"
PLAIN = recipe(WITHOUT)


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    errors = {arm: results.estimate(results.values(arms[arm], TEN)) for arm in arms}
    gain, note = results.difference(arms, WITHOUT, WITH, TEN), ""
    if len(arms[WITH]) == 1:
        images = arms[WITH][0].data["test"]
        each = (results.counted(error.value, images) for error in errors.values())
        gain, note = gain._replace(margin=results.SURE * math.hypot(*each)), "one seed"
    ours = {
        "CIFAR-10 test error with LRN": errors[WITH],
        "CIFAR-10 test error without LRN": errors[WITHOUT],
        "without minus with": gain,
    }
    without, with_ = paper.claim(TAG).published.values()
    decided = results.verdict(gain, without.value - with_.value).because(note)
    return {TAG: Finding(ours, decided)}


EXPERIMENT = Experiment(
    "cifar_lrn",
    __doc__,
    arms={WITHOUT: PLAIN, WITH: with_net(PLAIN, lrn=True)},
    judge=judge,
    draw=curves(TEST),
    seeds=1,
    views=(10,),
    cifar10=(TAG,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
