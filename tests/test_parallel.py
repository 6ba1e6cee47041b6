"""One net on one device and on many: the same numbers."""

import dataclasses
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_params, stack

from alexvgg_jax.augment import Statistics
from alexvgg_jax.config import Augment, Mesh, Optim
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net, build
from alexvgg_jax.models.layers import LRN, Conv, Dense, Dropout, Pool, activation
from alexvgg_jax.models.parallel import apply_on, exchanged, param_shardings
from alexvgg_jax.optim import learning_rates, original_sgd
from alexvgg_jax.sharding import make_mesh, place
from alexvgg_jax.step import Steps, abstract_arguments, compile_steps, gradients

# AlexNet's kinds of layers and its groups, small.
LAYERS = (
    Conv("conv1", 8, 5, stride=2, init=0.1),
    activation("relu", "1"),
    LRN("norm1", 3, alpha=0.1, groups=2),
    LRN("spatial1", 3, alpha=0.1, over="pixels"),
    Pool("pool1"),
    Conv("conv2", 12, 3, pad=1, groups=2, init=0.1, bias_init=1.0),
    activation("relu", "2"),
    Conv("conv3", 16, 3, pad=1, init=0.1),
    activation("relu", "3"),
    Pool("pool5"),
    Dense("fc6", 24, init=0.1, bias_init=1.0),
    activation("relu", "6"),
    Dropout("drop6"),
    Dense("fc7", 16, init=0.1, bias_init=1.0),
    activation("relu", "7"),
    Dropout("drop7"),
    Dense("fc8", 10, init=0.1),
)
NET = stack(*LAYERS, image_size=24)
AUGMENT = Augment(crop=24, mirror=True, colour=0.1)
STATS = Statistics(jnp.full((28, 28, 3), 120.0), 30 * jnp.eye(3))
SPLITS = [Mesh(devices=4, towers=True), Mesh(devices=8, classifier=4)]


def label(split: Mesh) -> str:
    return " ".join(f"{k}={v}" for k, v in dataclasses.asdict(split).items() if v)


each_split = pytest.mark.parametrize("split", SPLITS, ids=label)


def random_images(count: int, size: int) -> np.ndarray:
    shape = (count, size, size, 3)
    return 50 * np.random.default_rng(1).standard_normal(shape, np.float32)


def random_batch(seed: int, count: int = 16) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        random.integers(0, 256, (count, 28, 28, 3), np.uint8),
        random.integers(0, 10, count, np.int32),
        np.ones(count, bool),
    )


def steps_on(split: Mesh, net: Net = NET, augmentation=AUGMENT, **options) -> Steps:
    return compile_steps(
        net, original_sgd(Optim()), augmentation, make_mesh(split), **options
    )


def train(split: Mesh, count=3, augmentation=AUGMENT, net: Net = NET, **options):
    """The state after some steps, and the loss of each."""
    mesh, steps = make_mesh(split), steps_on(split, net, augmentation, **options)
    state, losses = steps.init(jax.random.key(0)), []
    rates = learning_rates(Optim(rate=1e-3), net.param_shapes())
    for step in range(count):
        batch = place(random_batch(step), mesh)
        state, sums = steps.train(state, batch, STATS, rates, jax.random.key(1))
        losses.append(float(sums.loss))
    return jax.device_get(state), losses


@functools.cache
def on_one_device(net: Net = NET, augmentation: Augment = AUGMENT):
    return train(Mesh(devices=1), net=net, augmentation=augmentation)


@each_split
def test_a_split_net_trains_as_on_one_device(split):
    """Losses, velocities and parameters, crops and dropout masks drawn alike."""
    state, losses = train(split)
    expected, expected_losses = on_one_device()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(state.opt, expected.opt, rtol=1e-5, atol=1e-6)


@functools.cache
def features_on_one_device():
    """Parameters, images, the key of the masks, and what the net computes of them."""
    params, images = jax.jit(NET.init)(jax.random.key(0)), random_images(16, 24)
    key = jax.random.key(2)
    compute = jax.jit(functools.partial(NET.apply, train=True))
    return params, images, key, compute(params, images, key=key)


@pytest.mark.parametrize(
    "split", [Mesh(devices=4, towers=True), Mesh(devices=4, classifier=2)], ids=label
)
def test_a_split_net_has_the_same_features(split):
    mesh = make_mesh(split)
    params, images, key, (logits, features) = features_on_one_device()
    placed = jax.device_put(params, param_shardings(NET, mesh))
    compute = jax.jit(functools.partial(apply_on(NET, mesh), train=True))
    split_logits, split_features = compute(placed, place(images, mesh), key=key)
    np.testing.assert_allclose(split_logits, logits, rtol=1e-5, atol=1e-5)
    assert split_features.keys() == features.keys()
    for name, expected in features.items():
        np.testing.assert_allclose(
            split_features[name], expected, rtol=1e-5, atol=1e-4, err_msg=name
        )
        if name.startswith("drop"):
            np.testing.assert_array_equal(split_features[name] == 0, expected == 0)


@pytest.mark.parametrize(
    ("net", "split"),
    [
        (
            build("alexnet-paper", classes=10, image_size=67, width=0.25),
            Mesh(devices=2, towers=True),
        ),
        (
            build("alexnet-owt", classes=10, image_size=67),
            Mesh(devices=2, classifier=2),
        ),
    ],
)
def test_alexnet_has_the_same_gradients(net, split):
    """AlexNet §3.2, and One weird trick, where dropout comes before the layers."""
    params, images = random_params(net), random_images(4, 67)
    mesh = make_mesh(split)

    def gradient(apply):
        def loss(params, images):
            logits, _ = apply(params, images, train=True, key=jax.random.key(2))
            return jax.nn.logsumexp(logits, axis=1).sum()

        return jax.jit(jax.grad(loss))

    expected = gradient(net.apply)(params, images)
    placed = jax.device_put(params, param_shardings(net, mesh))
    gradients = gradient(apply_on(net, mesh))(placed, images)
    for layer, parts in expected.items():
        for part, value in parts.items():
            scale = float(np.abs(value).max())
            np.testing.assert_allclose(
                gradients[layer][part], value, rtol=1e-5, atol=1e-5 * scale
            )


def test_each_tower_holds_half_of_every_kernel():
    net = build("alexnet-paper", classes=10, image_size=67)
    mesh = make_mesh(Mesh(devices=2, towers=True))
    shapes = net.param_shapes()
    for layer, parts in param_shardings(net, mesh).items():
        kernel = shapes[layer]["kernel"].shape
        shard = parts["kernel"].shard_shape(kernel)
        if layer == "fc8":
            assert shard == (kernel[0] // 2, kernel[1])
        else:
            assert shard == (*kernel[:-1], kernel[-1] // 2)


def test_each_tower_draws_its_own_kernels():
    """In half of the memory that one device needs for both."""
    net = stack(
        Conv("conv1", 64),
        Conv("conv2", 512, groups=2),
        Dense("fc3", 10),
        image_size=8,
    )
    used = []
    for split in (Mesh(devices=1), Mesh(devices=2, towers=True)):
        shardings = param_shardings(net, make_mesh(split))
        init = jax.jit(net.init, out_shardings=shardings).lower(jax.random.key(0))
        used.append(init.compile().memory_analysis().temp_size_in_bytes)
    assert used[1] < 0.6 * used[0]


FEW = "conv1 relu1 pool1 conv2 relu2 conv3 fc6 relu6 fc8".split()
SMALLER = stack(*(layer for layer in LAYERS if layer.name in FEW), image_size=28)


@pytest.mark.parametrize(
    "split", [Mesh(devices=4, towers=True), Mesh(devices=4, classifier=2)], ids=label
)
def test_splits_go_with_zero_and_accumulation(split):
    still = Augment()  # accumulated parts have noise of their own
    state, losses = train(split, 3, still, SMALLER, zero=True, accumulate=2)
    expected, expected_losses = on_one_device(SMALLER, still)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "split", "message"),
    [
        (build("vgg-a"), Mesh(devices=2, towers=True), "this VGG has one tower"),
        (
            build("alexnet-owt"),
            Mesh(devices=2, towers=True),
            "Trick has one tower",
        ),
        (
            build("alexnet-paper", lrn_across_towers=True),
            Mesh(devices=2, towers=True),
            "norm1 crosses from tower to tower",
        ),
        (build("vgg-a", head="gap"), Mesh(classifier=2), "no hidden units"),
        (build("vgg-a", head="dense"), Mesh(classifier=2), "no hidden units"),
        (build("cifar-18pct"), Mesh(classifier=2), "no hidden units"),
        (build("cifar-80sec"), Mesh(devices=3, classifier=3), "64 units do not divide"),
        (build("alexnet-paper", towers="apart"), Mesh(classifier=2), "two towers"),
    ],
)
def test_nets_that_cannot_be_split(net, split, message):
    with pytest.raises(InputError, match=message):
        apply_on(net, make_mesh(split))


def test_towers_that_stay_apart():
    """The program's net 150: nothing is exchanged before the logits."""
    net = build("alexnet-paper", towers="apart", classes=10, image_size=67, width=0.25)
    mesh = make_mesh(Mesh(devices=2, towers=True))
    assert list(exchanged(net, mesh)) == ["fc8"]
    params, images = random_params(net), random_images(2, 67)
    expected, _ = jax.jit(functools.partial(net.apply, train=False))(params, images)
    placed = jax.device_put(params, param_shardings(net, mesh))
    logits, _ = jax.jit(functools.partial(apply_on(net, mesh), train=False))(
        placed, images
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_each_part_of_a_batch_has_noise_of_its_own():
    seen = []

    def apply(params, images, *, train, key=None):
        data = jax.random.key_data(key)
        jax.debug.callback(lambda data: seen.append(str(data)), data)
        return jnp.zeros((len(images), 10)), {}

    batch = jax.tree.map(jnp.asarray, random_batch(0))
    accumulated = gradients(
        {},
        batch,
        STATS,
        jax.random.key(1),
        apply=apply,
        augmentation=AUGMENT,
        accumulate=4,
    )
    jax.block_until_ready(accumulated)
    jax.effects_barrier()
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    "split",
    [
        Mesh(devices=8, towers=True),
        Mesh(devices=8, classifier=4),
    ],
    ids=label,
)
def test_zero_splits_the_velocity_over_all_devices(split):
    """All of it, except small leaves that do not divide; parameters stay."""
    net = build("alexnet-paper", classes=16, image_size=67, width=0.25)
    mesh = make_mesh(split)
    steps = compile_steps(net, original_sgd(Optim()), AUGMENT, mesh, zero=True)
    state = jax.eval_shape(steps.init, jax.random.key(0))
    lowered = steps.init.lower(jax.random.key(0)).compile().output_shardings
    velocities = jax.tree.leaves(state.opt)
    own = [
        math.prod(sharding.shard_shape(v.shape))
        for v, sharding in zip(velocities, jax.tree.leaves(lowered.opt), strict=True)
    ]
    total = sum(math.prod(v.shape) for v in velocities)
    assert sum(own) == pytest.approx(total / mesh.size, rel=1e-3)
    assert lowered.params == param_shardings(net, mesh)


def test_zero_where_nothing_can_be_split():
    with pytest.raises(InputError, match="--mesh.zero: only 0 of .* weights"):
        steps_on(Mesh(devices=1), zero=True)
    with pytest.raises(InputError, match="--mesh.zero: only"):  # none divides by seven
        steps_on(Mesh(devices=7), zero=True)


def test_towers_in_bfloat16_sum_their_gradients_in_it():
    """Half the bytes, as the compiler does if only a batch is split."""
    net, optimizer = build("alexnet-paper", compute="bfloat16"), original_sgd(Optim())
    mesh = make_mesh(Mesh(devices=4, towers=True))
    steps = compile_steps(net, optimizer, Augment(crop=224), mesh)
    arguments = abstract_arguments(net, optimizer, 8, 256)
    program = steps.train.lower(*arguments).as_text()
    sums = re.findall(r"all_reduce.*?-> tensor<(\S+)>", program, re.DOTALL)
    kernels = [s for s in sums if s.count("x") > 1 and not s.startswith("1x")]
    assert len(kernels) >= 8
    assert all(shape.endswith("xbf16") for shape in kernels), kernels
