"""VGG, as table 1 of the paper lists it: 3x3 convolutions in five blocks, a head."""

from dataclasses import dataclass
from typing import Literal

from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Init,
    Layer,
    Pool,
    activation,
)

WIDTHS = (64, 128, 256, 512, 512)

# The kernel sizes of each block's convolutions.
# fmt: off
TABLE1: dict[str, tuple[tuple[int, ...], ...]] = {
    #     64      128     256           512           512
    "A": ((3,),   (3,),   (3, 3),       (3, 3),       (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3),       (3, 3),       (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1),    (3, 3, 1),    (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3),    (3, 3, 3),    (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
# fmt: on


@dataclass(frozen=True)
class VGG:
    """VGG Table 1: one column of the table, its switches as fields.

    (224, 224, 3) -> (classes,). `lrn` normalises after the first convolution (A-LRN)
    with AlexNet's constants. VGG §2.3: stacks of 3x3 convolutions, of which two see 5x5
    pixels and three see 7x7. VGG §3.1: weights from N(0, variance 1e-2), biases 0; or
    Glorot's uniform weights, which the paper found to make pre-training unnecessary.
    """

    column: Literal["A", "B", "C", "D", "E"]
    lrn: bool = False
    classes: int = 1000
    image_size: int = 224
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.5
    init: Literal["paper", "glorot"] = "paper"

    def layers(self) -> tuple[Layer, ...]:
        init: Init = "glorot" if self.init == "glorot" else 0.1  # sqrt(variance 1e-2)
        features: list[Layer] = []
        for block, (width, sizes) in enumerate(
            zip(WIDTHS, TABLE1[self.column], strict=True), start=1
        ):
            for i, size in enumerate(sizes, start=1):
                name = f"{block}_{i}"
                features += [
                    Conv(f"conv{name}", width, size, pad=size // 2, init=init),
                    activation(self.activation, name),
                ]
                if self.lrn and name == "1_1":
                    features.append(LRN("norm1_1"))
            features.append(Pool(f"pool{block}", size=2, stride=2))
        head = (
            Dense("fc6", 4096, init),
            activation(self.activation, "6"),
            Dropout("drop6", self.dropout, inverted=True),
            Dense("fc7", 4096, init),
            activation(self.activation, "7"),
            Dropout("drop7", self.dropout, inverted=True),
            Dense("fc8", self.classes, init),
        )
        return (*features, *head)


VARIANTS = {
    "vgg-a": VGG("A"),
    "vgg-a-lrn": VGG("A", lrn=True),
    "vgg-b": VGG("B"),
    "vgg-c": VGG("C"),
    "vgg-d": VGG("D"),
    "vgg-e": VGG("E"),
}
