"""The CIFAR-10 nets: the original program's, and the one of AlexNet's figure 1."""

from dataclasses import dataclass
from typing import Literal

from alexvgg_jax.models.layers import Conv, Dense, Layer, Pool, activation


@dataclass(frozen=True)
class Cifar80Sec:
    """cuda-convnet 80sec: `layers-80sec.cfg`, "26% error in 80 seconds".

    (32, 32, 3) -> (classes,). Its deviations are those of the file.
    """

    classes: int = 10
    image_size: int = 32
    activation: Literal["relu", "tanh"] = "relu"

    def layers(self) -> tuple[Layer, ...]:
        return (
            *_three_convolutions(self.activation),
            Dense("fc64", 64, init=0.1),
            activation(self.activation, "4"),
            Dense("fc10", self.classes, init=0.1),
        )


@dataclass(frozen=True)
class Figure1:
    """AlexNet §3.1: the four-layer CNN of figure 1, three convolutions and one softmax.

    (32, 32, 3) -> (classes,). The paper does not print its layers; these are the
    program's own four-layer CIFAR-10 net (`layers-19pct.cfg`).
    """

    classes: int = 10
    image_size: int = 32
    activation: Literal["relu", "tanh"] = "relu"

    def layers(self) -> tuple[Layer, ...]:
        return (
            *_three_convolutions(self.activation),
            Dense("fc10", self.classes, init=0.01),
        )


def _three_convolutions(function: str) -> tuple[Layer, ...]:
    """The convolutions that `layers-80sec.cfg` and `layers-19pct.cfg` share."""
    return (
        Conv("conv1", 32, 5, pad=2, init=0.0001),
        activation(function, "1"),
        Pool("pool1"),
        Conv("conv2", 32, 5, pad=2, init=0.01),
        activation(function, "2"),
        Pool("pool2", kind="average"),
        Conv("conv3", 64, 5, pad=2, init=0.01),
        activation(function, "3"),
        Pool("pool3", kind="average"),
    )


VARIANTS = {"cifar-80sec": Cifar80Sec(), "figure1": Figure1()}
