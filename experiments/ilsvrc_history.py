"""VGG Table 7: the errors of ILSVRC by year, and the depth of the nets.

Nothing is trained. The errors are the published ones of `alexvgg_jax/paper.py`, on
ImageNet. The depth of the nets that this package has is counted. That of GoogLeNet is
VGG's own figure (§4.5). The others are not in these papers.

    python experiments/ilsvrc_history.py                # writes results/*.png
"""

from pathlib import Path
from typing import NamedTuple

import tyro

from alexvgg_jax import models, paper, plots
from alexvgg_jax.errors import one_line

RESULTS = Path("results")


class Entry(NamedTuple):
    """A published error of the challenge."""

    year: int
    tag: str  # of the claim
    figure: str  # top-5 error on the test set, in %
    net: str = ""  # the deepest of this package in the entry
    layers: int = 0  # of a net that this package does not have


SPARSE, TABLE2, TABLE7 = "AlexNet Table 1", "AlexNet Table 2", "VGG Table 7"
ENTRIES = (
    Entry(2010, SPARSE, "Sparse coding, top-5"),
    Entry(2012, TABLE2, "SIFT + FVs, top-5 test"),
    Entry(2012, TABLE2, "7 CNNs, two of them pre-trained, top-5 test", "alexnet-paper"),
    Entry(2013, TABLE7, "Zeiler & Fergus, top-5 test"),
    Entry(2013, TABLE7, "OverFeat, top-5 test"),
    Entry(2013, TABLE7, "Clarifai, top-5 test"),
    Entry(2014, TABLE7, "MSRA, 11 nets, top-5 test"),
    Entry(2014, TABLE7, "VGG, 7 nets, top-5 test", "vgg-e"),
    Entry(2014, TABLE7, "GoogLeNet, 7 nets, top-5 test", layers=22),
)


def error(entry: Entry) -> float:
    """Return the published error of an entry, in %."""
    return paper.claim(entry.tag).published[entry.figure].value


def depth(entry: Entry) -> int:
    """Return the number of weight layers; 0 if these papers do not tell."""
    if entry.net:
        return len(models.build(entry.net).param_shapes())
    return entry.layers


def draw(path: Path) -> None:
    """Draw a dot an entry, with its depth; ours are blue, with names on the left."""
    figure = plots.new_figure(7.2, 4.8)
    axes = figure.subplots()
    for entry in ENTRIES:
        colour, layers = ("C0" if entry.net else "grey"), depth(entry)
        axes.plot(entry.year, error(entry), "o", color=colour)
        name = entry.figure.removesuffix(" test").removesuffix(", top-5")
        text = f"{name}, {layers} layers" if layers else name
        place, side = (entry.year, error(entry)), -1 if entry.net else 1
        axes.annotate(
            text,
            place,
            (6 * side, -3),
            textcoords="offset points",
            ha="right" if entry.net else "left",
            fontsize=7,
        )
    axes.set(ylabel="published top-5 test error, %", xlim=(2009.5, 2015.5))
    axes.set_xticks(sorted({entry.year for entry in ENTRIES}))
    axes.set_ylim(0, None)
    axes.set_title("ILSVRC by year; blue: the nets of this package", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    plots.write_figure(figure, path)


def main(out: Path = RESULTS) -> None:
    """Draw the chart in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    draw(out / "ilsvrc_history.png")
    print(f"wrote {out / 'ilsvrc_history.png'}")


if __name__ == "__main__":
    with one_line():
        tyro.cli(main, description=__doc__)
