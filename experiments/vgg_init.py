"""VGG §3.1: net A trains from a normal distribution, deeper nets from its layers.

VGG adds that Glorot's weights make net A unnecessary. Trains nets A, B, D and E of
table 1, an eighth as wide, for two epochs of CIFAR-10 at the paper's rate of 0.01. The
first weights are drawn from

- the paper's normal distribution "with the zero mean and 10^-2 variance", once with a
  variance of 0.01 and once with a deviation of 0.01 (both deviations are divided by the
  root of the width);
- Glorot's distribution, and He's;
- for B, D and E also net A: its first four convolutions and its fully-connected layers
  are copied, and the other layers have a deviation of 0.01. (Here A trained for two
  epochs from Glorot's weights. The paper's A was trained to the end, from the normal
  distribution.)

A net trains if its mean loss over the second epoch (391 steps after 391) is below 98%
of ln(classes), the loss of guessing.

Planned before the run: the paper gives no figure. A net trains or it does not, and its
loss is far below that of guessing or equal to it. So no power is computed. Three seeds
show if the answer depends on the seed. In pilots of one epoch, E learnt from Glorot's
weights and not from He's, and A did not learn from a deviation of 0.01. The rule below
was written after these pilots.

Verdict:

- contradicts here, if one of these seven arms trains in no seed: B, D or E from net A,
  and A, B, D or E from Glorot's weights;
- agrees, if all seven train in every seed, and A trains in every seed from one reading
  of the normal distribution;
- undecided otherwise.

If A does not train in two epochs, that is no contradiction: the paper trains it for 74.
He's weights, and the normal distribution in B, D and E, do not decide.

    python experiments/vgg_init.py                      # digits
    python experiments/vgg_init.py --data cifar10
"""

import math
from dataclasses import replace

from _ablation import Experiment, dots
from _runs import Measured, Run, Trained, small_vgg
from _session import Session, main

from alexvgg_jax import results
from alexvgg_jax.recipes import OF_NET_A
from alexvgg_jax.results import TEST, Arms, Finding, Record, Verdict

TAG = "VGG §3.1"
LOSS = "training loss"  # nats, mean over the last epoch
INITS = ("variance", "deviation", "glorot", "he")


def run(net: str, init: str) -> Run:
    """Return the run of two epochs of a net from these weights."""
    whole = small_vgg(f"vgg-{net.lower()}", weight_init=init)
    return replace(whole, epochs=2, optim=replace(whole.optim, drop_epochs=()))


def from_a(net: str) -> Run:
    """Return the run of a net that starts from layers of net A."""
    return replace(run(net, "deviation"), init_from="net A", init_layers=OF_NET_A)


ARMS = {f"{net}, {init}": run(net, init) for net in "ABDE" for init in INITS}
ARMS |= {f"{net}, from A": from_a(net) for net in "BDE"}
DECIDE = [arm for arm in ARMS if arm.endswith(("glorot", "from A"))]


def train(session: Session) -> None:
    """Train every arm and seed. An arm that starts from net A waits for net A."""
    for seed in session.seeds("A, glorot"):
        for arm in session.chosen.arms or tuple(ARMS):
            run = session.run(arm, seed)
            if run.init_from and not session.known(arm, run):
                session.train("A, glorot", session.run("A, glorot", seed))
                start = session.folder("A, glorot", seed).resolve()
                run = replace(run, init_from=str(start))
            session.record(arm, run)


def measure(trained: Trained) -> Measured:
    return Measured({LOSS: trained.history[-1].train_loss})


def trains(record: Record) -> bool:
    """Whether a net is better than guessing after its first epoch."""
    return not record.diverged and (
        record.figures[LOSS] < 0.98 * math.log(record.data["classes"])
    )


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    learnt = {arm: [trains(record) for record in arms[arm]] for arm in ARMS}
    normal = any(all(learnt[arm]) for arm in ("A, variance", "A, deviation"))
    if never := [arm for arm in DECIDE if not any(learnt[arm])]:
        decided = Verdict("contradicts here", ", ".join(never))
    elif not all(all(learnt[arm]) for arm in DECIDE):
        decided = Verdict("undecided", "depends on the seed")
    elif not normal:
        decided = Verdict("undecided", "A needs more steps from the paper's weights")
    else:
        decided = Verdict("agrees")
    ours = results.each(arms, LOSS, "nats") | results.each(arms, TEST)
    return {TAG: Finding(ours, decided)}


EXPERIMENT = Experiment(
    "vgg_init",
    __doc__,
    arms=ARMS,
    judge=judge,
    draw=dots(TEST),
    first_seed=20,
    measure=measure,
    measures=(LOSS,),
    train=train,
)

if __name__ == "__main__":
    main(EXPERIMENT)
