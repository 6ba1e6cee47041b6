"""Testing and predicting with a trained net; every image of a test set counts once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from alexvgg_jax.augment import Views
from alexvgg_jax.config import Mesh, Run
from alexvgg_jax.data.batches import Batch, by_shape, eval_batches, prefetch
from alexvgg_jax.data.decode import Resize, ToSquare, decode, fit, read_file
from alexvgg_jax.data.sources import Picture, Source
from alexvgg_jax.errors import InputError
from alexvgg_jax.loss import cross_entropy, top_k_error
from alexvgg_jax.models import Net, Params
from alexvgg_jax.protocols import Protocol, pictures, probabilities
from alexvgg_jax.ready import Setup
from alexvgg_jax.sharding import (
    all_devices,
    everywhere,
    make_mesh,
    place,
    rows_of_host,
)
from alexvgg_jax.step import Sums, compiler_options


class Score(NamedTuple):
    """Means over images."""

    loss: float  # nats
    top1: float  # error in %
    top5: float


def add(sums: Sums, batch: Sums) -> Sums:
    """`sums` plus a batch's sums from the devices, in float64."""
    return Sums(*map(lambda a, b: a + float(b), sums, jax.device_get(batch)))


def score(sums: Sums) -> Score:
    """Sums over at least one image as means."""
    count, loss, top1, top5 = map(float, sums)
    return Score(loss / count, 100 * top1 / count, 100 * top5 / count)


def average(step: Callable[[Batch], Sums], batches: Iterable[Batch]) -> Score:
    """The score of all `batches`, where `step` returns the sums of one."""
    sums, last = Sums(), None
    for batch in batches:
        current = step(batch)
        if last is not None:
            sums = add(sums, last)  # fetched while the next batch is computed
        last = current
    return score(sums if last is None else add(sums, last))


def test(setup: Setup, params: Params, source: Source) -> Score:
    """The score of `params` on all images of `source`, by their centre crops."""
    rows = rows_of_host(setup.run.batch, setup.mesh)
    batches = eval_batches(source, setup.run.batch, rows)
    return average(
        lambda batch: setup.steps.eval(params, batch, setup.stats),
        (place(batch, setup.mesh) for batch in batches),
    )


def check_views(run: Run, views: Views) -> None:
    """InputError for several views of a net that was trained without crops: they
    would be the same view."""
    if views > 1 and not run.augment.crop:
        raise InputError(f"--views {views}: the net was trained without --augment.crop")


def predict(
    setup: Setup, params: Params, source: Source, views: Views = 1
) -> tuple[Float[np.ndarray, "images classes"], Int[np.ndarray, " images"]]:
    """The probabilities of all images of `source`, averaged over views, and the labels.

    Raises InputError on several hosts, and for an image that cannot be decoded.
    """
    if jax.process_count() > 1:
        raise InputError("predict and eval run on one host only")
    check_views(setup.run, views)
    probabilities, labels = [], []
    for batch in eval_batches(source, setup.run.batch):
        images = place(batch.images, setup.mesh)
        outputs = setup.steps.predict(params, images, setup.stats, views)
        probabilities.append(jax.device_get(outputs)[batch.mask])
        labels.append(np.asarray(batch.labels)[batch.mask])
    return np.concatenate(probabilities), np.concatenate(labels)


def score_predictions(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
) -> Score:
    """The score of predicted probabilities, of one net or averaged over several
    (AlexNet §6 five nets)."""
    log_p = jnp.log(jnp.maximum(probabilities, np.finfo(np.float32).tiny))
    true = jnp.asarray(labels)
    each = (
        cross_entropy(log_p, true),
        top_k_error(log_p, true, 1),
        top_k_error(log_p, true, 5),
    )
    sums = (float(np.sum(jax.device_get(part), dtype=np.float64)) for part in each)
    return score(Sums(len(labels), *sums))


class Predictions(NamedTuple):
    """The probabilities of pictures, in the order of their set."""

    names: tuple[str, ...]
    labels: Int[np.ndarray, " images"]
    probabilities: Float[np.ndarray, "images classes"]
    programs: int  # that were compiled: at most two for each shape of arrays


def predict_pictures(
    net: Net,
    params: Params,
    source: Source,
    protocol: Protocol,
    scales: Sequence[int],
    mean: Float[np.ndarray, "rows columns 3"],
    resize: Resize,
    batch: int = 32,
    advance: Callable[[int], object] = lambda count: None,
) -> Predictions:
    """VGG Table 4: the probabilities of all images of `source`, each once, by
    `protocol`, averaged over scales.

    `resize` scales an image to a short side of `scales` pixels, `mean` is subtracted
    from it, and `advance` hears how many images are read. Raises InputError on several
    hosts, and for an image that cannot be decoded or is too small.
    """
    if jax.process_count() > 1:
        raise InputError("predict and eval run on one host only")
    mesh, devices = make_mesh(Mesh()), len(all_devices())
    params, mean = everywhere((params, mean), mesh)
    options = compiler_options()
    run = jax.jit(probabilities, static_argnums=(0, 1), compiler_options=options)
    names, labels = [""] * source.count, np.full(source.count, -1, np.int32)
    total, programs = np.zeros((source.count, net.classes), np.float32), set()

    def read() -> Iterator[tuple[int, np.ndarray]]:
        for number, picture in _read(source, scales, resize, batch):
            names[number], labels[number] = picture.name, picture.label
            yield from ((number, image) for image in picture.scales)
            advance(1)

    for shape, group in by_shape(read(), -(-batch // devices) * devices):
        numbers, images = map(list, zip(*group, strict=True))
        images += images[-1:] * (-len(images) % devices)
        placed = place(pictures(net, protocol, images, shape), mesh)
        outputs = jax.device_get(run(net, protocol, params, placed, mean))
        np.add.at(total, numbers, outputs[: len(numbers)] / len(scales))
        programs.add((shape, len(images)))
    kept = labels >= 0
    if not kept.any():
        raise InputError(f"{source.about}: all {source.count:,} images are damaged")
    of_kept = tuple(compress(names, kept))
    return Predictions(of_kept, labels[kept], total[kept], len(programs))


def _read(
    source: Source, scales: Sequence[int], resize: Resize, batch: int
) -> Iterator[tuple[int, Picture]]:
    """The number and the picture of every image, read ahead by `batch` at a time."""
    parts = np.array_split(np.arange(source.count), -(-source.count // batch))
    read = prefetch(partial(source.pictures, part, scales, resize) for part in parts)
    for part, some in zip(parts, read, strict=True):
        yield from zip(part.tolist(), some, strict=True)


def classify(
    setup: Setup,
    params: Params,
    files: list[Path],
    views: Views = 1,
    to_square: ToSquare = fit,
) -> Iterator[tuple[Path, Float[np.ndarray, " classes"] | Exception]]:
    """Each file with its probabilities, or with the error if it cannot be read."""
    check_views(setup.run, views)
    size, devices = setup.run.test_size, len(all_devices())
    # All batches have one shape, so that the step is compiled once.
    batch = min(setup.run.batch, -(-len(files) // devices) * devices)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            read = partial(decode_file, size=size, to_square=to_square)
            decoded = list(pool.map(read, part))
            images = np.zeros((batch, size, size, 3), np.uint8)
            for i, image in enumerate(decoded):
                if isinstance(image, np.ndarray):
                    images[i] = image
            placed = place(images, setup.mesh)
            outputs = setup.steps.predict(params, placed, setup.stats, views)
            for i, output in enumerate(jax.device_get(outputs)[: len(part)]):
                error = decoded[i] if isinstance(decoded[i], Exception) else None
                yield part[i], error or output


def decode_file(
    file: Path, size: int, to_square: ToSquare
) -> UInt8[np.ndarray, "_ _ 3"] | Exception:
    """A picture of size x size, or the error if it cannot be read."""
    try:
        return decode(read_file(file), str(file), size, to_square)
    except InputError as error:
        return error
