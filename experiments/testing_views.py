"""VGG §3.2: what crops and dense evaluation see of an image, counted and drawn.

Nothing is trained. The photograph is one of scikit-learn's, the net is D, and the
scales are those of the paper. What is drawn follows from the places of
`alexvgg_jax/augment.py` and the score maps of `alexvgg_jax/models/slide.py`.
(`vgg_testing.py` measures the errors, and `benchmarks/testing_time.py` the time.)

Verdict: counted if the numbers of crops are the published ones; it contradicts here
otherwise.

    python experiments/testing_views.py    # writes results/testing_views.png
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from jaxtyping import UInt8

from alexvgg_jax import models, paper, plots, protocols
from alexvgg_jax.augment import VIEWS, Views
from alexvgg_jax.data.decode import scale_short
from alexvgg_jax.errors import one_line
from alexvgg_jax.models.slide import map_sizes, slide
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import Finding, Result, Verdict

NAME, TAG = "testing_views", "VGG §3.2"
NET = models.build("vgg-d")
SCALES = (256, 384, 512)  # VGG Table 5: the short side Q
DRAWN: dict[str, Views] = {"centre": 1, "ten": 10, "multi-crop": 50}
STRIDE = 32  # pixels from one position of the score map to the next: five poolings
ROWS, GREYS = 128, 12  # of the photograph, for a small file

Corner = tuple[int, int]  # the top and the left side of a square, in pixels


def result() -> Result:
    """Return a result without records: the number of crops, and what they cost."""
    flips = VIEWS[50][1]
    counts = [len({*crops(q, 2 * q, 50)}) * len(flips) for q in SCALES]  # 2:1 images
    ours = {
        "crops a scale": Figure(counts[0]),
        "crops over three scales": Figure(sum(counts)),
    }
    published = paper.claim(TAG).published
    same = all(published[name].value == figure.value for name, figure in ours.items())
    for scale in SCALES:
        dense = protocols.cost(NET, "dense", scale, scale)
        ratio = protocols.cost(NET, "multi-crop", scale, scale) / dense
        ours[f"multiply-adds of crops over dense, Q {scale}"] = Figure(ratio, "times")
    decided = Verdict("counted" if same else "contradicts here")
    return Result(NAME, {}, {TAG: Finding(ours, decided)})


def crops(height: int, width: int, views: Views) -> list[Corner]:
    """Return the crops of an image: the 25 of multi-crop are spread over all of it,
    fewer over its centre square."""
    spare, offset = np.array([height, width]) - NET.image_size, 0
    if views < 50:
        offset = (spare - spare.min()) // 2
        spare = spare.min()
    corners = offset + spare * np.array(VIEWS[views][0]) // 4
    return [(top, left) for top, left in corners.tolist()]


def positions(height: int, width: int) -> list[Corner]:
    """Return the 224-pixel windows that the positions of the score map stand for. (The
    net sees beyond them, where a window alone has zeros.)"""
    rows, columns = map_sizes(slide(NET), np.array([[height, width]]))[-1, 0]
    return [(STRIDE * y, STRIDE * x) for y in range(rows) for x in range(columns)]


def draw(path: Path) -> None:
    """Draw what each protocol sees of a photograph."""
    from sklearn.datasets import load_sample_image

    photo = cv2.cvtColor(load_sample_image("china.jpg"), cv2.COLOR_RGB2GRAY)
    figure = plots.new_figure(7.2, 4.2)
    panels = figure.subplots(2, 3)
    for axes, (protocol, views) in zip(panels[0], DRAWN.items(), strict=True):
        height, width = shape = scale_short(photo, SCALES[0]).shape[:2]
        seen, mirrored = crops(height, width, views), len(VIEWS[views][1]) > 1
        count = f"{len(seen)} x 2" if mirrored else f"{len(seen)}"
        _draw_squares(axes, photo, shape, seen)
        axes.set_title(f"{protocol}, Q {SCALES[0]}: {count}", fontsize="small")
    for axes, scale in zip(panels[1], SCALES, strict=True):
        height, width = shape = scale_short(photo, scale).shape[:2]
        seen = positions(height, width)
        _draw_squares(axes, photo, shape, seen)
        axes.set_title(f"dense, Q {scale}: {len(seen)} x 2", fontsize="small")
    text = "VGG's net D: the first and the last 224-pixel window, the middle of each"
    figure.suptitle(f"{text}\n(x 2: also of the mirror image)", fontsize="medium")
    plots.write_figure(figure, path)


def _draw_squares(
    axes: Any,
    photo: UInt8[np.ndarray, "rows columns"],
    shape: tuple[int, int],
    seen: list[Corner],
) -> None:
    """Draw two squares, and the middle of all, on the photograph scaled to `shape`."""
    from matplotlib.patches import Rectangle

    (height, width), side = shape, NET.image_size
    pale = 0.5 + np.round(scale_short(photo, ROWS) / 255 * GREYS) / GREYS / 2
    place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    axes.imshow(pale, cmap="grey", vmin=0, vmax=1, **place)
    for top, left in {seen[0], seen[-1]}:
        axes.add_patch(Rectangle((left, top), side, side, fill=False, color="C3"))
    middles = np.array(seen) + side / 2
    axes.plot(middles[:, 1], middles[:, 0], "C3.", markersize=3)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def main(out: Path = Path("results")) -> None:
    """Draw the picture in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    draw(out / f"{NAME}.png")
    print(f"wrote {out / NAME}.png")


if __name__ == "__main__":
    with one_line():
        tyro.cli(main, description=__doc__)
