"""AlexNet Figure 4: the nearest images in the last hidden layer show the same things.

Finds the six nearest training images of each test image, by Euclidean distance in the
features of fc7 of `alexnet-small`. The figure is the share of the six that have the
class of the test image. Two more shares compare it: of the six nearest in raw pixels,
and of the six nearest in fc7 of the untrained net. The paper adds that the six of fc7
are "generally not close" at the pixel level. So a further figure is the share of all
training images that are closer in pixels than the six; chance is half. The plot is the
paper's, with eight test images, their five most probable labels and their six nearest
images.

Verdict: by the rule in `alexvgg_jax/results.py`, on the share of the same class in the
features minus that in the pixels. No rule judges whether the labels are reasonable: see
the plot.

    python experiments/alexnet_retrieval.py             # digits
    python experiments/alexnet_retrieval.py --data cifar10
"""

import base64
import functools
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from _ablation import Experiment
from _runs import SMALL, Measured, Source, Trained, outputs, predict, untrained
from _session import main
from jaxtyping import Array, Float, Int

from alexvgg_jax import plots
from alexvgg_jax.results import Arms, Finding, Result, estimate, values, verdict

ARM, LAYER = "alexnet-small", "relu7"
SHOWN, LABELS, NEAREST = 8, 5, 6  # test images, labels and neighbours in figure 4
SAME = "same class, six nearest in fc7"
SAME_UNTRAINED = "same class, fc7 before training"
SAME_PIXELS = "same class, six nearest in pixels"
CLOSER = "training images closer in pixels than the six"
PART = 500  # queries at a time

Vectors = Float[np.ndarray, "images features"]
Neighbours = Int[np.ndarray, "images count"]


def _distances(queries: Array, stored: Array) -> Array:
    """|q - s|^2 without |q|^2, which is the same for every s."""
    return (stored**2).sum(axis=1)[None] - 2 * queries @ stored.T


@functools.partial(jax.jit, static_argnums=2)
def _closest(queries: Array, stored: Array, count: int) -> Array:
    return jax.lax.top_k(-_distances(queries, stored), count)[1]


@jax.jit
def _closer(queries: Array, stored: Array, neighbours: Array) -> Array:
    distances = _distances(queries, stored)
    theirs = jnp.take_along_axis(distances, neighbours, axis=1)
    return (distances[:, None] < theirs[:, :, None]).mean(axis=2)


def nearest(queries: Vectors, stored: Vectors, count: int = NEAREST) -> Neighbours:
    """Return the numbers of the stored vectors at the least distance, nearest first."""
    parts = np.array_split(queries, max(1, len(queries) // PART))
    return np.concatenate([np.asarray(_closest(part, stored, count)) for part in parts])


def closer(queries: Vectors, stored: Vectors, neighbours: Neighbours) -> float:
    """Return the share of stored vectors closer to a query than its neighbours, %."""
    count = max(1, len(queries) // PART)
    parts = (np.array_split(array, count) for array in (queries, neighbours))
    shares = [_closer(part, stored, near) for part, near in zip(*parts, strict=True)]
    return 100 * float(np.concatenate(shares).mean())


def labels(source: Source) -> Int[np.ndarray, " images"]:
    return source.fetch(np.arange(source.count))[1]


def neighbours(trained: Trained, layer: str | None) -> Neighbours:
    """Return the training images nearest to each test image in a layer."""
    test, train = trained.work.test_source, trained.work.source
    return nearest(outputs(trained, test, layer), outputs(trained, train, layer))


def measure(trained: Trained) -> Measured:
    """Return the shares of one net, and what figure 4 shows of the first."""
    test, train = trained.work.test_source, trained.work.source
    train_labels, test_labels = labels(train), labels(test)[:, None]

    def same_class(numbers: Neighbours) -> float:
        return 100 * float((train_labels[numbers] == test_labels).mean())

    close = neighbours(trained, LAYER)
    pixels = outputs(trained, test, None), outputs(trained, train, None)
    figures = {
        SAME: same_class(close),
        SAME_UNTRAINED: same_class(neighbours(untrained(trained), LAYER)),
        SAME_PIXELS: same_class(nearest(*pixels)),
        CLOSER: closer(*pixels, close),
    }
    first = trained.work.run.seed == 0
    return Measured(figures, figure4(trained, close) if first else {})


def figure4(trained: Trained, close: Neighbours) -> dict[str, Any]:
    """Return the first test images, one a class, their labels and their neighbours, as
    JSON. The images are one PNG: a column each, with its neighbours below."""
    test, train = trained.work.test_source, trained.work.source
    predicted, truth = predict(trained)
    shown = [int(np.argmax(truth == label)) for label in np.unique(truth)][:SHOWN]
    guesses = np.argsort(-predicted[shown], axis=1)[:, :LABELS]
    columns, near_labels = [], []
    for number in shown:
        near, classes = train.fetch(close[number])
        columns.append(np.concatenate([test.fetch(np.array([number]))[0], near]))
        near_labels.append([train.classes[label] for label in classes])
    mosaic = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    _, png = cv2.imencode(".png", cv2.cvtColor(mosaic, cv2.COLOR_RGB2BGR))
    return {
        "labels": [test.classes[truth[number]] for number in shown],
        "guesses": [[test.classes[label] for label in line] for line in guesses],
        "probabilities": np.take_along_axis(predicted[shown], guesses, 1).tolist(),
        "neighbours": near_labels,
        "images": base64.b64encode(png.tobytes()).decode(),
    }


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    gains = [r.figures[SAME] - r.figures[SAME_PIXELS] for r in arms[ARM]]
    names = (SAME, SAME_UNTRAINED, SAME_PIXELS, CLOSER)
    ours = {name: estimate(values(arms[ARM], name)) for name in names}
    decided = verdict(estimate(gains)).because("labels not judged")
    return {"AlexNet Figure 4": Finding(ours, decided)}


def draw(result: Result, path: Path) -> None:
    """Draw figure 4: each image, its most probable labels, its nearest."""
    for record in result.arms[ARM]:
        if "images" in record.extra:
            _draw(record.extra, plots.title(result), path)


def _draw(shown: dict[str, Any], text: str, path: Path) -> None:
    png = np.frombuffer(base64.b64decode(shown["images"]), np.uint8)
    mosaic = cv2.imdecode(png, cv2.IMREAD_COLOR_RGB)
    assert mosaic is not None
    columns = np.split(mosaic, len(shown["labels"]), axis=1)
    figure = plots.new_figure(max(1.5 * len(columns), 9), 10.5)
    grid = figure.subplots(2 + NEAREST, len(columns), squeeze=False)
    for i, (axes, column) in enumerate(zip(grid.T, columns, strict=True)):
        label, names = shown["labels"][i], shown["guesses"][i]
        image, *near = np.split(column, 1 + NEAREST)
        axes[0].imshow(image)
        axes[0].set_title(label, fontsize="small")
        colours = ["C3" if name == label else "C0" for name in names]
        axes[1].barh(range(len(names)), shown["probabilities"][i], color=colours)
        axes[1].invert_yaxis()
        axes[1].set_xlim(0, 1)
        for place, name in enumerate(names):
            axes[1].text(0.02, place, name, fontsize=7, va="center")
        tiles = zip(axes[2:], near, shown["neighbours"][i], strict=True)
        for axis, tile, name in tiles:
            axis.imshow(tile)
            colour = "C3" if name == label else "black"
            axis.set_xlabel(name, fontsize=7, color=colour, labelpad=1)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    parts = "a test image, its most probable labels, the nearest training images in fc7"
    figure.suptitle(f"{text}\n{parts} (red: the true class)")
    plots.write_figure(figure, path)


EXPERIMENT = Experiment(
    "alexnet_retrieval",
    __doc__,
    arms={ARM: SMALL},
    judge=judge,
    draw=draw,
    measure=measure,
    measures=(SAME, SAME_UNTRAINED, SAME_PIXELS, CLOSER),
)

if __name__ == "__main__":
    main(EXPERIMENT)
