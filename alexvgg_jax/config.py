"""The settings of a run, as frozen dataclasses.

The comment after a field is its help text on the command line
(`python -m alexvgg_jax train RECIPE --help`). `recipes` has complete runs.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, Net

ByLayer = Mapping[str, float]  # layer -> number


def _check(part: str, settings: Any, **least: int) -> None:
    """InputError for a number below its least value, or one that is not finite."""
    for name, minimum in least.items():
        values = getattr(settings, name)
        for value in values if isinstance(values, tuple) else (values,):
            if not minimum <= value < math.inf:
                flag = f"--{part}{name.replace('_', '-')}"
                raise InputError(f"{flag} {value}: at least {minimum}")


@dataclass(frozen=True)
class Data:
    """Which images."""

    # digits (part of scikit-learn), a TFDS name such as cifar10, or a folder: one of
    # classes, of ILSVRC's tars, or of `prepare`
    name: str = "digits"
    size: int = 32  # pixels: every image is scaled and cut to size x size
    count: int = 0  # number of training images, equally of all classes; 0: all
    # with --data.count: the first images of the set, whatever their class
    first: bool = False
    shuffle: bool = True  # a new order every epoch; otherwise that of the set
    # number of training images to hold out: the run is tested on them and does not
    # learn from them; 0: train on all, and test on the test images
    held_out: int = 0
    skip_bad: bool = False  # leave out damaged images; otherwise they are an error

    def __post_init__(self) -> None:
        _check("data.", self, size=1, count=0, held_out=0)
        if self.first and not self.count:
            raise InputError("--data.first: only with --data.count")

    @property
    def tested(self) -> str:
        """The images that the test error is measured on."""
        return "held-out" if self.held_out else "test"


@dataclass(frozen=True)
class Augment:
    """What happens to an image before a net sees it."""

    crop: int = 0  # pixels: side of the random crop, centred in tests; 0: no crop
    shift: bool = True  # crop at a random place; otherwise at the centre
    # pixels: scale each training image to a random side from this to --data.size, and
    # each test image to the middle one (VGG §3.1: 256 to 512); 0: no scaling
    jitter_from: int = 0
    mirror: bool = False  # flip half of the images from left to right (AlexNet §4.1)
    colour: float = 0.0  # deviation of the PCA colour noise; 0: none (AlexNet: 0.1)
    colour_epochs: float = 0.0  # epochs after which the colour noise ends; 0: never
    # what to subtract from an image; pixel: the mean image of the training set;
    # channel: its mean colour
    mean: Literal["pixel", "channel", "none"] = "pixel"

    def __post_init__(self) -> None:
        _check("augment.", self, crop=0, colour=0, colour_epochs=0, jitter_from=0)
        if self.jitter_from and not 0 < self.crop <= self.jitter_from:
            raise InputError(
                f"--augment.jitter-from {self.jitter_from}: needs an --augment.crop of "
                f"at most as many pixels, not {self.crop}"
            )
        if self.jitter_from and (self.mean == "pixel" or not self.shift):
            flag = "--augment.mean pixel" if self.shift else "--augment.no-shift"
            raise InputError(f"--augment.jitter-from: does not go with {flag}")


@dataclass(frozen=True)
class Optim:
    """The update rule and its learning rates."""

    rate: float = 0.01  # learning rate of the weights (AlexNet §5)
    # learning rate of the biases, as a multiple of the weights' (layer-params-145.cfg)
    bias_rate: float = 2.0
    momentum: float = 0.9  # share of the last update that is added (AlexNet §5)
    weight_decay: float = 0.0005  # decay of the weights, not of biases (AlexNet §5)
    # LAYER DECAY: weight decay of this layer instead of --optim.weight-decay
    layer_decay: ByLayer = field(default_factory=dict)
    # LAYER FACTOR: multiply this layer's learning rate; 0 freezes the layer
    layer_rate: ByLayer = field(default_factory=dict)
    drop_epochs: tuple[float, ...] = ()  # divide the rate by 10 after each of these
    drop_biases: bool = True  # divide the biases' rate too; otherwise it stays
    # LAYER EPOCH: divide this layer's rate by 10 after that epoch
    layer_drop: ByLayer = field(default_factory=dict)
    # LAYER EPOCH: this layer stops learning after that epoch
    layer_freeze: ByLayer = field(default_factory=dict)
    frozen_epochs: float = 0.0  # epochs in which only fully-connected layers learn
    # divide the rate by 10 after this many epochs without a lower test error; 0: never
    plateau: int = 0
    drops: int = 3  # with plateau: divide at most this many times (AlexNet §5: three)

    def __post_init__(self) -> None:
        _check("optim.", self, rate=0, bias_rate=0, momentum=0, weight_decay=0)
        _check("optim.", self, drop_epochs=0, frozen_epochs=0, plateau=0, drops=0)
        if self.plateau and self.drop_epochs:
            raise InputError("--optim.plateau and --optim.drop-epochs: use only one")


@dataclass(frozen=True)
class Mesh:
    """How devices share the work."""

    devices: int = 0  # number of devices that train, over all hosts; 0: all
    towers: bool = False  # split each net over two devices, a tower on each (§3.2)
    # number of devices that the fully-connected layers are split over (One weird
    # trick); 1: not split
    classifier: int = 1
    # split the optimizer's state and work over devices with the same weights (ZeRO-1)
    zero: bool = False

    def __post_init__(self) -> None:
        _check("mesh.", self, devices=0, classifier=1)


@dataclass(frozen=True)
class Run:
    """All settings of a training run."""

    name: str  # name of the run; without --out its folder is runs/NAME-DATA
    data: Data
    augment: Augment
    net: Net
    optim: Optim
    mesh: Mesh = Mesh()
    batch: int = 128  # images in a step, over all devices (AlexNet §5)
    # number of parts in which a batch is computed, one after the other: more parts need
    # less memory
    accumulate: int = 1
    # passes over the training set; another number does not move --optim.drop-epochs
    epochs: int = 10
    seed: int = 0  # seed of the parameters, the order of the images and the noise
    until_error: float = 0.0  # %: stop when the training error is lower; 0: never
    # start from these weights, where they fit, and subtract their mean: a run's folder,
    # a file, or OWNER/NAME of the Hugging Face Hub; without it all layers are drawn
    init_from: str = ""
    # with --init-from: names of the layers to copy; no names: all that fit
    init_layers: tuple[str, ...] = ()
    checkpoint_every: int = 1  # epochs between checkpoints

    def __post_init__(self) -> None:
        _check("", self, batch=1, accumulate=1, epochs=1, seed=0, until_error=0)
        _check("", self, checkpoint_every=1)
        if self.augment.crop > self.data.size:
            raise InputError(
                f"--augment.crop {self.augment.crop}: the images are {self.data.size} "
                "pixels wide"
            )
        if self.augment.jitter_from > self.data.size:
            raise InputError(
                f"--augment.jitter-from {self.augment.jitter_from}: at most the "
                f"--data.size, {self.data.size}"
            )

    @property
    def test_size(self) -> int:
        """The side of test images in pixels: VGG §4.1's Q, the mean of the smallest and
        the largest scale, for a net of scale jitter."""
        smallest = self.augment.jitter_from or self.data.size
        return (smallest + self.data.size) // 2


NETS = {type(net).__name__: type(net) for net in MODELS.values()}


def to_settings(run: Run) -> dict[str, Any]:
    """The run as JSON can hold it: a dictionary for each part, with the net's kind."""
    return asdict(run) | {"net": net_to_settings(run.net)}


def net_to_settings(net: Net) -> dict[str, Any]:
    """The net's kind and switches as JSON can hold them."""
    return {"kind": type(net).__name__} | asdict(net)


def from_settings(settings: Mapping[str, Any]) -> Run:
    """The run of `to_settings`, after JSON. A missing setting has its default.

    Raises TypeError, ValueError, KeyError or InputError for settings of no run.
    """
    parts: dict[str, Any] = {
        "data": _from_json(Data, settings["data"]),
        "augment": _from_json(Augment, settings["augment"]),
        "net": net_from_settings(settings["net"]),
        "optim": _from_json(Optim, settings["optim"]),
        "mesh": _from_json(Mesh, settings["mesh"]),
    }
    return _from_json(Run, {**settings, **parts})


def net_from_settings(settings: Mapping[str, Any]) -> Net:
    """The net of `net_to_settings`, after JSON; the same errors as `from_settings`."""
    switches = dict(settings)
    return _from_json(NETS[switches.pop("kind")], switches)


def _from_json(kind: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass of that kind, its lists as tuples. TypeError for a wrong type."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} is no {kind.__name__}")
    hints = get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise TypeError(f"unknown setting {min(unknown)}")
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is right for a field. Nets check theirs themselves."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        number = get_args(hint)[0]
        return isinstance(value, list | tuple) and all(
            _fits(item, number) for item in value
        )
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(number, float) for number in value.values()
        )
    types = (int, float) if hint is float else (hint,)
    return hint not in (int, float, bool, str) or type(value) in types
