"""AlexNet, as figure 2 of the paper draws it, and as its descendants changed it.

The two GPUs of 2012 are `groups=2`: conv2, conv4 and conv5 see the maps of their own
GPU, conv3 and the fully-connected layers see all of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import LRN, Conv, Dense, Dropout, Layer, Pool, activation

# What follows the convolution in layers 1 and 2: the activation, response normalisation
# over maps (and over pixels), pooling.
Order = Literal[
    "act norm pool",  # the paper
    "norm act pool",
    "norm pool act",  # the program's layer 1; as the one above, after a maximum
    "act norm spatial pool",  # the program's layer 2
    "act pool norm",  # CaffeNet
    "act pool",
]

# (features, groups) of each layer: kernels or units of both towers together, and how
# many groups of them see only their own part of the layer below.
# fmt: off
TOWERS = {
    #           conv1    conv2     conv3     conv4     conv5     fc6        fc7
    "joined": ((96, 1), (256, 2), (384, 1), (384, 2), (256, 2), (4096, 1), (4096, 1)),
    "apart":  ((96, 1), (320, 2), (384, 2), (384, 2), (256, 2), (8192, 2), (4096, 2)),
    "half":   ((48, 1), (128, 1), (192, 1), (192, 1), (256, 1), (4096, 1), (4096, 1)),
    "one":    ((96, 1), (256, 1), (384, 1), (384, 1), (256, 1), (4096, 1), (4096, 1)),
}
# fmt: on


@dataclass(frozen=True)
class AlexNet:
    """AlexNet §3.5: the eight layers of figure 2, their switches as fields.

    (224, 224, 3) or (227, 227, 3) -> (classes,): a 224 image is one with three rows and
    columns of zeros at its end, as the original program reads it; Caffe's nets, which
    `clip_windows`, take 227 to 230. Weights N(0, 0.01^2). AlexNet §5 biases: 1 in
    conv2, conv4, conv5, fc6 and fc7, 0 elsewhere.

    Paper and program (`layers-145.cfg`) disagree: the program normalises layer 1 before
    the ReLU, divides alpha by n, adds a normalisation over 5x5 pixels in layer 2, and
    draws conv3, conv4 and conv5 from N(0, 0.03^2). `alexnet-source` is the program.
    `alexnet-small` is the paper's net for images of 32 pixels, on which the experiments
    try its claims: a quarter of the kernels and units, 5x5/2 windows in conv1, and
    wider deviations, for N(0, 0.01^2) into layers so narrow learns nothing at first.

    AlexNet §3.2: the `towers` are joined as in the paper; apart until fc8 (the
    program's net 150, its fc7 inferred); half, one GPU with half the kernels except in
    conv5 (145-half); or one tower with the kernels of both and no groups. AlexNet §7:
    `without` leaves out a middle layer, but not the pooling behind it.
    Raises InputError for 2/2 pooling behind 11/4 without conv2 or conv5, whose padding
    it needs, and for `lrn_k` 0, which divides what is dark by nothing.
    """

    classes: int = 1000
    image_size: int = 224
    width: float = 1.0  # times the kernels and units of every layer
    classifier: float = 1.0  # times the units of fc6 and fc7 once more
    conv1: Literal["11/4", "5/2"] = "11/4"  # size/stride
    activation: Literal["relu", "tanh"] = "relu"
    layer1: Order = "act norm pool"  # what follows conv1, "act pool" for no norm
    layer2: Order = "act norm pool"  # what follows conv2
    pooling: Literal["3/2", "2/2"] = "3/2"  # size/stride; 2/2 with net 147's padding
    lrn_alpha: float = 1e-4  # as in the formula; the program divides it by n = 5
    lrn_k: float = 2.0  # Caffe's is 1
    lrn_across_towers: bool = False  # whether windows cross from one GPU to the other
    towers: Literal["joined", "apart", "half", "one"] = "joined"  # a row of TOWERS
    without: Literal["nothing", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"] = (
        "nothing"  # or a layer to leave out, with all that follows it but pooling
    )
    dropout: float = 0.5  # the probability to drop a unit of fc6 and fc7
    inverted_dropout: bool = False  # Caffe's: scaled in training instead of in tests
    middle_init: float = 0.01  # deviation in conv3, conv4 and conv5
    hidden_init: float = 0.01  # deviation in fc6 and fc7
    one: float = 1.0  # the bias that the paper sets to 1
    clip_windows: bool = False  # conv1 drops a last window that the image does not fill

    def __post_init__(self) -> None:
        padded = self.conv1 == "11/4" and self.pooling == "2/2"
        if padded and self.without in ("conv2", "conv5"):
            raise InputError(
                f"without {self.without}: not with pooling 2/2, whose map sizes need "
                "the padding of that layer"
            )
        for name in ("lrn_k", "width", "classifier"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} {getattr(self, name)}: above 0")

    def layers(self) -> tuple[Layer, ...]:
        one, hidden, middle = self.one, self.hidden_init, self.middle_init
        # Net 147's padding gives pooling of 2/2 the map sizes of 3/2, and conv1's 3
        # pixels make those the same for either: 28 -> 16, 8, 4, 2.
        small = self.conv1 == "5/2"
        pad2, pad5 = (2, 1) if small or self.pooling == "3/2" else (1, 0)
        features, groups = zip(*TOWERS[self.towers], strict=True)
        scales = [self.width] * 5 + [self.width * self.classifier] * 2
        features = [
            max(2, 2 * round(scale * n / 2))
            for scale, n in zip(scales, features, strict=True)
        ]
        size1, stride1 = map(int, self.conv1.split("/"))
        pad1 = 3 if small else 0
        ceil = not self.clip_windows
        rows = (
            Conv("conv1", features[0], size1, stride1, pad1, ceil=ceil),
            *self._behind("1", self.layer1),
            Conv("conv2", features[1], 5, 1, pad2, groups[1], bias=one),
            *self._behind("2", self.layer2),
            Conv("conv3", features[2], 3, 1, 1, groups[2], middle),
            self._act("3"),
            Conv("conv4", features[3], 3, 1, 1, groups[3], middle, one),
            self._act("4"),
            Conv("conv5", features[4], 3, 1, pad5, groups[4], middle, one),
            self._act("5"),
            self._pool("5"),
            Dense("fc6", features[5], hidden, one, groups[5]),
            self._act("6"),
            Dropout("drop6", self.dropout, self.inverted_dropout),
            Dense("fc7", features[6], hidden, one, groups[6]),
            self._act("7"),
            Dropout("drop7", self.dropout, self.inverted_dropout),
            Dense("fc8", self.classes),
        )
        if self.without == "nothing":
            return rows
        gone = self.without[-1]  # conv2, relu2 and norm2 go together
        return tuple(r for r in rows if r.name[-1] != gone or isinstance(r, Pool))

    def _behind(self, suffix: str, order: Order) -> list[Layer]:
        split = self.towers in ("joined", "apart") and not self.lrn_across_towers
        norm = LRN("norm" + suffix, 5, self.lrn_alpha, 0.75, self.lrn_k, 1 + split)
        spatial = LRN("spatial" + suffix, 5, 1e-3 / 25, 0.75, 1.0, over="pixels")
        rows: dict[str, Layer] = {
            "act": self._act(suffix),
            "norm": norm,
            "spatial": spatial,
            "pool": self._pool(suffix),
        }
        return [rows[word] for word in order.split()]

    def _act(self, suffix: str) -> Layer:
        return activation(self.activation, suffix)

    def _pool(self, suffix: str) -> Layer:
        size, stride = map(int, self.pooling.split("/"))
        return Pool("pool" + suffix, size, stride)


@dataclass(frozen=True)
class OneWeirdTrick:
    """One weird trick: AlexNet in one tower and without LRN, as torchvision ships it.

    (224, 224, 3) -> (classes,). Dropout stands before the layers whose inputs it drops.
    Weights N(0, 0.01^2), biases 0.
    """

    classes: int = 1000
    image_size: int = 224
    activation: Literal["relu", "tanh"] = "relu"
    dropout: float = 0.5

    def layers(self) -> tuple[Layer, ...]:
        return (
            Conv("conv1", 64, 11, stride=4, pad=2, ceil=False),
            activation(self.activation, "1"),
            Pool("pool1"),
            Conv("conv2", 192, 5, pad=2),
            activation(self.activation, "2"),
            Pool("pool2"),
            Conv("conv3", 384, 3, pad=1),
            activation(self.activation, "3"),
            Conv("conv4", 256, 3, pad=1),
            activation(self.activation, "4"),
            Conv("conv5", 256, 3, pad=1),
            activation(self.activation, "5"),
            Pool("pool5"),
            Dropout("drop6", self.dropout, inverted=True),
            Dense("fc6", 4096),
            activation(self.activation, "6"),
            Dropout("drop7", self.dropout, inverted=True),
            Dense("fc7", 4096),
            activation(self.activation, "7"),
            Dense("fc8", self.classes),
        )


# Caffe's readme: biases of 1 "gave flat loss". Its images are BGR, ours are RGB.
CAFFE = AlexNet(
    image_size=227,
    lrn_alpha=1e-4 / 5,
    lrn_k=1.0,
    lrn_across_towers=True,
    inverted_dropout=True,
    hidden_init=0.005,
    one=0.1,
    clip_windows=True,
)

VARIANTS = {
    "alexnet-paper": AlexNet(),
    "alexnet-small": AlexNet(
        classes=10,
        image_size=28,
        width=0.25,
        conv1="5/2",
        middle_init=0.06,
        hidden_init=0.04,
    ),
    "alexnet-source": AlexNet(
        layer1="norm pool act",
        layer2="act norm spatial pool",
        lrn_alpha=1e-4 / 5,
        middle_init=0.03,
    ),
    "alexnet-caffe": CAFFE,
    "alexnet-caffenet": replace(
        CAFFE, layer1="act pool norm", layer2="act pool norm", one=1.0
    ),
    "alexnet-owt": OneWeirdTrick(),
}
