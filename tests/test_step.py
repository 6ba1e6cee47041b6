import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import stack

from alexvgg_jax.augment import Statistics
from alexvgg_jax.config import Augment, Mesh, Optim
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.evaluate import average
from alexvgg_jax.models.layers import LRN, Conv, Dense, Dropout, Pool, activation
from alexvgg_jax.optim import learning_rates, original_sgd
from alexvgg_jax.sharding import make_mesh, place
from alexvgg_jax.step import (
    CPU_OPTIONS,
    Steps,
    _supported,
    compile_steps,
    compiler_options,
)

NET = stack(
    Conv("conv1", 8, 3, pad=1, groups=1, init=0.01),
    activation("relu", "1"),
    LRN("norm1", groups=2),
    Pool("pool1"),
    Conv("conv2", 8, 3, pad=1, groups=2, init=0.1),
    activation("relu", "2"),
    Dropout("drop2"),
    Dense("fc3", 10, init=0.1),
    image_size=12,
)
AUGMENT = Augment(crop=12, mirror=True, colour=0.1)
RATES = learning_rates(Optim(rate=0.001), NET.param_shapes())
STATS = Statistics(jnp.full((16, 16, 3), 120.0), 30 * jnp.eye(3))


def random_batch(seed: int, rows: int = 16) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        random.integers(0, 256, (rows, 16, 16, 3), np.uint8),
        random.integers(0, 10, rows, np.int32),
        np.ones(rows, bool),
    )


@functools.cache
def steps_on(devices: int) -> Steps:
    mesh = make_mesh(Mesh(devices=devices))
    return compile_steps(NET, original_sgd(Optim()), AUGMENT, mesh)


def losses(devices: int, steps: int) -> list[float]:
    mesh, compiled = make_mesh(Mesh(devices=devices)), steps_on(devices)
    state, key = compiled.init(jax.random.key(0)), jax.random.key(1)
    curve = []
    for step in range(steps):
        batch = place(random_batch(step % 3), mesh)
        state, sums = compiled.train(state, batch, STATS, RATES, key)
        curve.append(float(sums.loss) / float(sums.count))
    assert int(state.step) == steps
    return curve


@pytest.mark.skipif(not compiler_options(), reason="only CPUs need the barriers")
def test_weights_are_updated_in_place():
    """The compiled step copies no kernel, though the backward pass reads it too."""
    mesh, steps = make_mesh(Mesh(devices=1)), steps_on(1)
    key = jax.random.key(0)
    state = jax.eval_shape(steps.init, key)
    arguments = (state, place(random_batch(0), mesh), STATS, RATES, key)
    lines = steps.train.lower(*arguments).compile().as_text().splitlines()
    for kernel in ("f32[3,3,4,8]", "f32[288,10]"):
        written = [line for line in lines if f"= {kernel}" in line]
        assert written
        assert not [line for line in written if " copy(" in line]


def test_eight_devices_give_the_loss_curve_of_one():
    single, eight = losses(1, 10), losses(8, 10)
    np.testing.assert_allclose(eight, single, rtol=1e-5)
    assert single[-1] < single[0]


def test_every_image_counts_once_whatever_the_padding_holds():
    mesh = make_mesh(Mesh(devices=2))
    compiled = steps_on(2)
    params = compiled.init(jax.random.key(0)).params
    full = random_batch(0, 16)
    part = Batch(*(rows[:10] for rows in full))
    junk = Batch(full.images[10:], full.labels[10:], np.zeros(6, bool))
    padded = Batch(*(np.concatenate(rows) for rows in zip(part, junk, strict=True)))

    def step(batch: Batch):
        return compiled.eval(params, place(batch, mesh), STATS)

    assert average(step, [part]) == pytest.approx(average(step, [padded]), rel=1e-6)
    halves = [Batch(*(r[:8] for r in padded)), Batch(*(r[8:] for r in padded))]
    assert average(step, halves) == pytest.approx(average(step, [part]), rel=1e-6)


def test_the_old_state_is_donated_to_the_new():
    mesh, compiled = make_mesh(Mesh(devices=1)), steps_on(1)
    state = compiled.init(jax.random.key(0))
    batch = place(random_batch(0), mesh)
    compiled.train(state, batch, STATS, RATES, jax.random.key(1))
    assert state.params["fc3"]["kernel"].is_deleted()


def test_compile_options_that_xla_refuses_are_left_out(monkeypatch):
    assert compiler_options() == CPU_OPTIONS
    _supported.cache_clear()
    monkeypatch.setitem(CPU_OPTIONS, "xla_no_such_option", "1")
    try:
        assert compiler_options() == {}
    finally:
        _supported.cache_clear()
