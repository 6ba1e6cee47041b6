"""One step of training, testing or predicting: pure functions, jitted for a mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from alexvgg_jax.augment import Statistics, Views, augment, centre, map_views
from alexvgg_jax.config import Augment
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.loss import cross_entropy, top_k_error
from alexvgg_jax.models import Net, Params
from alexvgg_jax.models.parallel import Apply, apply_on, param_shardings
from alexvgg_jax.sharding import (
    optimizer_shardings,
    over_data,
    replicated,
    split_optimizer,
)


class State(NamedTuple):
    """Everything that a step changes."""

    step: Int[Array, ""]  # steps done
    params: Params
    opt: optax.OptState


class Sums(NamedTuple):
    """Sums over images: float32 on devices, Python floats on the host."""

    count: Float[Array, ""] | float = 0.0
    loss: Float[Array, ""] | float = 0.0  # nats
    top1: Float[Array, ""] | float = 0.0  # errors
    top5: Float[Array, ""] | float = 0.0


def sum_errors(logits: Array, batch: Batch) -> Sums:
    """The sums over a batch, without its padding."""
    mask, labels = jnp.asarray(batch.mask, logits.dtype), jnp.asarray(batch.labels)
    return Sums(
        count=mask.sum(),
        loss=(mask * cross_entropy(logits, labels)).sum(),
        top1=(mask * top_k_error(logits, labels, 1)).sum(),
        top5=(mask * top_k_error(logits, labels, 5)).sum(),
    )


def init_state(
    key: PRNGKeyArray, net: Net, optimizer: optax.GradientTransformation
) -> State:
    """The state before the first step. Raises like `optimizer.init`."""
    params = net.init(key)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def gradients(
    params: Params,
    batch: Batch,
    stats: Statistics,
    key: PRNGKeyArray,
    *,
    apply: Apply,
    augmentation: Augment,
    accumulate: int = 1,
) -> tuple[Params, Sums]:
    """The gradients of a batch's mean loss in nats, and the batch's sums.

    `key` draws all noise. With `accumulate`, the batch is computed in that many parts,
    one after another and each with its own noise, to save activation memory.
    """
    count = jnp.asarray(batch.mask).sum(dtype=jnp.float32)

    def of_part(part: tuple[Batch, PRNGKeyArray]) -> tuple[Params, Sums]:
        batch, key = part
        augment_key, dropout_key = jax.random.split(key)
        images = augment(augment_key, jnp.asarray(batch.images), stats, augmentation)

        def loss(params: Params) -> tuple[Array, Sums]:
            logits, _ = apply(params, images, train=True, key=dropout_key)
            sums = sum_errors(logits, batch)
            return jnp.asarray(sums.loss) / count, sums

        return jax.grad(loss, has_aux=True)(params)

    if accumulate == 1:
        return of_part((batch, key))
    # Part i has the images i, i + accumulate, ...: each device computes parts of its
    # own images.
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(-1, accumulate, *leaf.shape[1:]).swapaxes(0, 1), batch
    )
    keyed = parts, jax.random.split(key, accumulate)
    first = jax.tree.map(lambda leaf: leaf[0], keyed)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, first)
    )
    return lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, of_part(part)), None),
        zeros,
        keyed,
    )[0]


def train_step(
    state: State,
    batch: Batch,
    stats: Statistics,
    rates: dict[str, dict[str, Float[Array, ""]]],
    key: PRNGKeyArray,
    *,
    apply: Apply,
    optimizer: optax.GradientTransformationExtraArgs,
    augmentation: Augment,
    accumulate: int = 1,
) -> tuple[State, Sums]:
    """The state after one batch, and the sums of the batch before the update.

    All noise comes from (key, state.step), so a resumed run repeats the noise of an
    uninterrupted run.
    """
    key = jax.random.fold_in(key, state.step)
    how = {"apply": apply, "augmentation": augmentation, "accumulate": accumulate}
    grads, sums = gradients(state.params, batch, stats, key, **how)
    updates, opt = optimizer.update(grads, state.opt, state.params, rates=rates)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return State(state.step + 1, params, opt), sums


def eval_step(
    params: Params,
    batch: Batch,
    stats: Statistics,
    *,
    apply: Apply,
    augmentation: Augment,
) -> Sums:
    """The sums of one batch, from the centre crop of each image."""
    images = centre(jnp.asarray(batch.images), stats, augmentation)
    logits, _ = apply(params, images, train=False)
    return sum_errors(logits, batch)


def predict_step(
    params: Params,
    images: UInt8[Array, "batch height width 3"],
    stats: Statistics,
    views: Views,
    *,
    apply: Apply,
    augmentation: Augment,
) -> Float[Array, "batch classes"]:
    """AlexNet §6 ten crops: each image's probabilities, averaged over its views."""

    def probabilities(crops: Array) -> Array:
        return jax.nn.softmax(apply(params, crops, train=False)[0])

    return map_views(probabilities, images, stats, augmentation, views).mean(axis=0)


class Steps(NamedTuple):
    """The functions above, compiled for a mesh."""

    init: Callable[..., State]  # (key)
    train: jax.stages.Wrapped  # -> State, Sums; (state, batch, stats, rates, key)
    eval: Callable[..., Sums]  # (params, batch, stats)
    predict: Callable[..., Array]  # (params, images, stats, views) -> probabilities


CPU_OPTIONS = {
    # Convolutions go to Eigen instead of YNNPACK: a CIFAR-10 epoch takes 45 s instead
    # of 62 on two cores. Experimental in XLA, so a version may refuse it.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # XLA for CPUs removes barriers before it fuses, and before it finds that what
    # jax.checkpoint recomputes already exists.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def compiler_options() -> dict[str, str]:
    """CPU_OPTIONS on a CPU whose version of XLA has them, else none."""
    return CPU_OPTIONS if _compiles_for_cpu() and _supported() else {}


def _compiles_for_cpu() -> bool:
    device = jax.config.jax_default_device  # pyrefly: ignore[missing-attribute]
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


@functools.cache
def _supported() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_steps(
    net: Net,
    optimizer: optax.GradientTransformationExtraArgs,
    augmentation: Augment,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    zero: bool = False,
) -> Steps:
    """The steps, jitted: batches split over the devices, parameters as the mesh splits
    the net, the old state's memory reused for the new state.

    With `zero`, devices that hold the same parameters split the optimizer's state and
    work (ZeRO-1). Raises InputError for a net that the mesh cannot split.
    """
    params = split = param_shardings(net, mesh)
    if zero:
        optimizer, split = split_optimizer(optimizer, net.param_shapes(), params)
    init = functools.partial(init_state, net=net, optimizer=optimizer)
    opt = jax.eval_shape(lambda: init(jax.random.key(0))).opt
    shared, batches = replicated(mesh), over_data(mesh)
    layout: Any = (shared, params, optimizer_shardings(opt, split, mesh))
    state = State(*layout)
    how = {"apply": apply_on(net, mesh), "augmentation": augmentation}
    train = functools.partial(
        train_step, optimizer=optimizer, accumulate=accumulate, **how
    )
    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    return Steps(
        init=jit(init, out_shardings=state),
        train=jit(
            train,
            in_shardings=(state, batches, shared, shared, shared),
            out_shardings=(state, shared),
            donate_argnums=0,
        ),
        eval=jit(
            functools.partial(eval_step, **how),
            in_shardings=(params, batches, shared),
            out_shardings=shared,
        ),
        predict=jit(
            functools.partial(predict_step, **how),
            static_argnums=3,
            in_shardings=(params, batches, shared),
            out_shardings=shared,
        ),
    )


def abstract_arguments(
    net: Net, optimizer: optax.GradientTransformation, batch: int, size: int
) -> tuple:
    """The shapes of the arguments of `Steps.train` for a batch of `size` x `size`
    images: enough to compile it."""

    def arguments():
        images = jnp.zeros((batch, size, size, 3), jnp.uint8)
        labelled = Batch(images, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))
        stats = Statistics(jnp.zeros((size, size, 3)), jnp.zeros((3, 3)))
        key = jax.random.key(0)
        rates = jax.tree.map(lambda _: jnp.zeros(()), net.param_shapes())
        return init_state(key, net, optimizer), labelled, stats, rates, key

    return jax.eval_shape(arguments)
