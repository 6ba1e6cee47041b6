"""The loss and the errors of logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """-log p(label), in nats, of each image (AlexNet §3.5's multinomial objective)."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


def top_k_error(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], k: int
) -> Float[Array, " batch"]:
    """1 for each image whose label is not among the k largest logits, else 0.

    Ties count in proportion, as in the original program (`layer_kernels.cu`): logits
    that are all equal give 1 - k / classes, not 0. A logit that is NaN gives 1.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    larger = (logits > own).sum(axis=1)
    ties = (logits == own).sum(axis=1)
    places = jnp.clip(k - larger, 0, ties)
    error = 1 - places / jnp.maximum(ties, 1)
    return jnp.where(jnp.isnan(logits).any(axis=1), 1.0, error)
