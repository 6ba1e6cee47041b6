"""The same nets in torchvision, and LPIPS in the package `lpips`, on random weights;
the extra `parity` has them."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from alexvgg_jax import perceptual, weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


NETS = [
    ("alexnet-owt", "alexnet"),
    ("vgg-a", "vgg11"),
    ("vgg-b", "vgg13"),
    ("vgg-d", "vgg16"),
    ("vgg-e", "vgg19"),
    ("vgg-a", "vgg11_bn"),
    ("vgg-b", "vgg13_bn"),
    ("vgg-d", "vgg16_bn"),
    ("vgg-e", "vgg19_bn"),
]


def random_net(their_name):
    """Random weights; and statistics of batch normalisation that change activations."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, their_name)(weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


@pytest.mark.parametrize(("name", "their_name"), NETS, ids=lambda name: name)
def test_weights_of_torchvision(name, their_name, tmp_path):
    """One weird trick, VGG Table 1: logits and the gradient of the image at 224."""
    their_net, net = random_net(their_name), build(name)
    torch.save(their_net.state_dict(), tmp_path / "a.pth")
    assert weights.net_of(tmp_path / "a.pth") == net
    params, provenance = weights.load(tmp_path / "a.pth", net)
    images = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3))

    # In float64: in float32 some ReLU or maximum rounds to the other side, which moves
    # a whole path of the gradient.
    x = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    mean, std = (
        torch.tensor(c, dtype=torch.float64)[:, None, None]
        for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    their_logits = their_net.double()((x / 255 - mean) / std)
    their_logits.sum().backward()

    def loss(images, params):
        mean = jnp.asarray(provenance.mean)[None, None, None]
        logits, _ = net.apply(params, images - mean, train=False)
        return logits.sum(), logits

    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, logits), gradient = slope(jnp.asarray(images), params)
        logits, gradient = np.asarray(logits), np.asarray(gradient)
    theirs = their_logits.detach().numpy()
    assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert_close(gradient, x.grad.numpy().transpose(0, 2, 3, 1), 1e-3)


def test_torchvision_loads_what_is_saved(tmp_path):
    """Weights of Keras with a mean of their own, in torchvision's net."""
    net, key = build("vgg-a", weight_init="he"), jax.random.key(0)
    params = jax.jit(net.init)(key)
    provenance = weights.Provenance("keras", np.array([123.68, 116.779, 103.939]))
    weights.save(params, tmp_path / "a.safetensors", net, provenance, "torchvision")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}
    their_net = torchvision.models.vgg11(weights=None).eval()
    their_net.load_state_dict(state)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3))
    normalise = torchvision.transforms.Normalize(
        json.loads(metadata["mean"]), json.loads(metadata["std"])
    )
    x = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)
    theirs = their_net(normalise(x / 255)).detach().numpy()
    pixels = jnp.asarray(images - provenance.mean, jnp.float32)
    logits, _ = jax.jit(functools.partial(net.apply, train=False))(params, pixels)
    assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_preprocess_is_the_transform_of_torchvision():
    transform = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    _, *mean = (255 * c for c in (0, 0.485, 0.456, 0.406))
    provenance = weights.Provenance("torchvision", np.array(mean))
    for size in ((300, 401), (400, 257), (100, 90)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        theirs = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        ours = weights.preprocess(image, provenance)
        std = 255 * np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(ours, theirs * std, atol=1e-3)


class RunsCode:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RunsCode(), "torch refuses it: damaged, or has code"),
        ([1, 2], "not a state dict of torch"),
        ({"a": torch.zeros(1).expand(10**12)}, "its tensors are larger than the file"),
    ],
    ids=["code", "list", "bomb"],
)
def test_a_hostile_pickle_is_one_line(content, message, tmp_path, capfd):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        weights.load(tmp_path / "a.pth", build("vgg-a"))
    assert "never" not in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore")  # lpips calls torchvision as it was
@pytest.mark.parametrize(
    "name, their_name, precision, size",
    [
        ("alexnet-owt", "alex", "float32", (64, 64)),
        ("alexnet-owt", "alex", "float64", (67, 90)),
        ("vgg-d", "vgg", "float64", (35, 50)),
    ],
)
def test_lpips(name, their_name, precision, size, tmp_path):
    """Values, maps and gradients of the image for images from -1 to 1: 1e-5."""
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=their_name, pnet_rand=True, verbose=False)
    theirs = theirs.to(getattr(torch, precision))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 2, *size, 3)).astype(precision)

    x, y = (torch.tensor(z.transpose(0, 3, 1, 2)) for z in (a, b))
    x.requires_grad = True
    their_values = theirs(x, y)
    their_values.sum().backward()
    theirs.spatial = True
    their_maps = theirs(x, y).detach().numpy()[:, 0]

    # slice1.0.weight is features.0.weight of torchvision
    state = theirs.net.float().state_dict()
    state = {re.sub(r"slice\d", "features", name): x for name, x in state.items()}
    torch.save(state, tmp_path / "a.pth")
    with jax.enable_x64(precision == "float64"):
        net = build(name)
        params, _ = weights.load(tmp_path / "a.pth", net)
        distance = functools.partial(perceptual.lpips, net, params, range=(-1, 1))

        @jax.jit
        def compute(a, b):
            slope = jax.grad(lambda a: distance(a, b).sum())(a)
            return distance(a, b), distance(a, b, spatial=True), slope

        values, maps, slope = compute(a, b)
    assert_close(values, their_values.detach().numpy().reshape(2), 1e-5)
    assert_close(maps, their_maps, 1e-5)
    assert_close(slope, x.grad.numpy().transpose(0, 2, 3, 1), 1e-5)


def assert_close(ours, theirs, relative):
    ours = np.asarray(ours)  # in float64 if it is
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < relative * np.linalg.norm(theirs)
