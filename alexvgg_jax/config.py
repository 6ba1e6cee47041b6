"""Everything a run can be told: frozen dataclasses, and RECIPES to start from.

A recipe is a complete `Run`; another is `dataclasses.replace` of it. The comment behind
a field is its help text on the command line (`python -m alexvgg_jax train --help`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Switches = Mapping[str, bool | int | float | str]  # field of a model's row -> value
ByLayer = Mapping[str, float]  # layer -> number
Compute = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Data:
    """Which images."""

    name: str = "digits"  # digits, a TFDS name such as cifar10, or a folder of classes
    size: int = 32  # pixels: every image is brought to size x size
    jpeg: int = 0  # compress images once more, at this quality; 0 for not
    held_out: int = 0  # so many training images are the test set instead, to choose by

    @property
    def tested(self) -> str:
        """Which images the test error is of."""
        return "held-out" if self.held_out else "test"


@dataclass(frozen=True)
class Augment:
    """What becomes of an image before a net sees it."""

    crop: int = 0  # pixels: side of the random crop, centred in tests; 0 for none
    shift: bool = True  # crop at a random place (no-shift: at the centre, as tests do)
    mirror: bool = False  # flip half of the images from left to right (AlexNet §4.1)
    colour: float = 0.0  # deviation of the PCA colour noise, 0 for none (AlexNet: 0.1)
    colour_epochs: float = 0.0  # epochs after which that noise ends; 0 for never
    mean: Literal["pixel", "channel", "none"] = "pixel"  # what is subtracted


@dataclass(frozen=True)
class Model:
    """Which net."""

    name: str = "cifar-80sec"  # a row of alexvgg_jax.models.MODELS
    switches: Switches = field(default_factory=dict)  # such as activation tanh
    remat: bool = False  # compute activations again in the backward pass: less memory
    compute: Compute = "float32"  # of activations: bfloat16 for GPUs and TPUs


@dataclass(frozen=True)
class Optim:
    """The update rule and its rates."""

    rate: float = 0.01  # learning rate of the weights (AlexNet §5)
    bias_rate: float = 2.0  # times that for the biases (layer-params-145.cfg: epsB)
    momentum: float = 0.9  # AlexNet §5
    weight_decay: float = 0.0005  # of the weights; biases have none (AlexNet §5)
    layer_decay: ByLayer = field(default_factory=dict)  # of layers with their own
    layer_rate: ByLayer = field(default_factory=dict)  # times the rate; 0 freezes it
    drop_epochs: tuple[float, ...] = ()  # epochs after which the rate is divided by 10
    drop_biases: bool = True  # divide the biases' rate too (no-drop-biases: leave it)
    layer_drop: ByLayer = field(default_factory=dict)  # its rate, once more, after
    layer_freeze: ByLayer = field(default_factory=dict)  # a layer learns nothing after
    plateau: int = 0  # or: divide after so many epochs without a better test error
    drops: int = 3  # most divisions that the plateau makes (AlexNet §5: three)


@dataclass(frozen=True)
class Mesh:
    """How devices share the work."""

    devices: int = 0  # how many devices train, of all hosts together; 0 for all
    towers: bool = False  # two devices for an image, one a tower (AlexNet §3.2)
    classifier: int = 1  # devices that share fully-connected layers (One weird trick)
    zero: bool = False  # devices that hold the same weights split their update (ZeRO-1)


@dataclass(frozen=True)
class Run:
    """All that decides what a training run does."""

    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    batch: int = 128  # images a step, over all devices (AlexNet §5)
    accumulate: int = 1  # parts of a batch, one by one; each sums over all devices
    epochs: int = 10  # passes over the training set
    seed: int = 0  # of the parameters, the order and the noise
    until_error: float = 0.0  # stop once an epoch's training error is below it, in %
    checkpoint_every: int = 1  # epochs between checkpoints


def flat(run: Run) -> dict[tuple[str, str], Any]:
    """(part, name) -> value of all that a run can be told; what has no part, as Run's
    epochs, has no name."""
    return {
        (part, name): value
        for part, values in asdict(run).items()
        for name, value in (
            values if isinstance(values, dict) else {"": values}
        ).items()
    }


def from_settings(settings: Mapping[str, Any]) -> Run:
    """The run whose `dataclasses.asdict` went through JSON. TypeError if a value of it
    is of another type than the run's could be."""
    optim = settings["optim"]
    parts = {
        "data": Data(**settings["data"]),
        "augment": Augment(**settings["augment"]),
        "model": Model(**settings["model"]),
        "optim": Optim(**optim | {"drop_epochs": tuple(optim["drop_epochs"])}),
        "mesh": Mesh(**settings["mesh"]),
    }
    run = Run(**{**settings, **parts})
    for (where, default), value in zip(
        flat(Run()).items(), flat(run).values(), strict=True
    ):
        number = isinstance(default, float) and type(value) is int
        if type(value) is not type(default) and not number:
            raise TypeError(f"{'.'.join(filter(None, where))} is {value!r}")
    return run


CIFAR_80SEC = Run(
    data=Data("cifar10"),
    model=Model("cifar-80sec"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"fc64": 0.03, "fc10": 0.03},
        drop_epochs=(8.0,),
    ),
)

# layers-19pct.cfg gives no schedule; this is the 18% net's (layer-params-18pct.cfg).
CIFAR_19PCT = Run(
    data=Data("cifar10"),
    model=Model("cifar-19pct"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"fc10": 3.0},
        drop_epochs=(120.0, 130.0),
    ),
    epochs=140,
)

CIFAR_18PCT = replace(
    CIFAR_19PCT,
    model=Model("cifar-18pct"),
    optim=replace(CIFAR_19PCT.optim, layer_decay={"fc10": 1.0}),
)

# "Set wc to 0 for translations -- 14.2%", says layers-19pct.cfg; the program's cropped
# images are mirrored too (convdata_cifar.py).
CIFAR_14PCT = replace(
    CIFAR_19PCT,
    augment=Augment(crop=24, mirror=True),
    optim=replace(CIFAR_19PCT.optim, weight_decay=0.0, layer_decay={}),
)

# The program's page "Methodology" trains this net for 100 epochs without batch 5 of 5
# and 40 with it, then 10 and 10 at a tenth and a hundredth of epsW, the weights' rate:
# in passes over all images 80 + 40 + 10 + 10.
CIFAR_13PCT = Run(
    data=Data("cifar10"),
    augment=Augment(crop=24, mirror=True),
    model=Model("cifar-13pct"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"conv1": 0.0, "conv2": 0.0},
        drop_epochs=(120.0, 130.0),
        drop_biases=False,
    ),
    epochs=140,
)

# Its file says 350 epochs without batch 5, 150 with it, 10 and 10: in passes over all
# images 280 + 150 + 10 + 10.
CIFAR_11PCT = replace(
    CIFAR_13PCT,
    model=Model("cifar-11pct"),
    optim=replace(
        CIFAR_13PCT.optim,
        layer_decay={"conv1": 0.0, "conv2": 0.0, "fc10": 0.01},
        drop_epochs=(430.0, 440.0),
    ),
    epochs=450,
)

# 28 of 32 pixels are the paper's 224 of 256.
ALEXNET_SMALL = Run(
    data=Data("cifar10"),
    augment=Augment(crop=28, mirror=True, colour=0.1),
    model=Model("alexnet-small"),
    optim=Optim(rate=0.01, drop_epochs=(12.0, 16.0)),
    epochs=18,
)

DIGITS = replace(
    CIFAR_80SEC,
    data=Data("digits"),
    optim=replace(CIFAR_80SEC.optim, drop_epochs=(16.0,)),
    epochs=20,
)

ALEXNET_PAPER = Run(
    data=Data("imagenet2012", size=256),
    augment=Augment(crop=224, mirror=True, colour=0.1),
    model=Model("alexnet-paper"),
    optim=Optim(rate=0.01, plateau=5),
    epochs=90,
)

# The log of net 145 (layer-params-145.cfg): when the rate was divided, and conv1's once
# more; when the colour noise ended and conv1 was frozen. The biases' rate stayed; that
# conv1's was divided with its weights' is an assumption: the log does not tell.
ALEXNET_SOURCE = replace(
    ALEXNET_PAPER,
    augment=replace(ALEXNET_PAPER.augment, colour_epochs=67.0),
    model=Model("alexnet-source"),
    optim=Optim(
        rate=0.01,
        drop_epochs=(25.0, 51.0, 79.0),
        drop_biases=False,
        layer_drop={"conv1": 67.0},
        layer_freeze={"conv1": 72.0},
    ),
    epochs=91,
)

# The paper's own N(0, variance 1e-2) overflows at once on pixels of 0 to 255 (logits of
# 5e7 at 64 pixels); VGG §3.1 names Glorot's weights as the way to do without it.
VGG_A = replace(
    ALEXNET_PAPER,
    augment=Augment(crop=224, mirror=True, colour=0.1, mean="channel"),
    model=Model("vgg-a", {"init": "glorot"}),
    batch=256,
    epochs=74,
)

VGG_D = replace(VGG_A, model=Model("vgg-d", {"init": "glorot"}))

# name -> (what it is: section, expected error, hardware and time; the run)
RECIPES: dict[str, tuple[str, Run]] = {
    "digits": (
        "The 80-second net on scikit-learn's digits: a minute on two CPU cores.",
        DIGITS,
    ),
    "cifar-80sec": (
        "The original program's small net with its own hyper-parameters "
        "(layers-80sec.cfg): 26% test error, 80 s on a GTX 580, 6 minutes on two CPU "
        "cores.",
        CIFAR_80SEC,
    ),
    "cifar-19pct": (
        "Its 20-minute net (layers-19pct.cfg): 19% test error.",
        CIFAR_19PCT,
    ),
    "cifar-18pct": (
        "The 20-minute net with normalisation over 3x3 pixels (layers-18pct.cfg): 18% "
        "test error.",
        CIFAR_18PCT,
    ),
    "cifar-14pct": (
        "The 19% net on crops of 24 pixels, without weight decay: 14.2% test error.",
        CIFAR_14PCT,
    ),
    "cifar-13pct": (
        "Two convolutions and two locally connected layers on crops of 24 pixels "
        "(layers-conv-local-13pct.cfg): 13% test error.",
        CIFAR_13PCT,
    ),
    "cifar-11pct": (
        "The same with normalisation over maps (layers-conv-local-11pct.cfg): 11% test "
        "error, averaged over several views.",
        CIFAR_11PCT,
    ),
    "alexnet-small": (
        "AlexNet §3.5 for 32-pixel images, a quarter as wide: the net of the "
        "experiments, 4 minutes on two CPU cores.",
        ALEXNET_SMALL,
    ),
    "alexnet-paper": (
        "AlexNet §5 on ImageNet: 40.7 / 18.2 (top-1 / top-5, ten crops), 5 to 6 days "
        "on two GTX 580.",
        ALEXNET_PAPER,
    ),
    "alexnet-source": (
        "The original program's net 145 with the schedule of its log "
        "(layer-params-145.cfg): 40.7 / 18.2 on ImageNet (ten crops).",
        ALEXNET_SOURCE,
    ),
    "vgg-a": (
        "VGG §3.1, column A: 29.6 / 10.4 (VGG Table 3, dense), 2 to 3 weeks on four "
        "Titan Black.",
        VGG_A,
    ),
    "vgg-d": (
        "VGG §3.1, column D: 27.0 / 8.8 (VGG Table 3, dense), 2 to 3 weeks on four "
        "Titan Black.",
        VGG_D,
    ),
}
