import math
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexvgg_jax.config import Optim
from alexvgg_jax.errors import InputError
from alexvgg_jax.optim import learning_rate, learning_rates, original_sgd
from alexvgg_jax.recipes import RECIPES

RATES = (0.1, 0.1, 0.1, 0.01, 0.01, 0.01)  # with a drop in the middle
SHAPES = {
    "conv1": {"kernel": (3, 3, 3, 4), "bias": (4,)},
    "conv2": {"kernel": (3, 3, 4, 4), "bias": (4,)},
    "fc10": {"kernel": (16, 10), "bias": (10,)},
}


def draw(seed: int):
    rng = np.random.default_rng(seed)
    return {
        layer: {
            part: rng.normal(size=shape).astype(np.float32)
            for part, shape in parts.items()
        }
        for layer, parts in SHAPES.items()
    }


def walk(optim: Optim, rates=RATES):
    """Our parameters after each step, the gradients being those of `draw(step)`."""
    rule = original_sgd(optim)
    params = jax.tree.map(jnp.asarray, draw(999))
    state = rule.init(params)

    @jax.jit
    def step(params, state, gradients, rates):
        updates, state = rule.update(gradients, state, params, rates=rates)
        return optax.apply_updates(params, updates), state

    history = []
    for i, rate in enumerate(rates):
        gradients = jax.tree.map(jnp.asarray, draw(i))
        rates_now = learning_rates(replace(optim, rate=rate), SHAPES)
        params, state = step(params, state, gradients, rates_now)
        history.append(params)
    return history


def weights_cu(optim: Optim, rates=RATES):
    """The same in NumPy, as `weights.cu` and the .cfg files have it, in float64."""
    params = jax.tree.map(np.float64, draw(999))
    velocity = jax.tree.map(np.zeros_like, params)
    history = []
    for i, rate in enumerate(rates):
        gradients = draw(i)
        for layer, parts in params.items():
            for part, w in parts.items():
                v, g = velocity[layer][part], gradients[layer][part]
                if part == "bias":
                    epsilon, wc = rate * optim.bias_rate, 0.0
                else:
                    epsilon = rate
                    wc = optim.layer_decay.get(layer, optim.weight_decay)
                v[...] = optim.momentum * v - epsilon * wc * w - epsilon * g
                w[...] = w + v
        history.append(jax.tree.map(np.copy, params))
    return history


def assert_close(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        ours,
        theirs,
    )


@pytest.mark.parametrize(
    "optim",
    [
        Optim(),
        Optim(weight_decay=0.0, momentum=0.0),
        Optim(weight_decay=0.1, bias_rate=1.0, momentum=0.5),
        Optim(layer_decay={"fc10": 3.0, "conv1": 0.0}),
    ],
)
def test_the_rule_of_the_original_program(optim):
    """AlexNet §5 decay: v <- 0.9 v - 0.0005 rate w - rate g, w <- w + v."""
    for ours, theirs in zip(walk(optim), weights_cu(optim), strict=True):
        assert_close(ours, theirs)


def test_a_drop_of_the_rate_leaves_the_velocity():
    """AlexNet §5 decay: the rate is inside v, and outside in optax.sgd."""
    optim = Optim(weight_decay=0.0, bias_rate=1.0)
    ours = walk(optim)
    params = jax.tree.map(jnp.asarray, draw(999))
    rate = jnp.array(RATES)
    outside = optax.sgd(lambda step: rate[step], momentum=optim.momentum)
    state = outside.init(params)
    for i, mine in enumerate(ours):
        gradients = jax.tree.map(jnp.asarray, draw(i))
        updates, state = outside.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        if i < 3:
            assert_close(mine, params)
        else:  # 0.9 of a velocity of about 0.1, against a tenth of it
            gap = mine["fc10"]["kernel"] - params["fc10"]["kernel"]
            assert jnp.abs(gap).max() > 0.05


def test_at_a_rate_of_zero_a_layer_and_its_velocity_stay():
    """AlexNet §5 schedule: the 2012 program then skips the layer's update; the others
    move on, and the layer too once it has a rate again."""
    rule, ones = (
        original_sgd(Optim()),
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    )
    params = {"conv1": ones, "fc10": ones}
    moves = {}
    state = rule.init(params)
    frozen = replace(Optim(0.01), layer_rate={"conv1": 0.0})
    for name, optim in (("before", Optim(0.01)), ("frozen", frozen)):
        velocity, rates = state, learning_rates(optim, params)
        moves[name], state = rule.update(params, state, params, rates=rates)
    assert all((move == 0).all() for move in moves["frozen"]["conv1"].values())
    chex.assert_trees_all_equal(state["conv1"], velocity["conv1"])
    assert_close(
        moves["frozen"]["fc10"], jax.tree.map(lambda v: 1.9 * v, velocity["fc10"])
    )
    again, _ = rule.update(
        params, state, params, rates=rates | {"conv1": rates["fc10"]}
    )
    assert_close(again["conv1"], moves["frozen"]["fc10"])


def test_biases_move_twice_as_fast_and_do_not_decay():
    """AlexNet §5 decay: of the weights, in layer-params-145.cfg; epsB is 2 epsW."""
    rule = original_sgd(Optim(weight_decay=0.5))
    params = {"fc10": {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)}}
    gradients = jax.tree.map(jnp.ones_like, params)
    rates = learning_rates(Optim(0.01), params)
    updates, _ = rule.update(gradients, rule.init(params), params, rates=rates)
    np.testing.assert_allclose(updates["fc10"]["kernel"], -0.01 * (1 + 0.5 * 4), 1e-6)
    np.testing.assert_allclose(updates["fc10"]["bias"], -0.01 * 2, 1e-6)


def test_decay_of_a_layer_of_its_own():
    """cuda-convnet 80sec: 0.004 on the convolutions, 0.03 on the others."""
    optim = RECIPES["cifar-80sec"].run.optim
    ones = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params = {"conv1": ones, "fc64": ones, "fc10": ones}
    rule = original_sgd(optim)
    nothing = jax.tree.map(jnp.zeros_like, params)
    rates = learning_rates(Optim(1.0), params)
    updates, _ = rule.update(nothing, rule.init(params), params, rates=rates)
    decays = {layer: -float(parts["kernel"][0, 0]) for layer, parts in updates.items()}
    assert decays == pytest.approx({"conv1": 0.004, "fc64": 0.03, "fc10": 0.03})
    assert all((parts["bias"] == 0).all() for parts in updates.values())


SOME = {"conv2": {"kernel": np.zeros((3, 3, 1, 1))}, "fc8": {"kernel": np.eye(2)}}


def test_frozen_layers_are_those_with_windows():
    """Whatever their names."""
    layers = {"first": SOME["conv2"], "last": SOME["fc8"]}
    optim = Optim(rate=1.0, frozen_epochs=2.0)
    rates = [learning_rates(optim, layers, epoch) for epoch in (1, 2)]
    assert [rate["first"]["kernel"] for rate in rates] == [0, 1]
    assert [rate["last"]["bias"] for rate in rates] == [2, 2]


def test_rate_of_a_layer_of_its_own():
    optim = Optim(rate=1.0, layer_rate={"conv2": 0.5})
    rates = learning_rates(optim, SOME)
    assert rates["conv2"] == {"kernel": 0.5, "bias": 1.0}
    assert rates["fc8"] == {"kernel": 1.0, "bias": 2.0}


def test_the_schedule_of_net_145():
    """AlexNet §5 schedule: as `layer-params-145.cfg` logs it, which the paper does not.

    The biases' rate stays at 0.02; conv1's falls once more at 67 and is 0 from 72.
    """
    recipe = RECIPES["alexnet-source"].run
    rates = [
        learning_rates(recipe.optim, {"conv1": {}, "conv2": {}}, epoch)
        for epoch in range(recipe.epochs)
    ]
    others = [0.01] * 25 + [1e-3] * 26 + [1e-4] * 28 + [1e-5] * 12
    first = [0.01] * 25 + [1e-3] * 26 + [1e-4] * 16 + [1e-5] * 5 + [0.0] * 19
    assert [float(r["conv2"]["kernel"]) for r in rates] == pytest.approx(others)
    assert [float(r["conv1"]["kernel"]) for r in rates] == pytest.approx(first)
    assert [float(r["conv2"]["bias"]) for r in rates] == pytest.approx([0.02] * 91)
    assert rates[71]["conv1"]["bias"] == pytest.approx(0.002)
    assert rates[72]["conv1"]["bias"] == 0.0


@pytest.mark.parametrize(
    "field", ["layer_decay", "layer_rate", "layer_drop", "layer_freeze"]
)
def test_an_unknown_layer_is_named(field):
    rule = original_sgd(Optim(**{field: {"fc11": 0.03}}))
    params = {"fc10": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    with pytest.raises(InputError, match=f"{field.replace('_', '-')}.*'fc11'"):
        rule.init(params)


def test_drops_at_fixed_epochs():
    """cuda-convnet 80sec: rate / 10 after 8 epochs."""
    optim = RECIPES["cifar-80sec"].run.optim
    rates = [learning_rate(optim, epoch, []) for epoch in range(10)]
    assert rates == pytest.approx([0.001] * 8 + [0.0001] * 2)


def rate_after(optim: Optim, test_errors: list[float]) -> float:
    return learning_rate(optim, len(test_errors), test_errors)


def test_the_rate_drops_when_the_error_stops_improving():
    """AlexNet §5 schedule: divided by 10 when the validation error stalls."""
    optim = Optim(rate=0.01, plateau=2)
    errors = [90.0, 80.0, 80.0, 81.0, 70.0, 75.0, 69.0, 69.0, 69.0, 69.0]
    rates = [rate_after(optim, errors[:n]) for n in range(len(errors) + 1)]
    #  80, 81 are no better than 80: first drop; 69, 69: second; 69 again: not yet
    drops = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert rates == pytest.approx([0.01 / 10**n for n in drops])


def test_three_divisions_at_most():
    """AlexNet §5 schedule: "The learning rate was ... reduced three times"."""
    optim = RECIPES["alexnet-paper"].run.optim
    stalled = [50.0] * 90
    rates = [rate_after(optim, stalled[:n]) for n in range(91)]
    assert rates[0] == 0.01
    assert len(set(rates)) == 4
    assert rates[-1] == pytest.approx(0.01 / 1000)
    assert rates == sorted(rates, reverse=True)


def test_no_drop_while_the_error_improves_or_without_plateau():
    """AlexNet §5 schedule: nothing else lowers the rate."""
    better = np.linspace(90, 40, 90).tolist()
    assert rate_after(Optim(0.01, plateau=1), better) == 0.01
    assert rate_after(Optim(0.01), [50.0] * 90) == 0.01


def test_an_error_that_is_no_number_is_no_improvement():
    stalled = [math.nan] * 2
    assert rate_after(Optim(0.01, plateau=2), stalled) == pytest.approx(0.001)
