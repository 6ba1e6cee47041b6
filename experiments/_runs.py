"""How experiments set, train and measure a run: their only use of the package's API."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexvgg_jax import evaluate, loop, start
from alexvgg_jax import run as run_folder
from alexvgg_jax.augment import Views, centre
from alexvgg_jax.config import Data, Mesh, Run, from_settings, to_settings
from alexvgg_jax.data.batches import eval_batches
from alexvgg_jax.data.decode import scale_short
from alexvgg_jax.data.sources import (
    Source,
    find_rest,
    find_source,
    numbered,
    open_source,
)
from alexvgg_jax.errors import InputError
from alexvgg_jax.loop import Trained
from alexvgg_jax.models import build
from alexvgg_jax.protocols import Protocol
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.results import GAP, TEST, TOP5, TRAINING

VIEWS: dict[Views, str] = {
    9: "test error of nine views",
    10: "test error of ten views",
}
TEN = VIEWS[10]


def recipe(name: str) -> Run:
    """Return the run of a recipe."""
    return RECIPES[name].run


SMALL = recipe("alexnet-small")  # the net of AlexNet's experiments
# A fifth of CIFAR-10, so that the net overfits as the paper's does. The colour noise
# ends ten epochs before the training, as in the original program.
SUBSET = replace(
    SMALL,
    data=replace(SMALL.data, count=10_000),
    augment=replace(SMALL.augment, colour_epochs=80.0),
    optim=replace(SMALL.optim, drop_epochs=(60.0, 80.0)),
    epochs=90,
)


def with_net(run: Run, **fields: Any) -> Run:
    """Return the run with other fields of its net."""
    return replace(run, net=replace(run.net, **fields))


def at_rate(run: Run, rate: float) -> Run:
    """Return the run at another learning rate."""
    return replace(run, optim=replace(run.optim, rate=rate))


def settings_of(run: Run) -> dict[str, Any]:
    """Return the run as JSON. Of a path only the last name is kept: records go into
    other people's checkouts."""
    data = replace(run.data, name=_last_name(run.data.name))
    run = replace(run, data=data, init_from=_last_name(run.init_from))
    return json.loads(json.dumps(to_settings(run)))


def _last_name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def same_run(settings: Mapping[str, Any], run: Run) -> bool:
    """Whether a record's settings are those of a run, wherever its images and first
    weights lie, and however many devices share the work."""

    def neutral(run: Run) -> Run:
        data, start = replace(run.data, name=""), "somewhere" if run.init_from else ""
        run = replace(run, name="", data=data, init_from=start)
        return replace(run, mesh=Mesh(), checkpoint_every=1)

    known = run_of(settings)
    return known is not None and neutral(known) == neutral(run)


def run_of(settings: Mapping[str, Any]) -> Run | None:
    """Return the run of a record's settings; None if they are of another version."""
    try:
        return from_settings(settings)
    except (KeyError, TypeError, ValueError, InputError):
        return None


def describe(data: Data) -> dict[str, Any]:
    """Return what a record says about its images. Reads a hundred of them.

    Training images that are left out are for testing too.
    """
    train, test = find_source(data, "train"), find_source(data, "test")
    rest = find_rest(data)
    some, _ = train.fetch(np.arange(0, train.count, train.count // 100 or 1))
    images = run_folder.images_of(train, test)
    grey = bool((some == some[..., :1]).all())
    tested = test.count + (rest.count if rest else 0)
    more = {"test": tested, "classes": len(train.classes), "grey": grey}
    return asdict(images) | more


def share_compiled(directory: Path) -> None:
    """Keep compiled programs there for all seeds, unless the environment says where."""
    if not jax.config.jax_compilation_cache_dir:  # pyrefly: ignore
        jax.config.update("jax_compilation_cache_dir", str(directory / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def train_in(directory: Path, run: Run) -> Trained:
    """Train a run, or continue it. A folder with other settings is replaced."""
    try:
        resume = replace(run_folder.settings(directory), epochs=run.epochs) == run
    except InputError:  # no settings, or those of another version
        resume = False
    if not resume and (directory / run_folder.SETTINGS).exists():
        with run_folder.locked(directory):  # another experiment may train there
            shutil.rmtree(directory)
    trained = loop.train(run, directory, resume=resume)
    if len(trained.history) > run.epochs:  # by an earlier, longer schedule
        shutil.rmtree(directory)
        return loop.train(run, directory)
    return trained


class Measured(NamedTuple):
    """What an experiment measures of one trained net."""

    figures: dict[str, float]
    extra: dict[str, Any] = {}  # what its picture shows, as JSON


def _at_test_size(run: Run) -> Data:
    return replace(run.data, size=run.test_size)


def errors(trained: Trained, views: Sequence[Views] = ()) -> dict[str, float]:
    """Return the errors at the end of training, without noise and with all units."""
    work, of_tests = trained.work, _at_test_size(trained.work.run)
    same = of_tests == work.run.data
    source = work.source if same else open_source(of_tests, "train")
    training, _ = mean_errors(*evaluate.predict(work, trained.params, source))
    test, top5 = mean_errors(*predict(trained))
    figures: dict[str, float] = {
        TEST: test,
        TOP5: top5,
        TRAINING: training,
        GAP: test - training,
    }
    for count in views if work.run.augment.crop else ():
        figures[VIEWS[count]], _ = mean_errors(*predict(trained, count))
    return figures


def predict(trained: Trained, views: Views = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities and labels of the test images, and of the training
    images that are left out, if there are any."""
    work = trained.work
    sources = filter(None, (work.test_source, find_rest(_at_test_size(work.run))))
    parts = [evaluate.predict(work, trained.params, s, views) for s in sources]
    probabilities, labels = zip(*parts, strict=True)
    return np.concatenate(probabilities), np.concatenate(labels)


def some_tests(trained: Trained, share: float) -> Source:
    """Return a share of the test images, spread over the set, in whole batches."""
    test, batch = trained.work.test_source, trained.work.run.batch
    count = max(1, int(share * test.count) // batch) * batch
    chosen = np.linspace(0, test.count - 1, min(count, test.count))
    return numbered(test, chosen.astype(np.int64))


def predict_scale(
    trained: Trained, source: Source, protocol: Protocol, scale: int
) -> np.ndarray:
    """VGG §3.2: return the probabilities of images whose short side is scaled to
    `scale` pixels. The net subtracts a colour."""
    work = trained.work
    colour = np.asarray(work.stats.mean).mean(axis=(0, 1), keepdims=True)
    return evaluate.predict_pictures(
        work.net,
        trained.params,
        source,
        protocol,
        (scale,),
        colour,
        scale_short,
        work.run.batch,
    ).probabilities


def mean_errors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the top-1 and top-5 errors of predicted probabilities, in %."""
    score = evaluate.score_predictions(probabilities, labels)
    return score.top1, score.top5


def untrained(trained: Trained) -> Trained:
    """Return the net as it was before training."""
    return trained._replace(params=start.untrained(trained.work))


def outputs(trained: Trained, source: Source, layer: str | None) -> np.ndarray:
    """Return a layer's output for every image, one vector each. For None: the pixels
    that the net sees."""
    work = trained.work

    @jax.jit
    def compute(images: jax.Array) -> jax.Array:
        images = centre(images, work.stats, work.run.augment)
        if layer is not None:
            images, _ = work.net.apply(trained.params, images, train=False, until=layer)
        return images.reshape(len(images), -1)

    batches = eval_batches(source, work.run.batch)
    return np.concatenate(
        [np.asarray(compute(jnp.asarray(b.images)))[b.mask] for b in batches]
    )


def scaled(run: Run, epochs: int) -> Run:
    """Return the run with all phases of its schedule scaled to this many epochs."""

    def moved(epoch: float) -> float:
        return epoch * epochs / run.epochs

    augment, optim = run.augment, run.optim
    return replace(
        run,
        epochs=epochs,
        augment=replace(augment, colour_epochs=moved(augment.colour_epochs)),
        optim=replace(
            optim,
            drop_epochs=tuple(map(moved, optim.drop_epochs)),
            layer_drop={k: moved(epoch) for k, epoch in optim.layer_drop.items()},
            layer_freeze={k: moved(epoch) for k, epoch in optim.layer_freeze.items()},
            frozen_epochs=moved(optim.frozen_epochs),
            plateau=math.ceil(moved(optim.plateau)),
        ),
    )


def small_vgg(name: str, **fields: Any) -> Run:
    """Return the run of a VGG an eighth as wide, on the images of alexnet-small and
    with its schedule in twelve epochs. Five poolings of 28 pixels leave one."""
    net = build(name, width=1 / 8, **fields)
    return replace(scaled(SMALL, 12), name=f"{name}-small", net=net)
