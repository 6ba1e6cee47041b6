"""What is minimised and what is reported, of logits and labels."""

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
    """1 where the label is not among the k largest logits, 0 where it is.

    Ties count for their share, as in the original program (`layer_kernels.cu`): equal
    logits everywhere give 1 - k / classes, not 0.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    larger = (logits > own).sum(axis=1)
    ties = (logits == own).sum(axis=1)
    places = jnp.clip(k - larger, 0, ties)
    error = 1 - places / jnp.maximum(ties, 1)
    return jnp.where(jnp.isnan(logits).any(axis=1), 1.0, error)
