"""AlexNet Figure 4: the nearest images in the last hidden layer show the same things.

For every test image, the six training images at the least Euclidean distance in the
features of fc7 of `alexnet-small`. The figure is how many of the six have the test
image's class, beside those of the six nearest in raw pixels, and in fc7 before the net
is trained. "At the pixel level" the six of fc7 "are generally not close": how many of
all training images are closer is measured too, of which half would be chance. The plot
is the paper's, for eight test images: the five most probable labels of each, and its
six nearest.

Verdict: reproduced if the share of the same class is higher in the features than in the
pixels by more than two standard errors, not reproduced if lower by as much, undecided
between. Whether the labels are reasonable is for who looks at the plot.

    python experiments/alexnet_retrieval.py             # digits
    python experiments/alexnet_retrieval.py --data cifar10
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _arms import SMALL, Experiment, Options, options
from jaxtyping import Array, Float, Int

from alexvgg_jax import loop
from alexvgg_jax.augment import centre
from alexvgg_jax.data.batches import eval_batches
from alexvgg_jax.data.sources import Source
from alexvgg_jax.errors import one_line
from alexvgg_jax.report import (
    Result,
    Seeds,
    estimate,
    spread,
    verdict,
    write_figure,
)

SHOWN, LABELS, NEAREST = 8, 5, 6  # test images, labels and neighbours in figure 4
LAYER = "relu7"
SAME = "of the six nearest in fc7, same class, %"
SAME_UNTRAINED = "of the six nearest in fc7 before training, same class, %"
SAME_PIXELS = "of the six nearest in pixels, same class, %"
CLOSER = "training images closer in pixels than those in fc7, %"

PART = 500  # queries at a time

Vectors = Float[np.ndarray, "images features"]
Neighbours = Int[np.ndarray, "images count"]


def vectors(work: loop.Work, source: Source, of: Callable[[Array], Array]) -> Vectors:
    """`of` every image of a source, its centre crop with the mean subtracted."""

    @jax.jit
    def compute(images: Array) -> Array:
        return of(centre(images, work.stats, work.run.augment)).reshape(len(images), -1)

    return np.concatenate(
        [
            jax.device_get(compute(jnp.asarray(batch.images)))[batch.mask]
            for batch in eval_batches(source, work.run.batch)
        ]
    )


def features(trained: loop.Trained, source: Source) -> Vectors:
    def of(images: Array) -> Array:
        apply = functools.partial(trained.work.net.apply, train=False, until=LAYER)
        return apply(trained.params, images)[0]

    return vectors(trained.work, source, of)


def pixels(trained: loop.Trained, source: Source) -> Vectors:
    return vectors(trained.work, source, lambda images: images)


def _distances(queries: Array, stored: Array) -> Array:
    """|q - s|^2 without |q|^2, which is the same for every s."""
    return (stored**2).sum(axis=1)[None] - 2 * queries @ stored.T


@functools.partial(jax.jit, static_argnums=2)
def _closest(queries: Array, stored: Array, count: int) -> Array:
    return jax.lax.top_k(-_distances(queries, stored), count)[1]


@jax.jit
def _closer(queries: Array, stored: Array, found: Array) -> Array:
    distances = _distances(queries, stored)
    theirs = jnp.take_along_axis(distances, found, axis=1)
    return (distances[:, None] < theirs[:, :, None]).mean(axis=2)


def nearest(queries: Vectors, stored: Vectors, count: int = NEAREST) -> Neighbours:
    """The numbers of the stored vectors at the least distance, the nearest first."""
    parts = np.array_split(queries, max(1, len(queries) // PART))
    return np.concatenate([np.asarray(_closest(part, stored, count)) for part in parts])


def closer(queries: Vectors, stored: Vectors, found: Neighbours) -> float:
    """How many of the stored vectors are closer to a query than those found for it, %
    on average."""
    count = max(1, len(queries) // PART)
    parts = zip(
        np.array_split(queries, count), np.array_split(found, count), strict=True
    )
    shares = [np.asarray(_closer(part, stored, theirs)) for part, theirs in parts]
    return 100 * float(np.concatenate(shares).mean())


def labels(source: Source) -> Int[np.ndarray, " images"]:
    return source.fetch(np.arange(source.count))[1]


def neighbours(trained: loop.Trained) -> Neighbours:
    """The training images nearest to each test image in the last hidden layer."""
    test, train = trained.work.test_source, trained.work.source
    return nearest(features(trained, test), features(trained, train))


def measure(trained: loop.Trained, found: Neighbours) -> dict[str, float]:
    """The figures of one net, which finds these neighbours."""
    work = trained.work
    test, train = work.test_source, work.source
    untrained = trained._replace(params=loop.untrained(work))
    raw = pixels(trained, test), pixels(trained, train)
    train_labels, test_labels = labels(train), labels(test)[:, None]

    def same_class(those: Neighbours) -> float:
        return 100 * float((train_labels[those] == test_labels).mean())

    return {
        SAME: same_class(found),
        SAME_UNTRAINED: same_class(neighbours(untrained)),
        SAME_PIXELS: same_class(nearest(*raw)),
        CLOSER: closer(*raw, found),
    }


@dataclass(frozen=True)
class Row:
    """One test image of figure 4."""

    test: int
    label: int
    guesses: list[int]
    probabilities: list[float]
    neighbours: list[int]


def rows(trained: loop.Trained, found: Neighbours) -> list[Row]:
    """The first test images, one a class, and their neighbours."""
    work = trained.work
    predicted, truth = loop.predict(work, trained.params, work.test_source)
    first = [int(np.argmax(truth == label)) for label in np.unique(truth)][:SHOWN]
    guesses = np.argsort(-predicted[first], axis=1)[:, :LABELS]
    return [
        Row(
            test=number,
            label=int(truth[number]),
            guesses=guessed.tolist(),
            probabilities=predicted[number][guessed].tolist(),
            neighbours=close.tolist(),
        )
        for number, guessed, close in zip(first, guesses, found[first], strict=True)
    ]


def draw(result: Result, path: Path, train: Source, test: Source) -> None:
    """Figure 4: a column an image: itself, its most probable labels, its nearest."""
    from matplotlib.figure import Figure  # 0.5 s to import

    shown = [Row(**row) for row in result.arms["figure 4"]]
    figure = Figure(figsize=(max(1.5 * len(shown), 9), 10.5), layout="constrained")
    heights = [1, 1] + [1] * NEAREST
    grid = figure.subplots(
        len(heights), len(shown), squeeze=False, height_ratios=heights
    )
    for column, row in zip(grid.T, shown, strict=True):
        column[0].imshow(test.fetch(np.array([row.test]))[0][0])
        column[0].set_title(test.classes[row.label], fontsize="small")
        places = range(len(row.guesses))
        colours = ["C3" if guess == row.label else "C0" for guess in row.guesses]
        column[1].barh(places, row.probabilities, color=colours)
        column[1].invert_yaxis()
        column[1].set_xlim(0, 1)
        for place, guess in enumerate(row.guesses):
            column[1].text(0.02, place, test.classes[guess], fontsize=7, va="center")
        for axes, number in zip(column[2:], row.neighbours, strict=True):
            images, (label,) = train.fetch(np.array([number]))
            axes.imshow(images[0])
            colour = "C3" if label == row.label else "black"
            axes.set_xlabel(train.classes[label], fontsize=7, color=colour, labelpad=1)
        for axes in column:
            axes.set_xticks([])
            axes.set_yticks([])
    (finding,) = result.findings.values()
    figure.suptitle(
        f"AlexNet Figure 4: {finding.verdict} ({result.data['set']})\n"
        "a test image, its most probable labels, the nearest training images in fc7 "
        "(red: the true class)"
    )
    write_figure(figure, path)


def judge(seeds: Seeds) -> str:
    """The rule above."""
    gains = [seed[SAME] - seed[SAME_PIXELS] for seed in seeds]
    return verdict(estimate(gains)) + "; labels not judged"


def main() -> None:
    given = options(__doc__, Options())
    experiment = Experiment("alexnet_retrieval", given)
    seeds, figure4 = [], []
    for seed, trained in enumerate(experiment.seeds(SMALL.model.name, SMALL)):
        found = neighbours(trained)
        seeds.append({"seed": seed} | measure(trained, found))
        if seed == 0:
            figure4 = [vars(row) for row in rows(trained, found)]
    figures = (SAME, SAME_UNTRAINED, SAME_PIXELS, CLOSER)
    ours = {name: spread([seed[name] for seed in seeds]) for name in figures}
    experiment.finish(
        {"AlexNet Figure 4": (ours, judge(seeds))},
        {SMALL.model.name: seeds, "figure 4": figure4},
        functools.partial(draw, train=experiment.source, test=experiment.test),
    )


if __name__ == "__main__":
    with one_line():
        main()
