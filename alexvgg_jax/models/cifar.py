"""The CIFAR-10 nets of the original program (`example-layers/`, `layers-cifar/`).

The standard deviations of their weights are those of the files. `recipes` has their
learning rates and decays.
"""

from dataclasses import dataclass

from alexvgg_jax.models.layers import (
    LRN,
    Activations,
    Conv,
    Dense,
    Layer,
    Local,
    Pool,
    activation,
)
from alexvgg_jax.models.net import FromData, Net


@dataclass(frozen=True)
class FiveLayers(Net):
    """cuda-convnet 80sec: `layers-80sec.cfg`, "26% error in 80 seconds".

    (32, 32, 3) -> (classes,).
    """

    classes: FromData = 10
    image_size: FromData = 32
    activation: Activations = "relu"  # function after each layer but the last

    def layers(self) -> tuple[Layer, ...]:
        return (
            *FourLayers(activation=self.activation).layers()[:-1],
            Dense("fc64", 64, init=0.1),
            activation(self.activation, "4"),
            Dense("fc10", self.classes, init=0.1),
        )


@dataclass(frozen=True)
class FourLayers(Net):
    """cuda-convnet 19pct: `layers-19pct.cfg`, three convolutions and one softmax.

    (32, 32, 3) -> (classes,); cuda-convnet 19pct translations: 24 pixels. AlexNet §3.1:
    the net of figure 1 has four layers too. The paper does not print them, so this net
    stands for it. cuda-convnet 18pct: `lrn` normalises over 3x3 pixels after pool1 and
    pool2 (`layers-18pct.cfg`).
    """

    classes: FromData = 10
    image_size: FromData = 32
    activation: Activations = "relu"  # function after each layer but the last
    lrn: bool = False  # response normalisation over 3x3 pixels

    def layers(self) -> tuple[Layer, ...]:
        layers = (
            Conv("conv1", 32, 5, pad=2, init=0.0001),
            activation(self.activation, "1"),
            Pool("pool1"),
            LRN("norm1", size=3, alpha=5e-5 / 9, k=1.0, over="pixels"),
            Conv("conv2", 32, 5, pad=2, init=0.01),
            activation(self.activation, "2"),
            Pool("pool2", kind="average"),
            LRN("norm2", size=3, alpha=5e-5 / 9, k=1.0, over="pixels"),
            Conv("conv3", 64, 5, pad=2, init=0.01),
            activation(self.activation, "3"),
            Pool("pool3", kind="average"),
            Dense("fc10", self.classes, init=0.01),
        )
        return tuple(x for x in layers if self.lrn or not isinstance(x, LRN))


@dataclass(frozen=True)
class ConvLocal(Net):
    """cuda-convnet 13pct: `layers-conv-local-13pct.cfg`, two of its layers local.

    (24, 24, 3) -> (classes,). cuda-convnet 11pct: `lrn` normalises over 9 maps, after
    pool1 and before pool2, and `local3` has 64 kernels (`layers-conv-local-11pct.cfg`).
    AlexNet §3.3 CIFAR-10: `lrn` alone.
    """

    classes: FromData = 10
    image_size: FromData = 24
    activation: Activations = "relu"  # function after each layer but the last
    lrn: bool = False  # response normalisation over 9 maps
    local3: int = 32  # kernels at each position of the first local layer

    def layers(self) -> tuple[Layer, ...]:
        layers = (
            Conv("conv1", 64, 5, pad=2, init=0.0001),
            activation(self.activation, "1"),
            Pool("pool1"),
            LRN("norm1", size=9, alpha=0.001 / 9, k=1.0),
            Conv("conv2", 64, 5, pad=2, init=0.01),
            activation(self.activation, "2"),
            LRN("norm2", size=9, alpha=0.001 / 9, k=1.0),
            Pool("pool2"),
            Local("local3", self.local3, 3, pad=1, init=0.04),
            activation(self.activation, "3"),
            Local("local4", 32, 3, pad=1, init=0.04),
            activation(self.activation, "4"),
            Dense("fc10", self.classes, init=0.01),
        )
        return tuple(x for x in layers if self.lrn or not isinstance(x, LRN))


VARIANTS = {
    "cifar-80sec": FiveLayers(),
    "cifar-19pct": FourLayers(),
    "cifar-18pct": FourLayers(lrn=True),
    "cifar-13pct": ConvLocal(),
    "cifar-11pct": ConvLocal(lrn=True, local3=64),
}
