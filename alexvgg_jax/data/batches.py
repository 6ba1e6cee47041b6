"""Batches as pure functions of (seed, step, host), made ahead in a thread."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Int32, UInt8

from alexvgg_jax.data.sources import Source

T = TypeVar("T")
LONG_STEP = 32  # pixels between the long sides of two shapes of arrays


class Batch(NamedTuple):
    """Labelled images, on the host or on the devices."""

    images: UInt8[Array | np.ndarray, "batch height width 3"]
    labels: Int32[Array | np.ndarray, " batch"]
    mask: Bool[Array | np.ndarray, " batch"]  # False for padding and damaged images


def train_batch(
    source: Source,
    batch: int,
    seed: int,
    step: int,
    rows: np.ndarray | None = None,
    shuffle: bool = True,
) -> Batch:
    """The batch at `step`, or the rows of it that one host holds.

    The data is an endless stream of epochs, cut into batches. Every image comes once an
    epoch, and the position is the step alone. Each epoch has its own order or, without
    `shuffle`, the order of the source.
    """
    positions = step * batch + (np.arange(batch) if rows is None else rows)
    numbers = np.empty(len(positions), np.int64)
    for epoch in np.unique(positions // source.count):
        in_epoch = positions // source.count == epoch
        places = positions[in_epoch] % source.count
        order = _order(source.count, seed, int(epoch)) if shuffle else None
        numbers[in_epoch] = places if order is None else order[places]
    images, labels = source.fetch(numbers)
    return Batch(images, labels, labels >= 0)


@functools.lru_cache(maxsize=2)  # a batch can hold the end of one epoch and the next
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def first_step(epoch: int, count: int, batch: int) -> int:
    """The step at which `epoch` passes over the data are complete."""
    return -(-epoch * count // batch)


def eval_batches(
    source: Source, batch: int, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """All images once, in batches that are padded and masked; or one host's rows."""
    rows = np.arange(batch) if rows is None else rows
    for start in range(0, source.count, batch):
        numbers = start + rows
        mask = numbers < source.count
        images, labels = source.fetch(np.where(mask, numbers, 0))
        yield Batch(images, labels, mask & (labels >= 0))


def by_shape(
    images: Iterable[tuple[int, np.ndarray]], batch: int
) -> Iterator[tuple[tuple[int, int], list[tuple[int, np.ndarray]]]]:
    """Shapes, and up to `batch` numbered images for which arrays of the shape suffice.

    A shape has the images' own short side, and their long side rounded up to a multiple
    of `LONG_STEP` pixels. For each shape, all groups but the last are full.
    """
    waiting: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    for number, image in images:
        height, width = image.shape[:2]
        long = -(-max(height, width) // LONG_STEP) * LONG_STEP
        shape = (height, width)
        if height != width:
            shape = (height, long) if height < width else (long, width)
        group = waiting.setdefault(shape, [])
        group.append((number, image))
        if len(group) == batch:
            yield shape, waiting.pop(shape)
    yield from waiting.items()


def prefetch(
    batches: Iterable[Callable[[], T]], depth: int = 2, threads: int = 1
) -> Iterator[T]:
    """The batches in order, made `depth` ahead in threads while the devices work."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for make in batches:
            waiting.append(pool.submit(make))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
