"""AlexNet as figure 2 of the paper draws it, and the variants that followed.

The two GPUs of 2012 are `groups=2`: conv2, conv4 and conv5 see the maps of their own
GPU, conv3 and the fully-connected layers see all of them.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import (
    LRN,
    Activations,
    Conv,
    Dense,
    Dropout,
    Layer,
    Pool,
    activation,
    drawn_by,
)
from alexvgg_jax.models.net import Net

# What can follow conv1 and conv2: the activation, response normalisation over maps
# ("norm") and over pixels ("spatial"), and pooling.
Step = Literal["act", "norm", "spatial", "pool"]
WeightInit = Literal["paper", "glorot", "he"]
Middle = Literal["conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]


class Towers(NamedTuple):
    """conv1 to fc7: the features of both towers together, and the groups."""

    features: tuple[int, ...]
    groups: tuple[int, ...]


# fmt: off
TOWERS = {
    #                 conv1 2    3    4    5    fc6   fc7
    "joined": Towers((96, 256, 384, 384, 256, 4096, 4096), (1, 2, 1, 2, 2, 1, 1)),
    "apart":  Towers((96, 320, 384, 384, 256, 8192, 4096), (1, 2, 2, 2, 2, 2, 2)),
    "half":   Towers((48, 128, 192, 192, 256, 4096, 4096), (1, 1, 1, 1, 1, 1, 1)),
    "one":    Towers((96, 256, 384, 384, 256, 4096, 4096), (1, 1, 1, 1, 1, 1, 1)),
}
# fmt: on


@dataclass(frozen=True)
class AlexNet(Net):
    """AlexNet §3.5: the eight layers of figure 2, with switches for its variants.

    (224, 224, 3) or (227, 227, 3) -> (classes,). A 224 image is a 227 image with three
    rows and columns of zeros at its end, as in the original program. Caffe's nets have
    `clip_windows` and take 227 to 230. Weights start from N(0, 0.01^2). AlexNet §5
    biases: 1 in conv2, conv4, conv5, fc6 and fc7, and 0 elsewhere.

    Paper and program (`layers-145.cfg`) disagree. The program normalises layer 1 before
    the ReLU, divides alpha by n, adds a normalisation over 5x5 pixels in layer 2, and
    draws conv3, conv4 and conv5 from N(0, 0.03^2). `alexnet-source` is the program.
    `alexnet-small` is the paper's net for images of 32 pixels, which the experiments
    use: a quarter of the kernels and units, 5x5/2 windows in conv1, and larger initial
    weights, because N(0, 0.01^2) learns nothing at first in layers so narrow.

    AlexNet §3.2, `towers`: "joined" as in the paper; "apart" until fc8 (the program's
    `layers-150.cfg`); "half", one GPU with half the kernels except in
    conv5 (145-half); "one", one tower with the kernels of both and no groups. AlexNet
    §7: `without` leaves out a middle layer, except its pooling.

    Raises InputError for 2/2 pooling after an 11/4 conv1 without conv2 or conv5, whose
    padding it needs, and for `lrn_k` 0, which would divide dark pixels by zero.
    """

    width: float = 1.0  # multiplies the number of kernels and units of every layer
    classifier: float = 1.0  # multiplies the number of units of fc6 and fc7 once more
    conv1: tuple[int, int] = (11, 4)  # size and stride; small images need 5 2 or 5 1
    activation: Activations = "relu"  # function after each layer but the last (§3.1)
    # layers after conv1, in order; norm: LRN over maps; spatial: LRN over pixels
    after_conv1: tuple[Step, ...] = ("act", "norm", "pool")
    # layers after conv2, as for conv1
    after_conv2: tuple[Step, ...] = ("act", "norm", "pool")
    # size and stride: 3 2 overlaps (§3.4); 2 2 does not, and gives the same map sizes
    pooling: tuple[int, int] = (3, 2)
    lrn_alpha: float = 1e-4  # alpha of LRN (§3.3); cuda-convnet divides it by 5
    lrn_k: float = 2.0  # k of LRN (§3.3); Caffe has 1
    lrn_across_towers: bool = False  # normalise over the maps of both GPUs together
    # joined: as in the paper; apart: two towers until fc8; half: one GPU, half the
    # kernels; one: one GPU, all kernels
    towers: Literal["joined", "apart", "half", "one"] = "joined"
    without: Middle | None = None  # layer to leave out, with its activation and norm
    dropout: float = 0.5  # probability that a unit of fc6 or fc7 is dropped
    inverted_dropout: bool = False  # scale the kept units in training, as Caffe does
    weight_init: WeightInit = "paper"  # paper: N(0, 0.01^2), or as the next two say
    middle_init: float = 0.01  # deviation of conv3, conv4, conv5 with weight-init paper
    hidden_init: float = 0.01  # deviation of fc6 and fc7 with weight-init paper
    bias_init: float = 1.0  # initial biases of conv2, conv4, conv5, fc6 and fc7
    clip_windows: bool = False  # drop conv1's windows that extend beyond the image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._needs_padding() and self.without in ("conv2", "conv5"):
            raise InputError(
                f"without {self.without}: not with pooling 2 2, whose map sizes need "
                "the padding of that layer"
            )
        for name in ("after_conv1", "after_conv2"):
            if len(set(steps := getattr(self, name))) < len(steps):
                raise InputError(f"{name} {' '.join(steps)}: each at most once")
        for name in ("lrn_k", "width", "classifier"):
            if not 0 < getattr(self, name) <= 100:
                raise InputError(
                    f"{name} {getattr(self, name)}: must be above 0 and at most 100"
                )

    def _needs_padding(self) -> bool:
        return self.conv1 in ((11, 4), (5, 1)) and self.pooling == (2, 2)

    def layers(self) -> tuple[Layer, ...]:
        # Net 147's padding gives pooling of 2/2 the map sizes of 3/2. A 5/2 conv1 with
        # 3 pixels of padding needs no such change: 28 -> 16, 8, 4, 2 with either.
        # After a 5/1 conv1, only conv5 does: 28 -> 28, 14, 7, 3.
        pad1 = {(5, 2): 3, (5, 1): 2}.get(self.conv1, 0)
        pad2, pad5 = (1, 0) if self._needs_padding() else (2, 1)
        pad2 = 2 if self.conv1 == (5, 1) else pad2
        features, groups = self._features(), TOWERS[self.towers].groups
        size1, stride1 = self.conv1
        bias, middle = self.bias_init, self.middle_init
        conv1 = Conv(
            "conv1", features[0], size1, stride1, pad1, ceil=not self.clip_windows
        )
        conv2 = Conv("conv2", features[1], 5, 1, pad2, groups[1], bias_init=bias)
        conv3 = Conv("conv3", features[2], 3, 1, 1, groups[2], init=middle)
        conv4 = Conv(
            "conv4", features[3], 3, 1, 1, groups[3], init=middle, bias_init=bias
        )
        conv5 = Conv(
            "conv5", features[4], 3, 1, pad5, groups[4], init=middle, bias_init=bias
        )
        blocks: dict[str, tuple[Layer, ...]] = {
            "conv1": (conv1, *self._after("1", self.after_conv1)),
            "conv2": (conv2, *self._after("2", self.after_conv2)),
            "conv3": (conv3, activation(self.activation, "3")),
            "conv4": (conv4, activation(self.activation, "4")),
            "conv5": (conv5, *self._after("5", ("act", "pool"))),
            "fc6": self._hidden("6", features[5], groups[5]),
            "fc7": self._hidden("7", features[6], groups[6]),
            "fc8": (Dense("fc8", self.classes),),
        }
        layers = tuple(
            layer
            for name, block in blocks.items()
            for layer in block
            if name != self.without or isinstance(layer, Pool)
        )
        if self.weight_init == "paper":
            return layers
        return drawn_by(self.weight_init, layers)

    def _features(self) -> list[int]:
        """The kernels or units of conv1 to fc7, an even number each."""
        dense = self.width * self.classifier
        factors = [self.width] * 5 + [dense] * 2
        return [
            max(2, 2 * round(factor * count / 2))
            for factor, count in zip(factors, TOWERS[self.towers].features, strict=True)
        ]

    def _after(self, suffix: str, steps: tuple[Step, ...]) -> list[Layer]:
        two_towers = self.towers in ("joined", "apart")
        groups = 2 if two_towers and not self.lrn_across_towers else 1
        layers: dict[Step, Layer] = {
            "act": activation(self.activation, suffix),
            "norm": LRN("norm" + suffix, 5, self.lrn_alpha, 0.75, self.lrn_k, groups),
            "spatial": LRN("spatial" + suffix, 5, 1e-3 / 25, 0.75, 1.0, over="pixels"),
            "pool": Pool("pool" + suffix, *self.pooling),
        }
        return [layers[step] for step in steps]

    def _hidden(self, suffix: str, units: int, groups: int) -> tuple[Layer, ...]:
        init, bias = self.hidden_init, self.bias_init
        return (
            Dense("fc" + suffix, units, groups, init=init, bias_init=bias),
            activation(self.activation, suffix),
            Dropout("drop" + suffix, self.dropout, self.inverted_dropout),
        )


@dataclass(frozen=True)
class OneWeirdTrick(Net):
    """One weird trick: AlexNet in one tower and without LRN, as in torchvision.

    (224, 224, 3) -> (classes,). Dropout comes before fc6 and fc7. Weights start from
    N(0, 0.01^2), biases from 0. Only complete windows count.
    """

    activation: Activations = "relu"  # function after each layer but the last (§3.1)
    dropout: float = 0.5  # probability that an input of fc6 or fc7 is dropped

    def layers(self) -> tuple[Layer, ...]:
        return (
            Conv("conv1", 64, 11, stride=4, pad=2, ceil=False),
            activation(self.activation, "1"),
            Pool("pool1", ceil=False),
            Conv("conv2", 192, 5, pad=2),
            activation(self.activation, "2"),
            Pool("pool2", ceil=False),
            Conv("conv3", 384, 3, pad=1),
            activation(self.activation, "3"),
            Conv("conv4", 256, 3, pad=1),
            activation(self.activation, "4"),
            Conv("conv5", 256, 3, pad=1),
            activation(self.activation, "5"),
            Pool("pool5", ceil=False),
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
    bias_init=0.1,
    clip_windows=True,
)

VARIANTS = {
    "alexnet-paper": AlexNet(),
    "alexnet-small": AlexNet(
        classes=10,
        image_size=28,
        width=0.25,
        conv1=(5, 2),
        middle_init=0.06,
        hidden_init=0.04,
    ),
    "alexnet-source": AlexNet(
        after_conv1=("norm", "pool", "act"),
        after_conv2=("act", "norm", "spatial", "pool"),
        lrn_alpha=1e-4 / 5,
        middle_init=0.03,
    ),
    "alexnet-caffe": CAFFE,
    "alexnet-caffenet": replace(
        CAFFE,
        after_conv1=("act", "pool", "norm"),
        after_conv2=("act", "pool", "norm"),
        bias_init=1.0,
    ),
    "alexnet-owt": OneWeirdTrick(),
}
