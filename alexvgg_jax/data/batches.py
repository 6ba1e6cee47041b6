"""Batches as pure functions of (seed, step, host), and their way to the devices."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Int32, UInt8

from alexvgg_jax.data.sources import Source

T = TypeVar("T")


class Batch(NamedTuple):
    """Rows on the host, or the same rows on the devices."""

    images: UInt8[Array | np.ndarray, "batch height width 3"]
    labels: Int32[Array | np.ndarray, " batch"]
    mask: Bool[
        Array | np.ndarray, " batch"
    ]  # False where a row only fills up the batch


def train_batch(
    source: Source, batch: int, seed: int, step: int, host: int = 0, hosts: int = 1
) -> Batch:
    """This host's rows of the batch at `step`.

    The data is one endless stream, each epoch in an order of its own, cut into batches:
    every image is seen once an epoch, and the position is the step alone.
    """
    rows = batch // hosts
    positions = step * batch + host * rows + np.arange(rows)
    numbers = np.empty(rows, np.int64)
    for epoch in np.unique(positions // source.count):
        here = positions // source.count == epoch
        order = _order(source.count, seed, int(epoch))
        numbers[here] = order[positions[here] % source.count]
    return Batch(*source.fetch(numbers), np.ones(rows, bool))


@functools.lru_cache(maxsize=2)  # a batch can hold the end of one epoch and the next
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def first_step(epoch: int, count: int, batch: int) -> int:
    """The step at which `epoch` passes over the data are complete."""
    return -(-epoch * count // batch)


def eval_batches(
    source: Source, batch: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """This host's rows of every batch; padded and masked: every image counts once."""
    rows = batch // hosts
    for start in range(host * rows, source.count + host * rows, batch):
        numbers = start + np.arange(rows)
        mask = numbers < source.count
        yield Batch(*source.fetch(np.where(mask, numbers, 0)), mask)


def prefetch(batches: Iterable[Callable[[], T]], depth: int = 2) -> Iterator[T]:
    """Make `depth` batches ahead in a thread while the devices work."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for make in batches:
            waiting.append(pool.submit(make))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
