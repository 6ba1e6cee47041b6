"""The update rule of the original program as an optax chain, and its learning rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexvgg_jax.config import Optim
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Params


def original_sgd(optim: Optim) -> optax.GradientTransformationExtraArgs:
    """AlexNet §5 decay: v <- momentum v - rate (gradient + decay w); w <- w + v.

    The rate is inside the velocity (`weights.cu`), so a drop of the rate does not
    change the velocity; optax.sgd has it outside. At a rate of 0 both w and v stay
    (`Weights::update`). Biases have no decay. The state is the velocity. Call
    `update(gradients, state, params, rates=...)` with the result of `learning_rates`.
    `init` raises InputError if `optim` names a layer that the net does not have.
    """

    def init(params):
        for flag, layers in (
            ("layer-decay", optim.layer_decay),
            ("layer-rate", optim.layer_rate),
            ("layer-drop", optim.layer_drop),
            ("layer-freeze", optim.layer_freeze),
        ):
            if unknown := set(layers) - set(params):
                raise InputError(
                    f"--optim.{flag}: the net has no layer {min(unknown)!r}"
                )
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates, state, params=None, **extra):
        assert params is not None
        rates = extra["rates"]

        def each(rule: Callable[[str, str], jax.Array]) -> Params:
            return {
                layer: {part: rule(layer, part) for part in parts}
                for layer, parts in updates.items()
            }

        def velocity(layer: str, part: str) -> jax.Array:
            gradient = updates[layer][part]
            if part != "bias":
                decay = optim.layer_decay.get(layer, optim.weight_decay)
                gradient = gradient + decay * params[layer][part]
            rate, before = rates[layer][part], state[layer][part]
            after = -rate * gradient + optim.momentum * before
            return jnp.where(rate > 0, after, before)

        def move(layer: str, part: str) -> jax.Array:
            return jnp.where(rates[layer][part] > 0, after[layer][part], 0)

        after = each(velocity)
        return each(move), after

    return optax.GradientTransformationExtraArgs(init, update)


def learning_rates(
    optim: Optim,
    layers: Mapping[str, Mapping[str, Any]],
    epoch: int = 0,
    test_errors: Sequence[float] = (),
) -> dict[str, dict[str, np.float32]]:
    """AlexNet §5 schedule: the rates of every kernel and bias after `epoch` epochs.

    The biases' rate is `bias_rate` times the weights' rate. Without `drop_biases` it
    is `bias_rate` times the first rate of the weights, in all epochs
    (layer-params-145.cfg: epsB).

    `layer_rate` multiplies both rates of a layer by a factor. `layer_drop` divides them
    by 10 after an epoch, and `layer_freeze` sets them to 0 after an epoch. In the first
    `frozen_epochs` only fully-connected layers have rates above 0. `layers` is the
    net's `param_shapes()`.
    """
    weights = learning_rate(optim, epoch, test_errors)
    biases = optim.bias_rate * (weights if optim.drop_biases else optim.rate)

    def factor(layer: str) -> float:
        if epoch >= optim.layer_freeze.get(layer, math.inf):
            return 0.0
        if epoch < optim.frozen_epochs and layers[layer]["kernel"].ndim > 2:
            return 0.0
        dropped = epoch >= optim.layer_drop.get(layer, math.inf)
        return optim.layer_rate.get(layer, 1.0) / (10 if dropped else 1)

    return {
        layer: {
            "kernel": np.float32(factor(layer) * weights),
            "bias": np.float32(factor(layer) * biases),
        }
        for layer in layers
    }


def learning_rate(optim: Optim, epoch: int, test_errors: Sequence[float]) -> float:
    """AlexNet §5 schedule: the rate of the weights after `epoch` epochs.

    The rate is divided by 10 after each of `drop_epochs`. With `plateau` it is divided
    when that number of epochs brought no better test error, at most `drops` times;
    `test_errors` holds the error after each epoch.
    """
    passed = sum(epoch >= drop for drop in optim.drop_epochs)
    if optim.plateau:
        passed += min(_plateaus(test_errors, optim.plateau), optim.drops)
    return optim.rate / 10**passed


def _plateaus(errors: Sequence[float], patience: int) -> int:
    """How many times `patience` epochs in a row had no better error."""
    count, best, waited = 0, math.inf, 0
    for error in errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited == patience:
            count, waited = count + 1, 0
    return count
