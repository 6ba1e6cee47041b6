"""AlexNet Table 2: one net has 40.7% and 18.2% errors on ILSVRC-2012, five 38.1, 16.4.

AlexNet Table 1: on ILSVRC-2010, 37.5% and 17.0%.

The full recipe: `--schedule paper` is §5's, which divides the rate when the test error
stops improving; `--schedule source` is the program's net 145 with the epochs of its
log: divided after 25, 51 and 79 of 91, conv1's once more after 67, when the colour
noise ends, and conv1 frozen after 72. Errors are those of ten views; those of more nets
of their averaged probabilities; top-1 and top-5, of ILSVRC-2012 on its validation set,
of ILSVRC-2010 on its test set.

Verdict: reproduced if the top-1 error of one net is below the published one plus a
point, and not reproduced if above, by more than two standard errors, undecided between.
Of one net that error is the one of counting so many test images (binomial), and the
verdict names it. A set of other than 1000 classes or of fewer than a million training
images cannot test it, nor a net of another width, other batches or fewer epochs: they
show that the program runs.

    python experiments/alexnet_imagenet.py --data imagenet2012 --seeds 5
    python experiments/alexnet_imagenet.py --data FOLDER --year 2010
    python experiments/alexnet_imagenet.py --data SMALL_FOLDER --epochs 1 --batch 8
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import tyro
from _arms import Experiment, Options, options, switched
from _figures import at_most, curves

from alexvgg_jax import evaluate, loop, paper
from alexvgg_jax.config import RECIPES
from alexvgg_jax.errors import one_line
from alexvgg_jax.report import Value, spread

MARGIN = 1.0  # points above the published error that still count as reproduced
CLASSES, BATCH = 1000, 128
IMAGES, EPOCHS = 1_000_000, 90  # at least, to test the claim
TABLES = {"2010": "AlexNet Table 1", "2012": "AlexNet Table 2"}


@dataclass(frozen=True)
class ImageNetOptions:
    shared: Annotated[Options, tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: Options(data="imagenet2012", seeds=1)
    )
    schedule: Literal["paper", "source"] = "paper"  # §5's, or the program's own log's
    year: Literal["2010", "2012"] = "2012"  # whose table the errors stand beside
    batch: int = BATCH  # images a step
    width: float = 1.0  # times the kernels and units, to try the program quickly


def figures(year: str, top1: list[float], top5: list[float]) -> dict[str, Value]:
    """Ours, of one net and of all together, under the table's names."""
    suffix = "" if year == "2010" else " val"
    one = "CNN" if year == "2010" else "1 CNN"
    ours = {
        f"{one}, top-1{suffix}": spread(top1[:-1]),
        f"{one}, top-5{suffix}": spread(top5[:-1]),
    }
    if (nets := len(top1) - 1) > 1:
        ours[f"{nets} CNNs, top-1{suffix}"] = {"mean": top1[-1]}
        ours[f"{nets} CNNs, top-5{suffix}"] = {"mean": top5[-1]}
    return ours


def judge(work: loop.Work, top1: list[float], published: float) -> str:
    """The rule above, of an error a net."""
    classes, images = len(work.source.classes), work.source.count
    width, batch = work.run.model.switches["width"], work.run.batch
    if (classes, width, batch) != (CLASSES, 1, BATCH) or images < IMAGES:
        counted = f"{classes} classes, {images:,} training images"
        return f"not tested: {counted}, width {width:g}, batch {batch}"
    return at_most(published + MARGIN, top1, work.test_source.count)


def main() -> None:
    given = options(__doc__, ImageNetOptions())
    experiment = Experiment(f"alexnet_imagenet_{given.year}", given.shared, EPOCHS)
    _, recipe = RECIPES[f"alexnet-{given.schedule}"]
    recipe = replace(switched(recipe, width=given.width), batch=given.batch)
    seeds, predicted = [], []
    but = f", width {given.width:g}" * (given.width != 1)
    but += f", batch {given.batch}" * (given.batch != BATCH)
    arm = given.schedule + but
    experiment.check_arms({arm: []})
    for seed, trained in enumerate(experiment.seeds(arm, recipe)):
        work, history, params = trained
        curve = [[float(epoch.epoch), epoch.test_error] for epoch in history]
        seeds.append({"seed": seed, "curve": curve})
        probabilities, labels = loop.predict(work, params, work.test_source, "ten")
        predicted.append(probabilities)
    found = [evaluate.errors(p, labels) for p in [*predicted, np.mean(predicted, 0)]]
    top1, top5 = [e.top1 for e in found], [e.top5 for e in found]
    ours, tag = figures(given.year, top1, top5), TABLES[given.year]
    figure, *_ = ours
    verdict = judge(work, top1[:-1], paper.claim(tag).published[figure])
    experiment.finish({tag: (ours, verdict)}, {arm: seeds}, curves())


if __name__ == "__main__":
    with one_line():
        main()
