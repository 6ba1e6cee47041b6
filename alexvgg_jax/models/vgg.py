"""VGG as in table 1 of the paper: five blocks of 3x3 convolutions, and a head."""

import math
from dataclasses import dataclass
from typing import Literal

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Activations,
    Conv,
    Dense,
    Dropout,
    GlobalAverage,
    Init,
    Layer,
    Pool,
    Pooling,
    SlidingDense,
    activation,
)
from alexvgg_jax.models.net import Net

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

# VGG §3.1. The variance is 1e-2, so the deviation is 0.1.
INITS: dict[str, Init] = {
    "glorot": "glorot",
    "he": "he",
    "deviation": 0.01,
    "variance": 0.1,
}


@dataclass(frozen=True)
class VGG(Net):
    """VGG Table 1: one column of the table, with switches for its variants.

    (224, 224, 3) -> (classes,). `lrn` normalises after the first convolution (A-LRN)
    with AlexNet's constants. VGG §2.3: in a stack of 3x3 convolutions two see 5x5
    pixels, and three see 7x7. VGG §4.1 5x5 replaces two by one. VGG §3.1: biases 0 and
    weights that need no pre-training, Glorot's uniform ones (or He's). The paper's own
    weights are from a normal distribution "with the zero mean and 10^-2 variance". Read
    as it stands, that is N(0, 0.1^2): on pixels from 0 to 255 the logits of net D are
    near 1e11, and training fails at once. Read as a deviation it is N(0, 0.01^2): then
    the signal vanishes in the deep nets, as the paper reports. With another `width`
    both deviations are divided by its square root, so that a layer passes on as much
    signal as the full one.

    VGG §3.2: with `head="dense"` the fully-connected layers slide over an image of any
    size from `image_size` up, and the logits are the mean of the class score map "fc8".
    The parameters are the same as with `head="fc"`. "gap" averages the maps of pool5,
    as GoogLeNet does, and has no hidden fully-connected layers and no dropout.

    Pooling covers the whole image. PyTorch and Keras have `clip_windows`, which differs
    for sides that are no multiples of 32.
    """

    # column of VGG's Table 1; B 5x5 is the net of VGG §4.1
    column: Literal["A", "B", "B 5x5", "C", "D", "E"] = "D"
    lrn: bool = False  # response normalisation after conv1_1 (column A-LRN)
    activation: Activations = "relu"  # function after each layer but the last
    pool: Pooling = "max"  # average is for style transfer (Gatys et al. 2016)
    clip_windows: bool = False  # drop pooling windows that extend beyond the image
    # fc: fully-connected layers; dense: the same, slid over an image of any size;
    # gap: global average pooling
    head: Literal["fc", "dense", "gap"] = "fc"
    width: float = 1.0  # multiplies the number of kernels and hidden units
    dropout: float = 0.5  # probability that a unit of fc6 or fc7 is dropped
    # how weights are drawn: glorot and he scale them by layer; deviation: N(0, 0.01^2);
    # variance: N(0, 0.1^2), too large to train from
    weight_init: Literal["glorot", "he", "deviation", "variance"] = "glorot"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= 100:
            raise InputError(f"width {self.width}: must be above 0 and at most 100")
        Dropout("dropout", self.dropout)  # raises, even for a head that has none

    def layers(self) -> tuple[Layer, ...]:
        return (*self._features(), *self._head())

    def _features(self) -> list[Layer]:
        layers: list[Layer] = []
        for block, (width, sizes) in enumerate(
            zip(WIDTHS, COLUMNS[self.column], strict=True), start=1
        ):
            for i, size in enumerate(sizes, start=1):
                name, kernels = f"{block}_{i}", self._wide(width)
                layers += [
                    Conv(f"conv{name}", kernels, size, pad=size // 2, init=self._init),
                    activation(self.activation, name),
                ]
                if self.lrn and name == "1_1":
                    layers.append(LRN("norm1_1"))
            ceil = not self.clip_windows
            layers.append(Pool(f"pool{block}", 2, 2, kind=self.pool, ceil=ceil))
        return layers

    def _head(self) -> list[Layer]:
        if self.head == "gap":
            return [
                GlobalAverage("average"),
                Dense("fc8", self.classes, init=self._init),
            ]
        hidden, side = self._wide(4096), self.image_size / 32
        size = math.floor(side) if self.clip_windows else math.ceil(side)
        return [
            self._connected("fc6", hidden, size),
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
            return SlidingDense(name, features, size, init=self._init)
        return Dense(name, features, init=self._init)

    def _wide(self, features: int) -> int:
        return max(1, round(self.width * features))

    @property
    def _init(self) -> Init:
        init = INITS[self.weight_init]
        return init if isinstance(init, str) else init / math.sqrt(self.width)


VARIANTS = {
    "vgg-a": VGG(column="A"),
    "vgg-a-lrn": VGG(column="A", lrn=True),
    "vgg-b": VGG(column="B"),
    "vgg-b-5x5": VGG(column="B 5x5"),
    "vgg-c": VGG(column="C"),
    "vgg-d": VGG(column="D"),
    "vgg-e": VGG(column="E"),
}
