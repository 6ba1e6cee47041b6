"""One step of training and one of evaluation: pure functions, jitted with shardings."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from alexvgg_jax.augment import Statistics, Views, augment, centre, map_views
from alexvgg_jax.config import Augment
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.loss import cross_entropy, top_k_error
from alexvgg_jax.mesh import over_data, replicated
from alexvgg_jax.models import Model, Params
from alexvgg_jax.models.operations import on_cpu
from alexvgg_jax.models.parallel import Apply, apply_on, param_shardings


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]  # how many are done
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
    """That of a net which has done no step. Raises as `optimizer.init`."""
    params = net.init(key)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def gradients(
    params: Params,
    batch: Batch,
    stats: Statistics,
    key: PRNGKeyArray,
    *,
    apply: Apply,
    config: Augment,
    accumulate: int = 1,
) -> tuple[Params, Metrics]:
    """The gradients of a batch's mean loss in nats, and the batch's metrics.

    With `accumulate`, of so many parts one after another, each with noise of its own:
    activations take so many times less memory. `key` draws all noise.
    """
    count = jnp.asarray(batch.mask).sum(dtype=jnp.float32)

    def of_part(part: tuple[Batch, PRNGKeyArray]) -> tuple[Params, Metrics]:
        batch, key = part
        augment_key, dropout_key = jax.random.split(key)
        images = augment(augment_key, jnp.asarray(batch.images), stats, config)

        def loss(params: Params) -> tuple[Array, Metrics]:
            logits, _ = apply(params, images, train=True, key=dropout_key)
            metrics = measure(logits, batch)
            return metrics.loss / count, metrics

        return jax.grad(loss, has_aux=True)(params)

    if accumulate == 1:
        return of_part((batch, key))
    # Every so many rows, so that each device computes parts of its own rows.
    parts = jax.tree.map(
        lambda rows: rows.reshape(-1, accumulate, *rows.shape[1:]).swapaxes(0, 1), batch
    )
    keyed = parts, jax.random.split(key, accumulate)
    first = jax.tree.map(lambda rows: rows[0], keyed)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, first)
    )
    return lax.scan(
        lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(part)), None),
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
    config: Augment,
    accumulate: int = 1,
) -> tuple[State, Metrics]:
    """The state after one batch, and the batch's metrics before it.

    All noise comes from (key, state.step), so a resumed run draws what the straight
    run would have drawn.
    """
    key = jax.random.fold_in(key, state.step)
    slopes, metrics = gradients(
        state.params,
        batch,
        stats,
        key,
        apply=apply,
        config=config,
        accumulate=accumulate,
    )
    updates, opt = optimizer.update(slopes, state.opt, state.params, rates=rates)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return State(state.step + 1, params, opt), metrics


def eval_step(
    params: Params, batch: Batch, stats: Statistics, *, apply: Apply, config: Augment
) -> Metrics:
    """The metrics of one batch, seen through its centre crop."""
    images = centre(jnp.asarray(batch.images), stats, config)
    logits, _ = apply(params, images, train=False)
    return measure(logits, batch)


def predict_step(
    params: Params,
    batch: Batch,
    stats: Statistics,
    kind: Views,
    *,
    apply: Apply,
    config: Augment,
) -> Float[Array, "batch classes"]:
    """AlexNet §6 ten crops: each image's probabilities, averaged over its views."""

    def probabilities(seen: Array) -> Array:
        return jax.nn.softmax(apply(params, seen, train=False)[0])

    images = jnp.asarray(batch.images)
    return map_views(probabilities, images, stats, config, kind).mean(axis=0)


class Steps(NamedTuple):
    """The functions above, compiled for a mesh."""

    init: Callable[..., State]  # (key)
    train: Callable[..., tuple[State, Metrics]]  # (state, batch, stats, rates, key)
    eval: Callable[..., Metrics]  # (params, batch, stats)
    predict: Callable[..., Array]  # (params, batch, stats, views) -> probabilities


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
    *,
    accumulate: int = 1,
    zero: bool = False,
) -> Steps:
    """The functions jitted: batches split over the devices, parameters as the
    mesh splits the net, the old state's memory given to the new one.

    With `zero`, devices that hold the same parameters split the optimizer's state and
    work (ZeRO-1). Raises InputError for a net that cannot be split so.
    """
    whole, split = replicated(mesh), over_data(mesh)
    params = updated = param_shardings(net, mesh)
    if zero:
        optimizer, updated = _zero(net, optimizer, params)
    state = _layout(net, optimizer, whole, params, updated)
    apply = apply_on(net, mesh)
    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    return Steps(
        init=jit(
            functools.partial(init_state, net=net, optimizer=optimizer),
            out_shardings=state,
        ),
        train=jit(
            functools.partial(
                train_step,
                apply=apply,
                optimizer=optimizer,
                config=config,
                accumulate=accumulate,
            ),
            in_shardings=(state, split, whole, whole, whole),
            out_shardings=(state, whole),
            donate_argnums=0,
        ),
        eval=jit(
            functools.partial(eval_step, apply=apply, config=config),
            in_shardings=(state.params, split, whole),
            out_shardings=whole,
        ),
        predict=jit(
            functools.partial(predict_step, apply=apply, config=config),
            static_argnums=3,
            in_shardings=(state.params, split, whole),
            out_shardings=whole,
        ),
    )


def abstract_arguments(
    net: Model, optimizer: optax.GradientTransformation, batch: int, size: int
) -> tuple:
    """What `Steps.train` takes for a batch of `size` x `size` images, as shapes alone:
    to compile it without data."""

    def arguments():
        images = jnp.zeros((batch, size, size, 3), jnp.uint8)
        rows = Batch(images, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))
        stats = Statistics(jnp.zeros((size, size, 3)), jnp.zeros((3, 3)))
        key = jax.random.key(0)
        rates = jax.tree.map(lambda _: jnp.zeros(()), net.param_shapes())
        return init_state(key, net, optimizer), rows, stats, rates, key

    return jax.eval_shape(arguments)


Shardings = dict[str, dict[str, NamedSharding]]  # of parameters


def _zero(
    net: Model,
    optimizer: optax.GradientTransformationExtraArgs,
    params: Shardings,
) -> tuple[optax.GradientTransformationExtraArgs, Shardings]:
    """ZeRO-1: `optimizer` split over the devices, and where it updates parameters."""
    updated = jax.tree.map(_split_further, net.param_shapes(), params)
    _check_split(net, params, updated)
    return _split_update(optimizer, updated, params), updated


def _layout(
    net: Model,
    optimizer: optax.GradientTransformationExtraArgs,
    whole: NamedSharding,
    params: Shardings,
    updated: Shardings,
) -> State:
    """A sharding for every array of the state: what the optimizer keeps of each
    parameter lies where it is updated."""
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), net, optimizer))
    structure = jax.tree.structure(params)

    def mirrors_params(tree: object) -> bool:
        return jax.tree.structure(tree) == structure

    opt = jax.tree.map(
        lambda tree: updated if mirrors_params(tree) else whole,
        state.opt,
        is_leaf=mirrors_params,
    )
    shardings: Any = whole, params, opt
    return State(*shardings)


def _split_further(
    leaf: jax.ShapeDtypeStruct, sharding: NamedSharding
) -> NamedSharding:
    """The largest axis that divides, split over all devices that hold the same."""
    mesh, spec = sharding.mesh, [_names(axis) for axis in sharding.spec]
    spec += [()] * (leaf.ndim - len(spec))
    free = tuple(name for name in mesh.axis_names if name not in sum(spec, ()))
    devices = math.prod(mesh.shape[name] for name in free)
    own = sharding.shard_shape(leaf.shape)
    fits = [axis for axis, n in enumerate(own) if n % devices == 0]
    if devices == 1 or not fits:
        return sharding
    spec[max(fits, key=own.__getitem__)] += free
    return NamedSharding(mesh, P(*spec))


def _check_split(net: Model, params: Shardings, updated: Shardings) -> None:
    """InputError if the devices would all update the same half of the net, or more."""
    shapes = jax.tree.leaves(net.param_shapes())
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updated), strict=True)
    sizes = [math.prod(shape.shape) for shape in shapes]
    split = sum(n for n, (a, b) in zip(sizes, pairs, strict=True) if a != b)
    if split <= sum(sizes) / 2:
        raise InputError(
            f"--mesh.zero: of {sum(sizes):,} weights, {split:,} divide over devices "
            "that hold the same ones: leave it out"
        )


def _names(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (axis,) if isinstance(axis, str) else axis or ()


def _split_update(
    optimizer: optax.GradientTransformationExtraArgs, split: Shardings, kept: Shardings
) -> optax.GradientTransformationExtraArgs:
    """`optimizer` where each device updates its part, and then gathers what it keeps.

    Gradients are summed for all first, as without it: else the split would spread into
    the gradients' own products, and gather activations for them.
    """
    lay_out = lax.with_sharding_constraint

    def update(updates, state, params=None, **extra):
        updates, params = lay_out((lay_out(updates, kept), params), (split, split))
        updates, state = optimizer.update(updates, state, params, **extra)
        return lay_out(updates, kept), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
