"""`throughput.py --torch` times the same nets in PyTorch as in JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.models import build
from alexvgg_jax.models.layers import Local

torch = pytest.importorskip("torch")

from _torch_nets import network  # noqa: E402, imports torch


def to_jax(kernel, bias, layer, shape):
    """PyTorch's parameters in our layout: maps are the last axis, not the first."""
    if isinstance(layer, Local):  # positions, (maps, 3, 3), features
        rows, columns, features = layer.output(shape)
        kernel = kernel.reshape(rows, columns, shape[2], -1, features)
        kernel = kernel.swapaxes(2, 3).reshape(rows, columns, -1, features)
        bias = bias.transpose(1, 2, 0)
    elif kernel.ndim == 4:
        kernel = kernel.transpose(2, 3, 1, 0)
    elif len(shape) == 3:
        kernel = kernel.reshape(-1, shape[2], *shape[:2])
        kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, layer.features)
    else:
        kernel = kernel.T
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def parameters(net, module):
    params, shape = {}, net.input_shape
    for layer in net.layers():
        torch_params = dict(getattr(module, layer.name).named_parameters())
        if torch_params:
            kernel, bias = (
                next(v for k, v in torch_params.items() if k.endswith(part))
                for part in ("weight", "bias")
            )
            arrays = kernel.detach().numpy(), bias.detach().numpy()
            params[layer.name] = to_jax(*arrays, layer, shape)
        shape = layer.output(shape)
    return params


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("alexnet-paper", {"width": 0.25, "inverted_dropout": True}),  # as torch's
        ("alexnet-owt", {"activation": "tanh"}),
        ("vgg-a", {"width": 0.25, "pool": "average"}),
        ("cifar-18pct", {}),
        ("cifar-11pct", {}),
    ],
)
def test_the_nets_are_the_same(name, switches):
    """AlexNet §3.5, VGG Table 1: equal logits, with larger weights than usual."""
    torch.manual_seed(0)
    net = build(name, **switches)
    module = network(net).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(5)
    shape = (2, *net.input_shape)
    images = 60 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        torch_logits = module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    apply = jax.jit(functools.partial(net.apply, train=False))
    logits, _ = apply(parameters(net, module), images)
    difference = np.linalg.norm(logits - torch_logits)
    assert difference < 1e-4 * np.linalg.norm(torch_logits)
