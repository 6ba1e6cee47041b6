"""VGG, as table 1 of the paper lists it: 3x3 convolutions in five blocks, a head."""

from dataclasses import dataclass
from typing import Literal

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Dropout,
    GlobalAverage,
    Init,
    Layer,
    Pool,
    SlidingDense,
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

# VGG §4.1 5x5: B with each pair of 3x3 convolutions replaced by one of 5x5.
COLUMNS = TABLE1 | {"B 5x5": ((5,),) * 5}


@dataclass(frozen=True)
class VGG:
    """VGG Table 1: one column of the table, its switches as fields.

    (224, 224, 3) -> (classes,). `lrn` normalises after the first convolution (A-LRN)
    with AlexNet's constants. VGG §2.3: stacks of 3x3 convolutions, of which two see 5x5
    pixels and three see 7x7; VGG §4.1 5x5 replaces two by one. VGG §3.1: weights from
    N(0, variance 1e-2), biases 0; or Glorot's uniform weights, which the paper found to
    make pre-training unnecessary.

    VGG §3.2: with the `head` "dense" the fully-connected layers slide over an image of
    any size from `image_size` up, and logits are the mean of the class score map "fc8";
    its parameters are those of the head "fc". "gap" averages the maps of pool5, as
    GoogLeNet does, instead of the hidden fully-connected layers, with which `dropout`
    goes too. `width` multiplies the kernels and the hidden units, for small data.
    """

    column: Literal["A", "B", "B 5x5", "C", "D", "E"]
    lrn: bool = False
    classes: int = 1000
    image_size: int = 224
    activation: Literal["relu", "tanh"] = "relu"
    head: Literal["fc", "dense", "gap"] = "fc"
    width: float = 1.0
    dropout: float = 0.5
    init: Literal["paper", "glorot"] = "paper"

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise InputError(f"width {self.width}: above 0")
        Dropout("dropout", self.dropout)  # raises, even for a head that has none

    def layers(self) -> tuple[Layer, ...]:
        return (*self._features(), *self._head())

    def _features(self) -> list[Layer]:
        rows: list[Layer] = []
        for block, (width, sizes) in enumerate(
            zip(WIDTHS, COLUMNS[self.column], strict=True), start=1
        ):
            for i, size in enumerate(sizes, start=1):
                name, kernels = f"{block}_{i}", self._wide(width)
                rows += [
                    Conv(f"conv{name}", kernels, size, pad=size // 2, init=self._init),
                    activation(self.activation, name),
                ]
                if self.lrn and name == "1_1":
                    rows.append(LRN("norm1_1"))
            rows.append(Pool(f"pool{block}", size=2, stride=2))
        return rows

    def _head(self) -> list[Layer]:
        if self.head == "gap":
            return [GlobalAverage("average"), Dense("fc8", self.classes, self._init)]
        hidden = self._wide(4096)
        return [
            self._connected("fc6", hidden, size=-(-self.image_size // 32)),
            activation(self.activation, "6"),
            Dropout("drop6", self.dropout, inverted=True),
            self._connected("fc7", hidden),
            activation(self.activation, "7"),
            Dropout("drop7", self.dropout, inverted=True),
            self._connected("fc8", self.classes),
            *([GlobalAverage("average")] if self.head == "dense" else []),
        ]

    def _connected(self, name: str, features: int, size: int = 1) -> Layer:
        if self.head == "dense":
            return SlidingDense(name, features, size, self._init)
        return Dense(name, features, self._init)

    def _wide(self, features: int) -> int:
        return max(1, round(self.width * features))

    @property
    def _init(self) -> Init:
        return "glorot" if self.init == "glorot" else 0.1  # sqrt(variance 1e-2)


VARIANTS = {
    "vgg-a": VGG("A"),
    "vgg-a-lrn": VGG("A", lrn=True),
    "vgg-b": VGG("B"),
    "vgg-b-5x5": VGG("B 5x5"),
    "vgg-c": VGG("C"),
    "vgg-d": VGG("D"),
    "vgg-e": VGG("E"),
}
