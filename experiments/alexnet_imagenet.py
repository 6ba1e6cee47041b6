"""AlexNet Table 2: one net has 40.7% and 18.2% errors on ILSVRC-2012, five 38.1, 16.4.

AlexNet Table 1: on ILSVRC-2010, 37.5% and 17.0%.

Trains the full net on ImageNet, in two arms. "paper" divides the rate when the test
error stops improving (§5). "source" is net 145 of the original program with the 91
epochs of its log: the rate drops after 25, 51 and 79 epochs. The rate of conv1 drops
once more after 67, when the colour noise ends, and conv1 is frozen after 72. The
figures are top-1 and top-5 errors of ten views, on the validation set of
ILSVRC-2012 and on the test set of ILSVRC-2010. With more than one seed, the averaged
probabilities of the nets are tested too.

Verdict: by the rule in `alexvgg_jax/results.py`, on the top-1 error of one net. The
claim is tested only with 1000 classes, at least a million training images, and the
width, batch and epochs of the recipe. Anything smaller shows that the program runs, and
its verdict is "not tested".

    python experiments/alexnet_imagenet.py --data imagenet2012 --seeds 5
    python experiments/alexnet_imagenet.py --arms source
    python experiments/alexnet_imagenet.py --data FOLDER --year 2010
    python experiments/alexnet_imagenet.py --data SMALL_FOLDER --epochs 1 --batch 8
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from _ablation import Experiment, curves
from _runs import TEN, Measured, Trained, mean_errors, predict, recipe, with_net
from _session import Options, Session, options, run

from alexvgg_jax import paper, results
from alexvgg_jax.errors import one_line
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import TEST, Arms, Finding, Verdict

Year = Literal["2010", "2012"]

CLASSES, IMAGES, BATCH = 1000, 1_000_000, 128  # at least IMAGES for training
SCHEDULES = ("paper", "source")
TAGS: dict[Year, str] = {"2010": "AlexNet Table 1", "2012": "AlexNet Table 2"}
TEN5 = "top-5 test error of ten views"


@dataclass(frozen=True)
class ImageNetOptions(Options):
    data: str = "imagenet2012"
    seeds: int = 1  # nets
    year: Year = "2012"  # whose table the errors are compared with
    batch: int = BATCH  # images a step
    width: float = 1.0  # times the kernels and units, to try the program quickly


def averaged(arm: str) -> str:
    """The arm whose record of seed s averages the nets of seeds 0 to s."""
    return f"{arm}, averaged"


def measure(trained: Trained) -> Measured:
    top1, top5 = mean_errors(*predict(trained, 10))
    return Measured({TEN: top1, TEN5: top5})


def train(session: Session) -> None:
    """Train one schedule's nets, and average their predictions."""
    for arm in session.chosen.arms or SCHEDULES[:1]:
        runs = [session.run(arm, seed) for seed in session.seeds(arm)]
        for each in runs:
            session.record(arm, each)
        if len(runs) == 1 or session.known(averaged(arm), runs[-1]):
            continue
        predicted = [predict(session.train(arm, each), 10) for each in runs]
        mean = np.mean([probabilities for probabilities, _ in predicted], axis=0)
        top1, top5 = mean_errors(mean, predicted[0][1])
        figures = {TEN: top1, TEN5: top5}
        session.add(session.new(averaged(arm), runs[-1], [], figures))


def experiment(year: Year, batch: int = BATCH, width: float = 1.0) -> Experiment:
    """Return the experiment of one table; others than its batch and width try it."""
    tag = TAGS[year]
    one, suffix = ("CNN", "") if year == "2010" else ("1 CNN", " val")
    top1 = f"top-1{suffix}"
    names = {top1: TEN, f"top-5{suffix}": TEN5}

    def judge(arms: Arms) -> dict[str, Finding]:
        schedule = next((arm for arm in SCHEDULES if arm in arms), None)
        if schedule is None:
            return {}
        records, data = arms[schedule], arms[schedule][0].data
        ours = {
            f"{one}, {name}": results.estimate(results.values(records, figure))
            for name, figure in names.items()
        }
        for record in arms.get(averaged(schedule), [])[-1:]:
            for name, figure in names.items():
                nets = f"{record.seed + 1} CNNs, {name}"
                ours[nets] = Figure(record.figures[figure], "%")
        published = paper.claim(tag).published[f"{one}, {top1}"].value
        errors = results.values(records, TEN)
        decided = results.reaches(published, errors, data["test"])
        complete = data["classes"] == CLASSES and data["train"] >= IMAGES
        if not complete or (batch, width) != (BATCH, 1):
            images = f"{data['classes']} classes, {data['train']:,} training images"
            why = f"{images}, width {width:g}, batch {batch}"
            decided = Verdict("not tested", why)
        return {tag: Finding(ours, decided, (schedule,))}

    runs = {
        arm: replace(with_net(recipe(f"alexnet-{arm}"), width=width), batch=batch)
        for arm in SCHEDULES
    }
    return Experiment(
        f"alexnet_imagenet_{year}",
        __doc__ or "",
        arms=runs | {averaged(arm): each for arm, each in runs.items()},
        judge=judge,
        draw=curves(TEST),
        seeds=1,
        measure=measure,
        measures=(TEN, TEN5),
        train=train,
        independent=True,
        partial=True,
    )


EXPERIMENTS = tuple(experiment(year) for year in TAGS)

if __name__ == "__main__":
    with one_line():
        chosen = options(__doc__, ImageNetOptions())
        run(experiment(chosen.year, chosen.batch, chosen.width), chosen)
