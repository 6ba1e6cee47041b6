"""The original program's update rule as an optax chain, and its learning rates."""

import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import optax

from alexvgg_jax.config import Optim
from alexvgg_jax.errors import InputError


def original_sgd(optim: Optim) -> optax.GradientTransformationExtraArgs:
    """AlexNet §5 decay: v <- momentum v - rate (gradient + decay w); w <- w + v.

    The rate is inside the velocity (`weights.cu`), so that a drop of the rate leaves
    the velocity as it is; optax.sgd has it outside. Biases have no decay. Use as
    `update(gradients, state, params, rates=...)`, with those of `learning_rates`.
    Raises InputError if `optim` names a layer that the net does not have.
    """

    def init(params):
        for flag, layers in (
            ("layer-decay", optim.layer_decay),
            ("layer-rate", optim.layer_rate),
            ("layer-drop", optim.layer_drop),
            ("layer-freeze", optim.layer_freeze),
        ):
            if unknown := set(layers) - set(params):
                raise InputError(f"optim.{flag}: the net has no layer {min(unknown)!r}")
        return optax.EmptyState()

    def update(updates, state, params=None, **extra):
        assert params is not None

        def step(layer: str, part: str, gradient: jax.Array) -> jax.Array:
            rate = extra["rates"][layer][part]
            if part == "bias":
                return -rate * gradient
            decay = optim.layer_decay.get(layer, optim.weight_decay)
            return -rate * (gradient + decay * params[layer][part])

        steps = {
            layer: {part: step(layer, part, leaf) for part, leaf in parts.items()}
            for layer, parts in updates.items()
        }
        return steps, state

    return optax.chain(
        optax.GradientTransformationExtraArgs(init, update), optax.trace(optim.momentum)
    )


def learning_rates(
    optim: Optim,
    layers: Iterable[str],
    epoch: int = 0,
    test_errors: Sequence[float] = (),
) -> dict[str, dict[str, np.float32]]:
    """AlexNet §5 schedule: the rates of every kernel and bias after `epoch` epochs.

    Biases learn at `bias_rate` times the weights' rate, or times its first value
    (layer-params-145.cfg: epsB); a layer of `layer_rate` at so many times both, at a
    tenth of them behind its `layer_drop`, and at none behind its `layer_freeze`.
    """
    weights = learning_rate(optim, epoch, test_errors)
    biases = optim.bias_rate * (weights if optim.drop_biases else optim.rate)

    def factor(layer: str) -> float:
        if epoch >= optim.layer_freeze.get(layer, math.inf):
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

    Divided by 10 at every one of `drop_epochs` that has passed; or, with `plateau`,
    each time that so many epochs brought no better test error (`test_errors` has one
    figure an epoch so far), at most `drops` times.
    """
    passed = sum(epoch >= drop for drop in optim.drop_epochs)
    if optim.plateau:
        passed += min(_plateaus(test_errors, optim.plateau), optim.drops)
    return optim.rate / 10**passed


def _plateaus(errors: Sequence[float], patience: int) -> int:
    count, best, since = 0, math.inf, 0
    for error in errors:
        best, since = (error, 0) if error < best else (best, since + 1)
        if since == patience:
            count, since = count + 1, 0
    return count
