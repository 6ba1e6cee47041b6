"""AlexNet, as figure 2 of the paper draws it.

The two GPUs of 2012 are `groups=2`: conv2, conv4 and conv5 see the maps of their own
GPU, conv3 and the fully-connected layers see all of them.
"""

from dataclasses import dataclass
from typing import Literal

from alexvgg_jax.models.layers import LRN, Conv, Dense, Dropout, Layer, Pool, activation


@dataclass(frozen=True)
class AlexNet:
    """AlexNet §3.5: the eight layers of figure 2, their switches as fields.

    (224, 224, 3) or (227, 227, 3) -> (classes,): a 224 image is one with three rows and
    columns of zeros at its end, as the original program reads it. Weights N(0, 0.01^2).
    AlexNet §5 biases: 1 in conv2, conv4, conv5, fc6 and fc7, 0 elsewhere.
    """

    classes: int = 1000
    image_size: int = 224
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.5

    def layers(self) -> tuple[Layer, ...]:
        def act(suffix: str) -> Layer:
            return activation(self.activation, suffix)

        return (
            Conv("conv1", 96, 11, stride=4),
            act("1"),
            LRN("norm1", groups=2),
            Pool("pool1"),
            Conv("conv2", 256, 5, pad=2, groups=2, bias=1.0),
            act("2"),
            LRN("norm2", groups=2),
            Pool("pool2"),
            Conv("conv3", 384, 3, pad=1),
            act("3"),
            Conv("conv4", 384, 3, pad=1, groups=2, bias=1.0),
            act("4"),
            Conv("conv5", 256, 3, pad=1, groups=2, bias=1.0),
            act("5"),
            Pool("pool5"),
            Dense("fc6", 4096, bias=1.0),
            act("6"),
            Dropout("drop6", self.dropout),
            Dense("fc7", 4096, bias=1.0),
            act("7"),
            Dropout("drop7", self.dropout),
            Dense("fc8", self.classes),
        )


VARIANTS = {"alexnet-paper": AlexNet()}
