"""Everything a run can be told: frozen dataclasses, and RECIPES to start from.

A recipe is a complete `Run`; another is `dataclasses.replace` of it. The comment behind
a field is its help text on the command line (`python -m alexvgg_jax train --help`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Switches = Mapping[str, bool | int | float | str]  # field of a model's row -> value
Decays = Mapping[str, float]  # layer -> weight decay


@dataclass(frozen=True)
class Data:
    name: str = "digits"  # digits, a TFDS name such as cifar10, or a folder of classes
    size: int = 32  # pixels: every image is brought to size x size


@dataclass(frozen=True)
class Augment:
    crop: int = 0  # pixels: side of the random crop, centred in tests; 0 for none
    mirror: bool = False  # flip half of the images from left to right (AlexNet §4.1)
    colour: float = 0.0  # deviation of the PCA colour noise, 0 for none (AlexNet: 0.1)
    mean: Literal["pixel", "channel", "none"] = "pixel"  # what is subtracted


@dataclass(frozen=True)
class Model:
    name: str = "cifar-80sec"  # a row of alexvgg_jax.models.MODELS
    switches: Switches = field(default_factory=dict)  # such as activation tanh


@dataclass(frozen=True)
class Optim:
    rate: float = 0.01  # learning rate of the weights (AlexNet §5)
    bias_rate: float = 2.0  # times that for the biases (layer-params-145.cfg: epsB)
    momentum: float = 0.9  # AlexNet §5
    weight_decay: float = 0.0005  # of the weights; biases have none (AlexNet §5)
    layer_decay: Decays = field(default_factory=dict)  # of layers with their own
    drop_epochs: tuple[float, ...] = ()  # epochs after which the rate is divided by 10
    plateau: int = 0  # or: divide after so many epochs without a better test error
    drops: int = 3  # most divisions that the plateau makes (AlexNet §5: three)


@dataclass(frozen=True)
class Run:
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    optim: Optim = Optim()
    batch: int = 128  # images a step, over all devices (AlexNet §5)
    epochs: int = 10  # passes over the training set
    seed: int = 0  # of the parameters, the order and the noise
    devices: int = 0  # how many devices share a batch; 0 for all
    until_error: float = 0.0  # stop once an epoch's training error is below it, in %
    checkpoint_every: int = 1  # epochs between checkpoints


def from_settings(settings: Mapping[str, Any]) -> Run:
    """The run whose `dataclasses.asdict` went through JSON."""
    optim = settings["optim"]
    parts = {
        "data": Data(**settings["data"]),
        "augment": Augment(**settings["augment"]),
        "model": Model(**settings["model"]),
        "optim": Optim(**optim | {"drop_epochs": tuple(optim["drop_epochs"])}),
    }
    return Run(**{**settings, **parts})


CIFAR_80SEC = Run(
    data=Data("cifar10"),
    model=Model("cifar-80sec"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"fc64": 0.03, "fc10": 0.03},
        drop_epochs=(8.0, 9.0),
    ),
)

ALEXNET_PAPER = Run(
    data=Data("imagenet2012", size=256),
    augment=Augment(crop=224, mirror=True, colour=0.1),
    model=Model("alexnet-paper"),
    optim=Optim(rate=0.01, plateau=5),
    epochs=90,
)

VGG_A = replace(
    ALEXNET_PAPER,
    augment=Augment(crop=224, mirror=True, colour=0.1, mean="channel"),
    model=Model("vgg-a"),
    batch=256,
    epochs=74,
)

# The original program's "26% in 80 seconds" net with its own hyper-parameters
# (layers-80sec.cfg): rate / 10 after 8 epochs, again after 9, 10 in all. Expected 26%
# test error; 80 seconds on a GTX 580, about 10 minutes on two CPU cores.
#     python -m alexvgg_jax train cifar-80sec
#
# AlexNet §5: batch 128, 90 epochs, rate 0.01 / 10 when the validation error stalls.
# Two GTX 580 for 5 to 6 days in 2012. Expected 40.7 / 18.2 (top-1 / top-5, ten crops).
#     python -m alexvgg_jax train alexnet-paper
#
# VGG §3.1: batch 256, 74 epochs. Four Titan Black for 2 to 3 weeks in 2014. Expected
# A 29.6 / 10.4, D 27.0 / 8.8 at one scale (VGG Table 3). A starts from the paper's
# N(0, 0.01); the deeper nets from Glorot's weights, which the paper names as the way
# to do without A's.
#     python -m alexvgg_jax train vgg-a
RECIPES: dict[str, Run] = {
    "digits": replace(CIFAR_80SEC, data=Data("digits"), epochs=20),
    "cifar-80sec": CIFAR_80SEC,
    "alexnet-paper": ALEXNET_PAPER,
    "vgg-a": VGG_A,
    "vgg-d": replace(VGG_A, model=Model("vgg-d", {"init": "glorot"})),
}
