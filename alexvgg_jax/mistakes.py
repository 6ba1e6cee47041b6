"""Which classes a net confuses, and the pictures that it is most wrong about."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from alexvgg_jax.data.sources import Source
from alexvgg_jax.plots import new_figure, write_figure

CLASSES = 20  # of a confusion matrix that can be read
PICTURES = 20  # 4 rows of 5

Probabilities = Float[np.ndarray, "images classes"]
Labels = Int[np.ndarray, " images"]


def draw(
    source: Source, probabilities: Probabilities, labels: Labels, folder: Path
) -> str:
    """Draw `confusion.png` and `mistakes.png` in a folder; return a line about them.

    The arguments are the result of `evaluate.predict` for `source`.
    """
    counts = confusion(probabilities, labels)
    draw_confusion(counts, source.classes, folder / "confusion.png")
    numbers = worst(probabilities, labels)
    good = np.arange(source.count)
    if len(labels) < source.count:  # predictions leave damaged images out
        parts = np.array_split(good, -(-source.count // 256))
        good = np.concatenate([part[source.fetch(part)[1] >= 0] for part in parts])
    images, _ = source.fetch(good[numbers])
    titles = [
        f"{_short(source.classes[probabilities[i].argmax()])} "
        f"{100 * probabilities[i].max():.0f}%\n"
        f"true: {_short(source.classes[labels[i]])}"
        for i in numbers
    ]
    right = int(np.trace(counts))
    text = f"accuracy {100 * right / len(labels):.2f}%: {right:,} of {len(labels):,}"
    draw_pictures(images, titles, text, folder / "mistakes.png")
    return f"{text}; drawn: {folder}/confusion.png, {folder}/mistakes.png"


def confusion(
    probabilities: Probabilities, labels: Labels
) -> Int[np.ndarray, "classes classes"]:
    """The number of images of each class (row) that were predicted as each (column)."""
    classes = probabilities.shape[1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def worst(probabilities: Probabilities, labels: Labels) -> Int[np.ndarray, " mistakes"]:
    """The indices of up to `PICTURES` mistakes, the most certain ones first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:PICTURES]


def most_confused(counts: Int[np.ndarray, "classes classes"]) -> list[int]:
    """Up to `CLASSES` classes, in order: those of the pairs with the most mistakes."""
    if len(counts) <= CLASSES:
        return list(range(len(counts)))
    mistakes = counts - np.diag(np.diag(counts))
    pairs = np.argsort(-mistakes, axis=None, kind="stable")[: CLASSES**2]
    rows_and_columns = np.stack(np.divmod(pairs, len(counts)), axis=1)
    return sorted(list(dict.fromkeys(rows_and_columns.ravel().tolist()))[:CLASSES])


def draw_confusion(
    counts: Int[np.ndarray, "classes classes"], classes: tuple[str, ...], path: Path
) -> None:
    """Draw a confusion matrix, of the most confused classes if there are many. The
    colour is the share of all images of a row's class."""
    shown = most_confused(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(shown)
    figure = new_figure(size, size)
    axes = figure.subplots()
    axes.imshow(shares[np.ix_(shown, shown)], cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(shown):
        for x, column in enumerate(shown):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = f"{counts[row, column]}"
                centre = {"ha": "center", "va": "center", "fontsize": "small"}
                axes.text(x, y, text, color=colour, **centre)
    names = [_short(classes[number]) for number in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90)
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(shown) < len(counts):
        axes.set_title(f"the {len(shown)} most confused of {len(counts):,} classes")
    write_figure(figure, path)


def draw_pictures(
    images: UInt8[np.ndarray, "pictures height width 3"],
    titles: list[str],
    text: str,
    path: Path,
) -> None:
    """Draw pictures in rows of 5, each below its title, and `text` above them all."""
    rows = max(1, -(-len(images) // 5))
    figure = new_figure(8.0, 1.9 * rows + 0.4)
    axes = figure.subplots(rows, 5, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize="x-small")
    figure.suptitle(text, fontsize="medium")
    write_figure(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"
