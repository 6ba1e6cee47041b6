"""One step of training and one of evaluation: pure functions, jitted with shardings."""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from alexvgg_jax.augment import Statistics, augment, centre
from alexvgg_jax.config import Augment
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.loss import cross_entropy, top_k_error
from alexvgg_jax.mesh import over_data, replicated
from alexvgg_jax.models import Model, Params
from alexvgg_jax.models.operations import on_cpu


class State(NamedTuple):
    step: Int[Array, ""]
    params: Params
    opt: optax.OptState


class Metrics(NamedTuple):
    """Sums over the images of a batch."""

    count: Float[Array, ""]
    loss: Float[Array, ""]  # nats
    top1: Float[Array, ""]  # errors
    top5: Float[Array, ""]


def measure(logits: Array, batch: Batch) -> Metrics:
    """The sums of a batch, its padding left out."""
    mask, labels = jnp.asarray(batch.mask, logits.dtype), jnp.asarray(batch.labels)
    return Metrics(
        count=mask.sum(),
        loss=(mask * cross_entropy(logits, labels)).sum(),
        top1=(mask * top_k_error(logits, labels, 1)).sum(),
        top5=(mask * top_k_error(logits, labels, 5)).sum(),
    )


def init_state(
    key: PRNGKeyArray, net: Model, optimizer: optax.GradientTransformation
) -> State:
    params = net.init(key)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def gradients(
    params: Params,
    batch: Batch,
    stats: Statistics,
    key: PRNGKeyArray,
    *,
    net: Model,
    config: Augment,
) -> tuple[Params, Metrics]:
    """The gradients of a batch's mean loss in nats, and the batch's metrics."""
    augment_key, dropout_key = jax.random.split(key)
    images = augment(augment_key, jnp.asarray(batch.images), stats, config)

    def loss(params: Params) -> tuple[Array, Metrics]:
        logits, _ = net.apply(params, images, train=True, key=dropout_key)
        metrics = measure(logits, batch)
        return metrics.loss / metrics.count, metrics

    return jax.grad(loss, has_aux=True)(params)


def train_step(
    state: State,
    batch: Batch,
    stats: Statistics,
    rate: Float[Array, ""],
    key: PRNGKeyArray,
    *,
    net: Model,
    optimizer: optax.GradientTransformationExtraArgs,
    config: Augment,
) -> tuple[State, Metrics]:
    """The state after one batch, and the batch's metrics before it.

    All noise comes from (key, state.step), so a resumed run draws what the straight
    run would have drawn.
    """
    key = jax.random.fold_in(key, state.step)
    slopes, metrics = gradients(state.params, batch, stats, key, net=net, config=config)
    updates, opt = optimizer.update(slopes, state.opt, state.params, rate=rate)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return State(state.step + 1, params, opt), metrics


def eval_step(
    params: Params, batch: Batch, stats: Statistics, *, net: Model, config: Augment
) -> Metrics:
    """The metrics of one batch, seen through its centre crop."""
    images = centre(jnp.asarray(batch.images), stats, config)
    logits, _ = net.apply(params, images, train=False)
    return measure(logits, batch)


class Steps(NamedTuple):
    init: Callable[..., State]  # (key)
    train: Callable[..., tuple[State, Metrics]]  # (state, batch, stats, rate, key)
    eval: Callable[..., Metrics]  # (params, batch, stats)


CPU_OPTIONS = {
    # Convolutions go to Eigen instead of YNNPACK: a CIFAR-10 epoch takes 45 s instead
    # of 62 on two cores. Experimental in XLA, so a version may refuse it.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # XLA for CPUs takes barriers away before it fuses, and before it finds that what
    # jax.checkpoint computes again was there already.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def compiler_options() -> dict[str, str]:
    """CPU_OPTIONS where they apply and this version of XLA knows them, else none."""
    return CPU_OPTIONS if on_cpu() and _known() else {}


@functools.cache
def _known() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_steps(
    net: Model,
    optimizer: optax.GradientTransformationExtraArgs,
    config: Augment,
    mesh: Mesh,
) -> Steps:
    """The three functions jitted: batches split over `data`, everything else whole on
    each device, the old state's memory given to the new one."""
    whole, split = replicated(mesh), over_data(mesh)

    def init(key):
        return init_state(key, net, optimizer)

    def train(state, batch, stats, rate, key):
        return train_step(
            state, batch, stats, rate, key, net=net, optimizer=optimizer, config=config
        )

    def evaluate(params, batch, stats):
        return eval_step(params, batch, stats, net=net, config=config)

    jit = functools.partial(
        jax.jit, out_shardings=whole, compiler_options=compiler_options()
    )
    return Steps(
        init=jit(init),
        train=jit(
            train,
            in_shardings=(whole, split, whole, whole, whole),
            donate_argnums=0,
        ),
        eval=jit(evaluate, in_shardings=(whole, split, whole)),
    )
