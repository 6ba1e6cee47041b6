"""The error of a network, or of several, on a whole set: every image counts once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from alexvgg_jax.data.batches import Batch
from alexvgg_jax.loss import cross_entropy, top_k_error
from alexvgg_jax.step import Metrics


class Sums(NamedTuple):
    """`Metrics` on the host, in double precision: 10^6 images still count exactly."""

    count: float = 0.0
    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0


class Errors(NamedTuple):
    """Means over images."""

    loss: float  # nats
    top1: float  # %
    top5: float  # %


def mean(sums: Sums) -> Errors:
    """Sums over at least one image as means, errors in %."""
    return Errors(
        sums.loss / sums.count,
        100 * sums.top1 / sums.count,
        100 * sums.top5 / sums.count,
    )


def add(sums: Sums, batch: Metrics) -> Sums:
    """`sums` and one more batch, fetched from the devices."""
    fetched = jax.device_get(batch)
    return Sums(*(a + float(b) for a, b in zip(sums, fetched, strict=True)))


def evaluate(step: Callable[[Batch], Metrics], batches: Iterable[Batch]) -> Errors:
    """The mean of `step(batch)` over `batches`, which are padded and masked."""
    sums, last = Sums(), None
    for batch in batches:
        metrics = step(batch)
        if last is not None:
            sums = add(sums, last)  # fetched while the next batch is computed
        last = metrics
    if last is not None:
        sums = add(sums, last)
    return mean(sums)


def errors(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
) -> Errors:
    """The errors of predicted probabilities: of one net, or the mean of several
    (AlexNet §6 five nets)."""
    log_p = jnp.log(jnp.maximum(probabilities, np.finfo(np.float32).tiny))
    labels_ = jnp.asarray(labels)
    of_each = (
        cross_entropy(log_p, labels_),
        top_k_error(log_p, labels_, 1),
        top_k_error(log_p, labels_, 5),
    )
    sums = (float(np.sum(jax.device_get(part), dtype=np.float64)) for part in of_each)
    return mean(Sums(len(labels), *sums))
