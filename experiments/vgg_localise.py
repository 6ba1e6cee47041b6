"""VGG Appendix A: a box for each class localises better than one for all classes.

A net A, an eighth as wide, learns to classify windows of 64 pixels, cut at random from
pictures of 96. Three regressors start from it, with a new last layer. They predict a
box's centre, width and height, and minimise the squared Euclidean distance, with
dropout in the fully-connected layers:

- SCR: one box for all classes; only the fully-connected layers are trained;
- PCR: a box for each class; only the fully-connected layers are trained;
- PCR with all layers trained.

A box is right if its IoU with the true one is at least 0.5. The true class is given.
The errors are those of the centre crop, and of the boxes of nine windows, which are
merged greedily and rated by the classification net.

The pictures are digits pasted on two photographs (`_pasted.py`): one object each,
always complete, in ten classes. They are far easier than ImageNet's boxes. Other
differences from the paper:

- nine windows are cut where the paper slides the net. At this size zeros around the
  window are much of what the last convolutions see: with the net slid, a pilot had
  42.2% errors, and with windows at the same places 16.8%;
- the merged boxes have the true class too, not five predicted ones;
- Adam instead of momentum: in pilots without dropout, six epochs of all layers at 0.001
  ended at 87.6% errors with momentum, and at 18.3% with Adam.

Planned before the run: the paper gains 2.1 points by PCR and 1.2 by training all
layers. Two pilot seeds of eight epochs at 0.0005 had differences of -24.4 and -22.6
points by PCR, 49.3 and 47.0 by all layers, and 6.4 and 5.6 by merging: deviations of
1.3, 1.6 and 0.6. With these, five seeds find 2.2, 2.7 and 1.0 points with 80% power, so
not the paper's gains. Two seeds say little about a deviation. (The plan said 1.6, 2.1
and 0.7: it took normal quantiles where Student's belong.)

PCR learns slowly, as a class has a tenth of the pictures. One pilot seed of 24 epochs
had errors of 14.3% (SCR) and 23.5% (PCR) at 0.0005, and 9.6% and 11.6% at 0.002. So the
schedule decides the size of this difference, and its sign may be the paper's only with
more training or pictures. All layers at 0.001 had 19.9% after four epochs. The schedule
below, 16 epochs at 0.001, is between these and had no pilot itself.

Verdict: by the rule in `alexvgg_jax/results.py`, on three gains at once, the weakest of
which decides: PCR over SCR and all layers over few, both for the centre crop, and
merged boxes over the centre crop with all layers, for which no size is published.

    python experiments/vgg_localise.py                  # digits only
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _ablation import Experiment, dots
from _pasted import SIDE, Pictures, digest, pictures
from _runs import Measured, Run, describe, scaled
from _session import Session, main
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from rich.progress import track

from alexvgg_jax import paper, plots, results
from alexvgg_jax.augment import (
    VIEWS,
    Statistics,
    Views,
    map_views,
    statistics,
    subtract_mean,
)
from alexvgg_jax.boxes import iou, merge_boxes
from alexvgg_jax.config import Augment, Data, Optim
from alexvgg_jax.errors import InputError
from alexvgg_jax.loss import cross_entropy
from alexvgg_jax.models import Net, Params, build
from alexvgg_jax.results import Arms, Finding, Result, difference, estimate, verdict
from alexvgg_jax.sharding import check_batch, everywhere, make_mesh, place
from alexvgg_jax.step import compiler_options

TAG = "VGG Appendix A"
SCR, PCR, ALL = "SCR, fully-connected layers", "PCR, fully-connected layers", "PCR, all"
# By our name: the published one.
PUBLISHED = {
    ALL: "all layers fine-tuned, PCR, localisation error",
    PCR: "first two fc layers fine-tuned, PCR, localisation error",
    SCR: "first two fc layers fine-tuned, SCR, localisation error",
}
PER_CLASS = "localisation error, PCR minus SCR"
DEEPER = "localisation error, all layers minus fully-connected layers"
CENTRE = "localisation error, centre crop"
MERGED = "localisation error, merged boxes of nine windows"
CLASSES = "classification error, centre crop"
RIGHT = 0.5  # the least IoU of a right box
TRAIN, TEST = 3000, 1000  # pictures
CROP = 64  # pixels of what the net sees
SHOWN = 8  # test pictures in the plot
AUGMENT = Augment(crop=CROP, mean="channel")

Boxes = Float[np.ndarray, "pictures 4"]  # centre x and y, width, height
Loss = Callable[[Array, Array, Array], Array]  # (outputs, boxes, labels) -> mean loss


def about(data: Data) -> dict[str, Any]:
    """Return what a record says about the pictures."""
    if data.name != "digits":
        raise InputError(f"--data {data.name}: only digits are pasted")
    pasted = {"train": TRAIN, "test": TEST, "digest": digest(TRAIN, TEST)}
    name = "scikit-learn's digits on photographs"
    return describe(data) | pasted | {"set": name, "grey": False}


def keys(seed: int) -> PRNGKeyArray:
    """Return a key for each use: the first weights of the classification net, its
    training, the regressors' last layer, and their training. All regressors of a seed
    have the same windows."""
    return jax.random.split(jax.random.key(seed), 4)


def of_class(
    outputs: Float[Array, "*views pictures outputs"], labels: Int[Array, " pictures"]
) -> Float[Array, "*views pictures 4"]:
    """Return the box of each picture's class (PCR), or the only one (SCR)."""
    boxes = outputs.reshape(*outputs.shape[:-1], -1, 4)
    return boxes[..., jnp.arange(len(labels)), labels % boxes.shape[-2], :]


def box_loss(outputs: Array, boxes: Array, labels: Array) -> Array:
    """Return the mean square of the Euclidean distance to the true boxes."""
    return ((of_class(outputs, labels) - boxes) ** 2).sum(axis=1).mean()


def class_loss(outputs: Array, boxes: Array, labels: Array) -> Array:
    return cross_entropy(outputs, labels).mean()


def random_windows(
    key: Array, images: Array, boxes: Array
) -> tuple[UInt8[Array, "pictures crop crop 3"], Float[Array, "pictures 4"]]:
    """Return a random window of each picture, and the boxes as it sees them: from its
    centre, in units of its side."""
    corners = jax.random.randint(key, (len(images), 2), 0, SIDE - CROP + 1)  # x, y

    def cut(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (corner[1], corner[0], 0), (CROP, CROP, 3))

    centres = boxes[:, :2] - corners.astype(jnp.float32) - CROP / 2
    seen = jnp.concatenate([centres, boxes[:, 2:]], axis=1) / CROP
    return jax.vmap(cut)(images, corners), seen


def fit(
    run: Run,
    params: Params,
    shown: Pictures,
    stats: Statistics,
    loss: Loss,
    key: PRNGKeyArray,
) -> Params:
    """Return the parameters after training by Adam. A layer of rate 0 stays. `key`
    draws the order of the pictures and all noise."""
    mesh = make_mesh(run.mesh)
    check_batch(run.batch, mesh)
    frozen = {k: v for k, v in params.items() if run.optim.layer_rate.get(k) == 0}
    trained = {k: v for k, v in params.items() if k not in frozen}
    steps = len(shown.images) // run.batch
    drops = {round(epoch * steps): 0.1 for epoch in run.optim.drop_epochs}
    rate = optax.piecewise_constant_schedule(run.optim.rate, drops)
    optimizer = optax.adam(rate, run.optim.momentum)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def step(
        trained: Params, opt: Any, frozen: Params, key: Array, batch: Pictures
    ) -> tuple[Params, Any]:
        window_key, dropout_key = jax.random.split(key)
        images, boxes = random_windows(window_key, *map(jnp.asarray, batch[:2]))
        pixels = subtract_mean(images, stats.mean, AUGMENT)

        def mean_loss(trained: Params) -> Array:
            every = frozen | trained
            outputs, _ = run.net.apply(every, pixels, train=True, key=dropout_key)
            return loss(outputs, boxes, jnp.asarray(batch.labels))

        updates, opt = optimizer.update(jax.grad(mean_loss)(trained), opt)
        return cast(Params, optax.apply_updates(trained, updates)), opt

    start = everywhere((trained, optimizer.init(trained), frozen, stats), mesh)
    trained, opt, frozen, stats = start
    order_key, noise_key = jax.random.split(key)
    for epoch in track(range(run.epochs), f"{run.name}, seed {run.seed}"):
        shuffled = jax.random.permutation(
            jax.random.fold_in(order_key, epoch), len(shown.images)
        )
        order = np.asarray(shuffled)[: steps * run.batch].reshape(steps, -1)
        for number, chosen in enumerate(order, epoch * steps):
            batch = place(Pictures(*(array[chosen] for array in shown)), mesh)
            noise = jax.random.fold_in(noise_key, number)
            trained, opt = step(trained, opt, frozen, noise, batch)
    return jax.device_get(frozen | trained)


@functools.partial(
    jax.jit, static_argnames=("net", "views"), compiler_options=compiler_options()
)
def _outputs(net: Net, params: Params, images: Array, stats: Statistics, views: Views):
    def apply(seen: Array) -> Array:
        return net.apply(params, seen, train=False)[0]

    return map_views(apply, images, stats, AUGMENT, views)


def look(
    net: Net, params: Params, shown: Pictures, stats: Statistics, views: Views
) -> Float[np.ndarray, "views pictures outputs"]:
    """Return the net's outputs for the centre of each picture, or nine windows."""
    parts = np.array_split(shown.images, max(1, len(shown.images) // 100))
    outputs = [_outputs(net, params, jnp.asarray(p), stats, views) for p in parts]
    return np.concatenate(outputs, axis=1)


def in_pixels(outputs: np.ndarray, labels: np.ndarray, views: Views) -> np.ndarray:
    """Return the box that each view predicts for the true class, in the picture."""
    boxes = CROP * np.asarray(of_class(jnp.asarray(outputs), jnp.asarray(labels)))
    corners = np.array(VIEWS[views][0])[:, None, ::-1] * (SIDE - CROP) / 4  # x, y
    boxes[..., :2] += corners + CROP / 2
    return boxes


def error(boxes: Boxes, shown: Pictures) -> float:
    """Return the share of boxes with an IoU below 0.5, in %."""
    return 100 * float(np.mean(iou(boxes, shown.boxes) < RIGHT))


class Localiser(NamedTuple):
    """The pictures, and the classification net that the regressors start from."""

    train: Pictures
    test: Pictures
    stats: Statistics
    params: Params
    scores: Float[np.ndarray, "views pictures"]  # probability of the true class
    error: float  # of the centre crop, in %


def classifier(run: Run) -> Localiser:
    """Return the pictures and a net that is trained to classify them."""
    train, test = pictures(TRAIN, test=False), pictures(TEST, test=True)
    stats = statistics(np.array_split(train.images, 30))
    init_key, fit_key, _, _ = keys(run.seed)
    params = run.net.init(init_key)
    params = fit(run, params, train, stats, class_loss, fit_key)
    (centre,) = look(run.net, params, test, stats, 1)
    wrong = 100 * float(np.mean(centre.argmax(axis=1) != test.labels))
    every = np.asarray(jax.nn.softmax(look(run.net, params, test, stats, 9)))
    scores = every[:, np.arange(TEST), test.labels]
    return Localiser(train, test, stats, params, scores, wrong)


def localise(run: Run, known: Localiser) -> Measured:
    """Train a regressor. Return its errors, and its first boxes for the plot."""
    _, _, init_key, fit_key = keys(run.seed)
    params = known.params | {"fc8": run.net.init(init_key)["fc8"]}
    params = fit(run, params, known.train, known.stats, box_loss, fit_key)
    test, stats = known.test, known.stats

    def boxes(views: Views) -> np.ndarray:
        return in_pixels(look(run.net, params, test, stats, views), test.labels, views)

    (centre,) = boxes(1)
    nine = zip(boxes(9).swapaxes(0, 1), known.scores.T, strict=True)
    merged = np.stack([merge_boxes(*windows).boxes[0] for windows in nine])
    figures = {
        CENTRE: error(centre, test),
        MERGED: error(merged, test),
        CLASSES: known.error,
    }
    drawn = {"centre crop": centre[:SHOWN], "merged": merged[:SHOWN]}
    return Measured(figures, {k: v.round(1).tolist() for k, v in drawn.items()})


def run(outputs: int, rate: float, epochs: int) -> Run:
    """Return the run of net A, an eighth as wide, with this many outputs."""
    net = build("vgg-a", classes=outputs, image_size=CROP, width=1 / 8)
    drops = (0.75 * epochs,)
    optim = Optim(rate, bias_rate=1.0, weight_decay=0.0, drop_epochs=drops)
    data = Data(size=SIDE)
    return Run("vgg-a-boxes", data, AUGMENT, net, optim, batch=32, epochs=epochs)


def without_convolutions(run: Run) -> Run:
    """Return the run that trains the fully-connected layers alone."""
    fixed = [layer for layer in run.net.param_shapes() if layer.startswith("conv")]
    return replace(run, optim=replace(run.optim, layer_rate=dict.fromkeys(fixed, 0.0)))


CLASSIFY = replace(run(10, 0.0005, 20), name="vgg-a-classes")
ARMS = {
    SCR: without_convolutions(run(4, 0.001, 16)),
    PCR: without_convolutions(run(4 * 10, 0.001, 16)),
    ALL: run(4 * 10, 0.001, 16),
}


def train(session: Session) -> None:
    """Record every arm; those of one seed start from one classification net."""
    for seed in session.seeds(ALL):
        arms = session.chosen.arms or tuple(ARMS)
        runs = {arm: session.here(session.run(arm, seed)) for arm in arms}
        lacking = {arm: r for arm, r in runs.items() if not session.known(arm, r)}
        began, start = time.monotonic(), None
        for arm, regress in lacking.items():
            if start is None:
                epochs = max(1, CLASSIFY.epochs * regress.epochs // ARMS[arm].epochs)
                classify = scaled(CLASSIFY, epochs)
                start = classifier(replace(classify, seed=seed, mesh=regress.mesh))
            record = session.new(arm, regress, [], *localise(regress, start))
            seconds = round(time.monotonic() - began, 1)
            session.add(replace(record, seconds=seconds))
            began = time.monotonic()


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above."""
    errors = {a: estimate(results.values(arms[a], CENTRE)) for a in PUBLISHED}
    published = paper.claim(TAG).published
    per_class, deeper = (-published[name].value for name in (PER_CLASS, DEEPER))
    merging = [r.figures[CENTRE] - r.figures[MERGED] for r in arms[ALL]]
    gains = {
        "boxes per class": (difference(arms, SCR, PCR, CENTRE), per_class),
        "all layers": (difference(arms, PCR, ALL, CENTRE), deeper),
        "merged boxes": (estimate(merging, "points"), None),
    }
    verdicts = [verdict(*gain).because(name) for name, gain in gains.items()]
    ours = {
        PER_CLASS: difference(arms, PCR, SCR, CENTRE),
        DEEPER: difference(arms, ALL, PCR, CENTRE),
        "gain of merged boxes": gains["merged boxes"][0],
    }
    ours |= {PUBLISHED[arm]: error for arm, error in errors.items()}
    ours |= results.each(arms, MERGED)
    ours[CLASSES] = estimate(results.values(arms[ALL], CLASSES))
    return {TAG: Finding(ours, results.worst(*verdicts), (ALL, PCR, SCR))}


def draw(result: Result, path: Path) -> None:
    """Draw the errors, and the first test pictures with the boxes of one net."""
    dots(CENTRE, MERGED)(result, path)
    test, extra = pictures(SHOWN, test=True), result.arms[ALL][0].extra
    lines = {"true": ("w-", test.boxes)}
    lines |= {"centre crop": ("r:", extra["centre crop"])}
    lines |= {"merged": ("c--", extra["merged"])}
    corners = np.array([[-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]])
    figure = plots.new_figure(9.6, 5.4)
    grid = figure.subplots(2, SHOWN // 2)
    for i, axes in enumerate(grid.flat):
        axes.imshow(test.images[i], extent=(0, SIDE, SIDE, 0))
        for name, (style, boxes) in lines.items():
            centre, size = np.reshape(boxes[i], (2, 2, 1))
            axes.plot(*(centre + size / 2 * corners), style, label=name)
        axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[])
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, facecolor="grey")
    figure.suptitle(f"{ALL}: the first test pictures", fontsize="medium")
    plots.write_figure(figure, path.with_name(f"{path.stem}-boxes.png"))


EXPERIMENT = Experiment(
    "vgg_localise",
    __doc__,
    arms=ARMS,
    judge=judge,
    draw=draw,
    seeds=5,
    first_seed=50,
    measures=(CENTRE, MERGED, CLASSES),
    train=train,
    images=about,
)

if __name__ == "__main__":
    main(EXPERIMENT)
