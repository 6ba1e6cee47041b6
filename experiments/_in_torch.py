"""Our networks and our training step in PyTorch, to be timed and compared with.

`network` translates the rows of a model; `Trainer` is the step of `alexvgg_jax.step`:
crop, mirror, mean, loss, gradients and the original program's update.
"""

# torch is in the extra `parity`
# pyright: reportMissingImports=false

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexvgg_jax.config import Augment, Optim
from alexvgg_jax.models import Model
from alexvgg_jax.models.layers import (
    LRN,
    Activation,
    Conv,
    Dense,
    Dropout,
    Layer,
    Local,
    Pool,
    Shape,
    windows,
)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LocalLayer(nn.Module):
    """Patches by unfold, then a product of matrices for each position."""

    def __init__(self, row: Local, shape: Shape):
        super().__init__()
        self.row, (rows, columns, features) = row, row.output(shape)
        seen = row.size**2 * shape[2]
        self.shape = (features, rows, columns)
        self.weight = nn.Parameter(torch.empty(rows * columns, seen, features))
        self.bias = nn.Parameter(torch.empty(features, rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.row.size, padding=self.row.pad)
        y = torch.bmm(patches.permute(2, 0, 1), self.weight)
        return y.permute(1, 2, 0).reshape(len(x), *self.shape) + self.bias


def layer(row: Layer, shape: Shape) -> nn.Module:
    """A row as a module on NCHW; `shape` is what the row sees, as (H, W, C)."""
    match row:
        case Conv():
            ends = [
                windows(n, row.size, row.stride, row.pad, row.ceil)[1] - row.pad
                for n in shape[:2]
            ]
            convolve = nn.Conv2d(
                shape[2], row.features, row.size, row.stride, row.pad, groups=row.groups
            )
            if max(ends) <= 0:
                return convolve
            return nn.Sequential(nn.ZeroPad2d((0, ends[1], 0, ends[0])), convolve)
        case Local():
            return LocalLayer(row, shape)
        case Dense() if len(shape) == 3:
            return nn.Sequential(
                nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], row.features)
            )
        case Dense():
            return nn.Linear(shape[0], row.features)
        case Activation():
            return nn.ReLU() if row.name.startswith("relu") else nn.Tanh()
        case LRN():
            return _response_normalisation(row)
        case Pool(kind="max"):
            return nn.MaxPool2d(row.size, row.stride, ceil_mode=True)
        case Pool():
            return nn.AvgPool2d(row.size, row.stride, ceil_mode=True)
        case Dropout():
            return nn.Dropout(row.rate)
    raise TypeError(f"{row.name}: not in torch")


def _response_normalisation(row: LRN) -> nn.Module:
    n = row.size
    if row.over == "pixels":
        mean = nn.AvgPool2d(n, stride=1, padding=n // 2)
        scale = row.alpha * n**2
        return Function(lambda x: x * (row.k + scale * mean(x * x)) ** -row.beta)
    norm = nn.LocalResponseNorm(n, row.alpha * n, row.beta, row.k)
    if row.groups == 1:
        return norm
    return Function(lambda x: torch.cat([norm(half) for half in x.chunk(2, 1)], 1))


def network(net: Model) -> nn.Sequential:
    """The rows of `net`, but for dense heads and towers apart."""
    shape, shapes = net.input_shape, net.shapes()
    module = nn.Sequential()
    for row in net.rows:
        module.add_module(row.name, layer(row, shape))
        shape = shapes[row.name]
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.01)
    return module


class Trainer:
    """Steps on one batch of uint8 images, NCHW."""

    def __init__(self, net: Model, config: Augment, optim: Optim, layout: str):
        self.format = getattr(torch, layout)
        self.module = network(net).to(memory_format=self.format)
        self.config = config
        size = net.image_size
        self.mean = torch.full((3, size, size), 127.0)
        biases = [p for n, p in self.module.named_parameters() if n.endswith("bias")]
        weights = [p for n, p in self.module.named_parameters() if n.endswith("weight")]
        self.optimizer = torch.optim.SGD(
            [
                {"params": weights, "weight_decay": optim.weight_decay},
                {"params": biases, "lr": optim.rate * optim.bias_rate},
            ],
            lr=optim.rate,
            momentum=optim.momentum,
        )

    def augment(self, images: Tensor) -> Tensor:
        if size := self.config.crop:
            spare = images.shape[2] - size + 1
            corners = torch.randint(spare, (len(images), 2)).tolist()
            images = torch.stack(
                [
                    image[:, top : top + size, left : left + size]
                    for image, (top, left) in zip(images, corners, strict=True)
                ]
            )
        if self.config.mirror:
            flip = torch.rand(len(images), 1, 1, 1) < 0.5
            images = torch.where(flip, images.flip(3), images)
        return (images.float() - self.mean).contiguous(memory_format=self.format)

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits; the gradients are the parameters'."""
        self.module.train()
        logits = self.module(self.augment(images))
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss, logits

    def train(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Loss and error of the batch, fetched as our loop fetches them."""
        loss, logits = self.gradient(images, labels)
        self.optimizer.step()
        errors = (logits.detach().argmax(1) != labels).float().mean()
        return loss.item(), errors.item()

    @torch.inference_mode()
    def infer(self, images: Tensor) -> Tensor:
        self.module.eval()
        if size := self.config.crop:
            edge = (images.shape[2] - size) // 2
            images = images[:, :, edge : edge + size, edge : edge + size]
        pixels = images.float() - self.mean
        return self.module(pixels.contiguous(memory_format=self.format))
