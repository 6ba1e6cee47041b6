"""The networks that `throughput.py --against torch` times are ours, too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.models import build

torch = pytest.importorskip("torch")

from _in_torch import network  # noqa: E402, imports torch


def parameters(net, module):
    """OIHW -> HWIO; a fully-connected layer reads maps last, not first."""
    params, shape = {}, net.input_shape
    for row in net.rows:
        own = dict(getattr(module, row.name).named_parameters())
        if own:
            kernel, bias = (
                next(v for k, v in own.items() if k.endswith(part)).detach().numpy()
                for part in ("weight", "bias")
            )
            if kernel.ndim == 4:
                kernel = kernel.transpose(2, 3, 1, 0)
            elif kernel.ndim == 3:  # local: positions, (maps, 3, 3), kernels
                rows, columns, features = row.output(shape)
                kernel = kernel.reshape(rows, columns, shape[2], 9, features)
                kernel = kernel.swapaxes(2, 3).reshape(rows, columns, -1, features)
                bias = bias.transpose(1, 2, 0)
            elif len(shape) == 3:
                kernel = kernel.reshape(-1, shape[2], *shape[:2])
                kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, row.features)
            else:
                kernel = kernel.T
            params[row.name] = {
                "kernel": jnp.asarray(kernel),
                "bias": jnp.asarray(bias),
            }
        shape = net.shapes()[row.name]
    return params


@pytest.mark.parametrize(
    "name",
    ["alexnet-paper", "alexnet-caffe", "alexnet-owt", "vgg-a"]
    + ["cifar-18pct", "cifar-11pct", "cifar-80sec"],
)
def test_the_timed_networks_are_ours(name):
    """AlexNet §3.5, VGG Table 1: logits of random weights, ten times the usual."""
    torch.manual_seed(0)
    # torch's dropout is inverted
    net = build(name, **{"inverted_dropout": True} if "paper" in name else {})
    module = network(net).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(5)
    shape = (2, *net.input_shape)
    images = 60 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    apply = jax.jit(functools.partial(net.apply, train=False))
    ours, _ = apply(parameters(net, module), images)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
