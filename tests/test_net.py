"""What every net can do: `apply`, its checks, remat, bfloat16 and Flax modules."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend.core import jaxprs_in_params
from nets import random_params, stack, trace

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net, build
from alexvgg_jax.models.layers import Conv, Dense, Dropout, Pool, activation

KEY = jax.random.key(0)
NARROW = build("alexnet-small", width=1 / 16)
SMALL = stack(
    Conv("conv1", 4, 3, init=0.1),
    activation("relu", "1"),
    Dropout("drop1"),
    Dense("fc2", 5),
    image_size=6,
)


# Dropout


@pytest.mark.parametrize("remat", [False, True])
def test_dropout_masks_differ_from_layer_to_layer(remat):
    """AlexNet §4.2: with one mask for both, drop7 would change nothing."""
    layers = (Dense("fc", 4000), Dropout("drop6"), Dropout("drop7"))
    net = stack(*layers, image_size=1, remat=remat)
    images = jnp.ones((1, 1, 1, 3))
    _, features = net.apply(net.init(KEY), images, train=True, key=KEY)
    kept = [np.mean(features[name] != 0) for name in ("drop6", "drop7")]
    np.testing.assert_allclose(kept, [0.5, 0.25], atol=0.05)


@pytest.mark.parametrize("remat", [False, True])
def test_dropout_masks_differ_on_both_sides_of_a_pooling_layer(remat):
    """AlexNet §4.2: each block that `remat` recomputes draws its own masks."""
    layers = (Dropout("drop1"), Pool("pool1", 1, 1), Dropout("drop2"))
    net = stack(*layers, image_size=40, remat=remat)
    _, features = net.apply({}, jnp.ones((1, 40, 40, 3)), train=True, key=KEY)
    kept = [np.mean(features[name] != 0) for name in ("drop1", "drop2")]
    np.testing.assert_allclose(kept, [0.5, 0.25], atol=0.05)


@pytest.mark.parametrize("name", ["alexnet-paper", "vgg-d"])
def test_training_needs_a_key(name):
    """AlexNet §4.2, VGG §3.1: dropout after the first two fully-connected layers."""
    with pytest.raises(InputError, match="drop6.*key="):
        trace(build(name), train=True)


@pytest.mark.parametrize("name", ["cifar-80sec", "cifar-19pct"])
def test_nets_without_dropout_train_without_a_key(name):
    assert trace(build(name), train=True) == build(name).shapes()


# Images


@pytest.mark.parametrize("size", [223, 228, 256, 32])
def test_image_of_another_size(size):
    """AlexNet §3.5: only 224 to 227 pixels make 55 windows."""
    net = build("alexnet-paper")
    assert trace(net, 227, train=False) == net.shapes()
    with pytest.raises(InputError, match="too small|built for 224x224 .* got 2..x2..;"):
        trace(net, size, train=False)


@pytest.mark.parametrize("name", ["cifar-13pct", "cifar-11pct"])
def test_local_layers_take_only_their_size(name):
    """cuda-convnet 13pct: a kernel for every position; earlier layers take any size."""
    net = build(name)
    assert trace(net, 32, train=False, until="pool2")["pool2"] == (8, 8, 64)
    for layer in ("local3", "local4", "fc10"):
        with pytest.raises(InputError, match="built for 24x24 images, got 32x32"):
            trace(net, 32, train=False, until=layer)


def test_bytes_are_no_images(unchecked):
    with pytest.raises(InputError, match="floats with the mean .*, got uint8"):
        NARROW.apply({}, jnp.zeros((1, 28, 28, 3), jnp.uint8), train=False)


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 3, 32, 32)])
def test_images_of_another_layout_are_named(shape, unchecked):
    with pytest.raises(InputError, match="NHWC in RGB"):
        build("cifar-80sec").apply({}, jnp.zeros(shape), train=False)


@pytest.mark.parametrize("name", ["cifar-80sec", "cifar-11pct", "alexnet-paper"])
def test_an_empty_batch(name):
    net = build(name)
    images = jax.ShapeDtypeStruct((0, *net.input_shape), jnp.float32)
    apply = functools.partial(net.apply, train=False)
    logits, _ = jax.eval_shape(apply, net.param_shapes(), images)
    assert logits.shape == (0, net.classes)


# Parameters


def wrong_params(change):
    """The error for the parameters of cifar-80sec after `change`."""
    net = build("cifar-80sec")
    params = net.param_shapes()
    change(params)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(InputError, match="params of another net: ") as error:
        jax.eval_shape(functools.partial(net.apply, train=False), params, images)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_layer_is_named():
    assert wrong_params(lambda p: p.pop("conv2")).endswith("they have no conv2.kernel")
    assert wrong_params(lambda p: p.clear()).endswith("they have no conv1.kernel")


def test_a_missing_part_is_named():
    message = wrong_params(lambda params: params["fc64"].pop("bias"))
    assert message.endswith("they have no fc64.bias")


def test_a_surplus_layer_is_named():
    message = wrong_params(lambda params: params.update(conv9=params["conv1"]))
    assert message.endswith("this net has no layer 'conv9'")


def test_a_wrong_shape_is_named():
    def widen(params):
        params["conv2"]["kernel"] = jax.ShapeDtypeStruct((5, 5, 32, 64), jnp.float32)

    assert wrong_params(widen).endswith(
        "conv2.kernel has shape (5, 5, 32, 64), this net's has (5, 5, 32, 32)"
    )


def test_parameters_of_another_net():
    def exchange(params):
        params.clear()
        params.update(build("cifar-13pct").param_shapes())

    assert wrong_params(exchange).endswith("this net has no layer 'local3'")


def test_parts_of_a_net_take_the_parameters_of_all():
    net = build("cifar-80sec")
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = net.param_shapes() | {"conv9": {}}
    apply = functools.partial(net.apply, train=False, until="conv1")
    assert jax.eval_shape(apply, params, images)[0].shape == (1, 32, 32, 32)


# Parts of a net


def test_later_layers_are_not_computed():
    """VGG Table 1: relu3_3 follows seven convolutions, for an image of any size."""
    net = build("vgg-d")
    params = dict(list(net.param_shapes().items())[:7])
    assert "conv3_3" in params
    images = jax.ShapeDtypeStruct((1, 100, 60, 3), jnp.float32)
    apply = functools.partial(net.apply, train=False, until="relu3_3")
    output, features = jax.eval_shape(apply, params, images)
    assert list(features)[-1] == "relu3_3"
    assert output.shape == features["relu3_3"].shape == (1, 25, 15, 256)
    called = Counter(
        e.primitive.name for e in jax.make_jaxpr(apply)(params, images).eqns
    )
    assert called["conv_general_dilated"] == 7
    assert called["dot_general"] == 0


def test_until_is_the_feature_of_the_complete_net():
    params = random_params(SMALL)
    images = jax.random.normal(KEY, (2, 6, 6, 3))
    _, features = SMALL.apply(params, images, train=False)
    for layer in ("conv1", "relu1", "fc2"):
        output, _ = SMALL.apply(params, images, train=False, until=layer)
        np.testing.assert_array_equal(output, features[layer])


def test_an_unknown_layer_is_named():
    with pytest.raises(InputError, match="no layer 'relu33'; choose from conv1_1, re"):
        trace(build("vgg-d"), train=False, until="relu33")


# Activations recomputed


def test_remat_changes_no_gradient():
    """AlexNet §4.2: the backward pass has the dropout masks of the forward pass."""
    images = jax.random.normal(KEY, (2, 6, 6, 3))
    layers = (Conv("conv0", 4, 3, pad=1), Pool("pool0"), *SMALL.layers())
    plain, again = (stack(*layers, image_size=6, remat=r) for r in (False, True))
    params = random_params(plain)

    def loss(params, net):
        logits, _ = net.apply(params, images, train=True, key=KEY)
        return jnp.square(logits).mean()

    kept, recomputed = (
        jax.jit(jax.grad(functools.partial(loss, net=net)))(params)
        for net in (plain, again)
    )
    assert_gradients_agree(recomputed, kept)


def assert_gradients_agree(ours, expected):
    for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_the_backward_pass_of_remat_keeps_no_activations():
    """VGG Table 1: only the pooled maps, not those of D's thirteen convolutions."""
    plain, again = (build("vgg-d", width=1 / 16, remat=r) for r in (False, True))
    params = plain.param_shapes()
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def kept(net):
        def forward(params, images):
            return jax.vjp(lambda p: net.apply(p, images, train=False)[0], params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(forward, params, images))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        return sum(leaf.size for leaf in leaves) - parameters

    pools = [plain.shapes()[f"pool{i}"] for i in range(1, 6)]
    bound = sum(math.prod(shape) for shape in pools) + 224 * 224 * 3 + 100_000
    assert kept(again) < bound < kept(plain) / 3


# Mixed precision


def equations(jaxpr):
    """The equations of a program and of the functions it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("cifar-18pct", {}),
        ("cifar-11pct", {"local3": 16}),
        ("alexnet-caffe", {"image_size": 79, "width": 1 / 8}),
    ],
)
def test_bfloat16_is_for_products_only(name, switches):
    """AlexNet §3.3: every layer's output is bfloat16, responses are normalised in
    float32, parameters and gradients are float32, and logits agree to some percent."""
    exact, mixed = (build(name, compute=c, **switches) for c in ("float32", "bfloat16"))
    params = random_params(exact)
    images = 60 * jax.random.normal(KEY, (2, *exact.input_shape))

    def squares(params, net):
        logits, features = net.apply(params, images, train=False)
        return jnp.square(logits).mean(), (logits, features)

    (expected, _), (logits, features) = (
        jax.jit(functools.partial(squares, net=net))(params)[1]
        for net in (exact, mixed)
    )
    assert logits.dtype == jnp.float32
    assert {f.dtype for f in features.values()} == {jnp.dtype("bfloat16")}
    gap = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert 1e-4 < gap < 0.05
    loss = functools.partial(squares, net=mixed)
    gradients, _ = jax.eval_shape(jax.grad(loss, has_aux=True), params)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    sums, products = 0, 0
    for equation in equations(jax.make_jaxpr(loss)(params).jaxpr):
        dtypes = {str(v.aval.dtype) for v in equation.invars}
        if equation.primitive.name in ("rsqrt", "pow", "reduce_window_sum"):
            assert "bfloat16" not in dtypes, equation
            sums += 1
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            assert dtypes == {"bfloat16"}, equation
            products += 1
    assert sums >= 2 and products >= len(params)


# Inside Flax modules


class TwoOutputs(nn.Module):
    """Somebody's module: one of our nets and a layer on its features."""

    net: Net

    def setup(self):
        self.trunk = self.net.module()
        self.regression = nn.Dense(1)

    def __call__(self, images, *, train, key=None):
        logits, features = self.trunk(images, train=train, key=key)
        return logits, self.regression(features["relu1"].mean(axis=(1, 2)))


def test_a_net_inside_a_linen_module():
    net = SMALL
    model = TwoOutputs(net)
    images = jax.random.normal(KEY, (2, 6, 6, 3))
    variables = model.init(KEY, images, train=False)
    assert variables.keys() == {"params"}
    trunk = variables["params"]["trunk"]
    assert jax.tree.map(jnp.shape, trunk) == jax.tree.map(jnp.shape, net.param_shapes())

    def loss(variables):
        logits, values = model.apply(variables, images, train=False)
        return jnp.square(logits).sum() + 0 * values.sum()

    def expected_loss(params):
        return jnp.square(net.apply(params, images, train=False)[0]).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables)
    expected, expected_gradients = jax.jit(jax.value_and_grad(expected_loss))(trunk)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_gradients_agree(gradients["params"]["trunk"], expected_gradients)


def test_two_nets_inside_a_linen_module_draw_their_own_parameters():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, images):
            left = SMALL.module()(images, train=False)[0]
            return left + SMALL.module()(images, train=False)[0]

    first, second = Two().init(KEY, jnp.zeros((1, 6, 6, 3)))["params"].values()
    assert first.keys() == second.keys()
    assert np.all(first["conv1"]["kernel"] != second["conv1"]["kernel"])


def test_a_module_draws_the_masks_of_the_net():
    """AlexNet §4.2: the same key, the same noise; without a key the layer is named."""
    params = random_params(SMALL)
    images = jax.random.normal(KEY, (2, 6, 6, 3))
    options = {"train": True, "key": jax.random.key(1)}
    logits, _ = SMALL.module().apply({"params": params}, images, **options)
    expected, _ = SMALL.apply(params, images, **options)
    np.testing.assert_array_equal(logits, expected)
    with pytest.raises(InputError, match="drop1.*key="):
        SMALL.module().apply({"params": params}, images, train=True)


def test_a_net_in_nnx():
    """Flax's bridge makes an NNX module with the same parameters and gradients."""
    net = SMALL
    images = jax.random.normal(KEY, (2, 6, 6, 3))
    model = nnx.bridge.ToNNX(net.module(), rngs=nnx.Rngs(0))
    model.lazy_init(images, train=False)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, net.param_shapes()
    )

    def loss(model):
        return jnp.square(model(images, train=False)[0]).sum()

    def expected_loss(params):
        return jnp.square(net.apply(params, images, train=False)[0]).sum()

    value, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
    expected, expected_gradients = jax.jit(jax.value_and_grad(expected_loss))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_gradients_agree(nnx.to_pure_dict(gradients), expected_gradients)
