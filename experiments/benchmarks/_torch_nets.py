"""Our nets and our training step in PyTorch, to compare their speed and their numbers.

`network` translates the layers of a net. `Trainer` is the step of `alexvgg_jax.step`:
crop, mirror, mean, loss, gradients and the update of the original program.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexvgg_jax.config import Augment, Optim
from alexvgg_jax.models import Net
from alexvgg_jax.models import layers as ours
from alexvgg_jax.models.operations import windows


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LocalLayer(nn.Module):
    """Patches by `unfold`, then a matrix product at each position."""

    def __init__(self, layer: ours.Local, shape: ours.Shape):
        super().__init__()
        rows, columns, seen, features = layer.param_shapes(shape)["kernel"]
        self.layer, self.output = layer, (features, rows, columns)
        self.weight = nn.Parameter(torch.empty(rows * columns, seen, features))
        self.bias = nn.Parameter(torch.empty(self.output))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.layer.size, padding=self.layer.pad)
        y = torch.bmm(patches.permute(2, 0, 1), self.weight)
        return y.permute(1, 2, 0).reshape(len(x), *self.output) + self.bias


def translate(layer: ours.Layer, shape: ours.Shape) -> nn.Module:
    """The layer as a module on NCHW; `shape` is its input's, (height, width, maps)."""
    match layer:
        case ours.Conv(features=features, size=size, stride=stride, pad=pad):
            ends = [windows(n, size, stride, pad, layer.ceil)[1] for n in shape[:2]]
            bottom, right = (max(end - pad, 0) for end in ends)
            conv = nn.Conv2d(shape[2], features, size, stride, pad, groups=layer.groups)
            if not (bottom or right):
                return conv
            return nn.Sequential(nn.ZeroPad2d((0, right, 0, bottom)), conv)
        case ours.Local():
            return LocalLayer(layer, shape)
        case ours.Dense(groups=1):
            inputs, features = layer.param_shapes(shape)["kernel"]
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, features))
        case ours.Activation(function="relu"):
            return nn.ReLU()
        case ours.Activation(function="tanh"):
            return nn.Tanh()
        case ours.LRN():
            return _normalisation(layer)
        case ours.Pool(kind=kind):
            pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            return pool(layer.size, layer.stride, ceil_mode=layer.ceil)
        case ours.Dropout():
            return nn.Dropout(layer.rate)
    raise TypeError(f"{layer.name}: not in torch")


def _normalisation(layer: ours.LRN) -> nn.Module:
    n = layer.size
    if layer.over == "pixels":
        mean, scale = nn.AvgPool2d(n, stride=1, padding=n // 2), layer.alpha * n**2
        return Function(lambda x: x * (layer.k + scale * mean(x * x)) ** -layer.beta)
    norm = nn.LocalResponseNorm(n, layer.alpha * n, layer.beta, layer.k)
    return Function(lambda x: torch.cat([norm(y) for y in x.chunk(layer.groups, 1)], 1))


def network(net: Net) -> nn.Sequential:
    """The net as a module on NCHW, with weights from N(0, 0.01^2)."""
    shape, module = net.input_shape, nn.Sequential()
    for layer in net.layers():
        module.add_module(layer.name, translate(layer, shape))
        shape = layer.output(shape)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.01)
    return module


class Trainer:
    """Training and inference on batches of uint8 images, NCHW."""

    def __init__(self, net: Net, augment: Augment, optim: Optim, layout: str):
        self.format = getattr(torch, layout)
        self.module = network(net).to(memory_format=self.format)
        self.augment, self.size, self.mean = augment, net.image_size, 127.0
        named = list(self.module.named_parameters())
        weights = [p for name, p in named if name.endswith("weight")]
        biases = [p for name, p in named if name.endswith("bias")]
        groups = [
            {"params": weights, "weight_decay": optim.weight_decay},
            {"params": biases, "lr": optim.rate * optim.bias_rate},
        ]
        self.optimizer = torch.optim.SGD(groups, optim.rate, optim.momentum)

    def place(self, images: np.ndarray) -> Tensor:
        """NHWC images as NCHW, in the trainer's memory layout."""
        nchw = torch.tensor(images.transpose(0, 3, 1, 2))
        return nchw.contiguous(memory_format=self.format)

    def _crop(self, images: Tensor) -> Tensor:
        size = self.size
        corners = torch.randint(images.shape[2] - size + 1, (len(images), 2)).tolist()
        return torch.stack(
            [
                image[:, top : top + size, left : left + size]
                for image, (top, left) in zip(images, corners, strict=True)
            ]
        )

    def _subtract_mean(self, images: Tensor) -> Tensor:
        pixels = images.float() - self.mean
        return pixels.contiguous(memory_format=self.format)

    def train(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Update once; return the batch's loss and error, as our loop does."""
        self.module.train()
        if self.augment.crop:
            images = self._crop(images)
        if self.augment.mirror:
            flip = torch.rand(len(images), 1, 1, 1) < 0.5
            images = torch.where(flip, images.flip(3), images)
        logits = self.module(self._subtract_mean(images))
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        errors = (logits.detach().argmax(1) != labels).float().mean()
        return loss.item(), errors.item()

    @torch.inference_mode()
    def infer(self, images: Tensor) -> Tensor:
        """The logits of the centre crops."""
        self.module.eval()
        edge = (images.shape[2] - self.size) // 2
        centre = slice(edge, edge + self.size)
        return self.module(self._subtract_mean(images[:, :, centre, centre]))
