"""The same nets in torchvision, on random weights; the extra `parity` has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.models import build

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


def theirs_in_our_layout(net, their_net):
    """Layers come in the same order. OIHW -> HWIO; fc6 reads maps last, not first."""
    kinds = torch.nn.Conv2d | torch.nn.Linear
    modules = [module for module in their_net.modules() if isinstance(module, kinds)]
    params = {}
    for name, module in zip(net.param_shapes(), modules, strict=True):
        kernel = module.weight.detach().numpy()
        if name == "fc6":
            height, width, maps = net.shapes()["pool5"]
            kernel = kernel.reshape(-1, maps, height, width).transpose(2, 3, 1, 0)
            kernel = kernel.reshape(height * width * maps, -1)
        else:
            kernel = kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)
        bias = module.bias.detach().numpy()
        params[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return params


@pytest.mark.parametrize(
    "name, their_name",
    [
        ("alexnet-owt", "alexnet"),
        ("vgg-a", "vgg11"),
        ("vgg-b", "vgg13"),
        ("vgg-d", "vgg16"),
        ("vgg-e", "vgg19"),
    ],
)
def test_torchvision(name, their_name):
    """One weird trick, VGG Table 1: logits and the gradient of the image at 224."""
    torch.manual_seed(0)
    their_net = getattr(torchvision.models, their_name)(weights=None).eval()
    net = build(name)
    params = theirs_in_our_layout(net, their_net)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)

    x = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    their_logits = their_net(x)
    their_logits.square().sum().backward()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(images, params):
        logits, _ = net.apply(params, images, train=False)
        return jnp.square(logits).sum(), logits

    (_, logits), gradient = jax.jit(loss)(jnp.asarray(images), params)
    assert_close(logits, their_logits.detach().numpy(), 1e-4)
    # A ReLU or a maximum that rounds to the other side moves a whole path.
    assert_close(gradient, x.grad.numpy().transpose(0, 2, 3, 1), 2e-2)


def assert_close(ours, theirs, relative):
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < relative * np.linalg.norm(theirs)
