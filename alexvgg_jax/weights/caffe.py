"""Weights of Caffe: `.caffemodel`, and the mean image in a `.binaryproto`.

Layers are called conv1, conv1_1 or fc6, as here. Kernels are OIHW, matrices (outputs,
inputs), maps are flattened as (maps, height, width). The input is BGR from 0 to 255
minus the mean, times a scale if the data layer has one. A file has the definition of
its net too, which has to be that of ours, unless it was stripped to the weights. All
numbers of fields are those of `caffe.proto`.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import LRN, Shape
from alexvgg_jax.models.layers import Layer as OurLayer
from alexvgg_jax.weights import wire
from alexvgg_jax.weights.provenance import CAFFE, Convention, Provenance
from alexvgg_jax.weights.steps import Step, differences
from alexvgg_jax.weights.stored import Keys, Stored

# Of ImageNet's 2012 training images (imagenet_mean.binaryproto), as RGB.
ILSVRC_2012 = Convention(mean=(122.6789, 116.6688, 104.0069), reverse=True)

# BVLC's readme files, centre crops; VGG Table 4, dense evaluation at three scales.
PUBLISHED_ALEXNET = {
    "alexnet-caffe": "57.1 top-1, 80.2 top-5",
    "alexnet-caffenet": "57.4 top-1, 80.4 top-5",
}
PUBLISHED_VGG = {
    "vgg-d": "92.5 top-5 (dense, three scales)",
    "vgg-e": "92.5 top-5 (dense, three scales)",
}
ALEXNET = Provenance(
    format="caffe",
    mean=np.array(ILSVRC_2012.mean),
    source="https://github.com/BVLC/caffe",
    licence="unrestricted use",
    crop=227,
    squash=True,
)
VGG = Provenance(
    format="caffe",
    mean=np.array(CAFFE.mean),
    source="https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
    licence="CC BY 4.0",
)


class Generation(NamedTuple):
    """The numbers of a layer's fields in one generation of files."""

    name: int
    type: int
    blobs: int
    bottom: int  # the names of what it reads
    top: int  # the names of what it writes


# The field of a net that has layers, and the fields of these.
GENERATIONS = {100: Generation(1, 2, 7, 3, 4), 2: Generation(4, 5, 6, 2, 3)}
# The oldest layers are inside one of generation 2, which has their bottoms and tops.
OLDEST, OLDEST_GENERATION = 1, Generation(1, 2, 50, 2, 3)


class Kind(NamedTuple):
    """A kind of layers and its settings.

    A setting has its default, its field in an oldest layer, and its fields in the
    message of the settings: one number, or numbers for the height and the width.
    """

    types: tuple[str | int, ...]  # in the three generations, the oldest first
    messages: tuple[int, int]  # with the settings, in generations 2 and 100
    settings: dict[str, tuple[float, int, tuple[int, ...]]]


KINDS = {
    "convolution": Kind(
        ("conv", 4, "Convolution"),
        (10, 106),
        {
            "pad": (0, 7, (3, 9, 10)),
            "stride": (1, 10, (6, 13, 14)),
            "groups": (1, 9, (5,)),
            "dilation": (1, 0, (18,)),
        },
    ),
    "pooling": Kind(
        ("pool", 17, "Pooling"),
        (19, 121),
        {
            "method": (0, 11, (1,)),
            "size": (0, 8, (2, 5, 6)),
            "stride": (1, 10, (3, 7, 8)),
            "pad": (0, 7, (4, 9, 10)),
            "global": (0, 0, (12,)),
        },
    ),
    "normalisation": Kind(
        ("lrn", 15, "LRN"),
        (18, 118),
        {
            "size": (5, 13, (1,)),
            "alpha": (1, 14, (2,)),
            "beta": (0.75, 15, (3,)),
            "region": (0, 0, (4,)),
            "k": (1, 22, (5,)),
        },
    ),
    "matrix product": Kind(
        ("innerproduct", 14, "InnerProduct"),
        (17, 117),
        {"axis": (1, 0, (5,)), "transposed": (0, 0, (6,))},
    ),
    "relu": Kind(("relu", 18, "ReLU"), (30, 123), {"slope": (0, 0, (1,))}),
    "tanh": Kind(("tanh", 23, "TanH"), (37, 127), {}),
    "sigmoid": Kind(("sigmoid", 19, "Sigmoid"), (38, 124), {}),
    # Before a convolution of the oldest generation.
    "padding": Kind(("padding",), (0, 0), {"pad": (0, 7, ())}),
}
KIND_OF = {type: name for name, kind in KINDS.items() for type in kind.types}
METHODS = {0.0: "max pooling", 1.0: "average pooling", 2.0: "stochastic pooling"}
# Layers that compute nothing in a trained net, and layers before and after the net.
PASSING = {"dropout", 6, "Dropout", "flatten", 8, "Flatten", "split", 22, "Split"}
DATA = {
    *("data", 5, "Data", "images", 12, "ImageData", "window_data", 24, "WindowData"),
    *("hdf5_data", 9, "HDF5Data", 29, "MemoryData", 32, "DummyData", "Input"),
}
# What data layers do to images, in generations 2, 100 and the oldest: a message (0: the
# layer), and its fields of the scale, the file of the mean image and the mean values.
TRANSFORMS = (
    ((36, 1, 4, 5), (11, 2, 3, 0), (15, 2, 3, 0), (20, 2, 3, 0)),
    ((100, 1, 4, 5), (107, 2, 3, 0), (115, 2, 3, 0), (129, 2, 3, 0)),
    ((0, 17, 18, 0),),
)
AFTER = {
    *("softmax", 20, "Softmax", "softmax_loss", 21, "SoftmaxWithLoss"),
    *("multinomial_logistic_loss", 16, "MultinomialLogisticLoss"),
    *("accuracy", 1, "Accuracy", 36, "Silence"),
}
LEGACY_DIMS, SHAPE, DIM, MAX_DIMS = (1, 2, 3, 4), 7, 1, 32
DTYPES = {5: "<f4", 8: "<f8"}  # of packed numbers
MAX_LAYERS = 1000
MAX_WIRES, MAX_NUMBERS = 64, 8  # of a layer; of a setting


class Layer(NamedTuple):
    """A layer of a file."""

    name: str
    type: str | int
    settings: dict[str, list[float]]
    bottoms: list[str]
    tops: list[str]


def stored(path: Path, content: memoryview) -> Stored:
    """The blobs of a `.caffemodel` of any generation."""
    arrays, layers, with_weights = {}, [], []
    try:
        for message in itertools.islice(_messages(content), MAX_LAYERS):
            layer, blobs = _layer(*message)
            layers.append(layer)
            with_weights += [layer.name] * bool(blobs)
            for part, blob in zip(("weight", "bias"), blobs, strict=False):
                arrays[f"{layer.name}.{part}"] = _array(blob)
        steps, wires = _steps(layers)
        is_vgg = "conv1_1.weight" in arrays
        usual = CAFFE if is_vgg else ILSVRC_2012
        convention = _convention(layers, usual)
    except ValueError as error:
        raise InputError(f"{path}: not a caffemodel: {error}") from None
    provenance = VGG if is_vgg else ALEXNET
    published = PUBLISHED_VGG if is_vgg else PUBLISHED_ALEXNET
    if convention != usual:  # other weights than those published
        mean = np.array(convention.mean)
        provenance = replace(provenance, mean=mean, source="", licence="")
        published = dict.fromkeys(published, "")

    def all_differences(net: Net) -> list[str]:
        if not any(layer.type or layer.bottoms or layer.tops for layer in layers):
            return []  # the file was stripped to the weights
        return wires + _swapped(layers, net) + differences(steps, net, _departures)

    return Stored(
        path=path,
        arrays=arrays,
        keys=partial(_keys, with_weights),
        maps_first=True,
        head=("fc",),
        convention=convention,
        provenance=provenance,
        published=published,
        differences=all_differences,
    )


def _keys(names: list[str], net: Net) -> Keys:
    """Layer -> keys. A fine-tuned last layer has another name in Caffe: fc8_flickr."""
    *others, last = net.param_shapes()
    theirs = {name: name for name in (*others, last)}
    if last not in names and names and names[-1] not in theirs:
        theirs[last] = names[-1]
    return {name: (f"{key}.weight", f"{key}.bias") for name, key in theirs.items()}


def _convention(layers: list[Layer], usual: Convention) -> Convention:
    """The input that the data layers make: (pixel - mean) * scale. It is the usual one
    if the file has no data layers. A mean image is a file of its own, whose usual mean
    colour is taken."""
    conventions = {}
    for layer in layers:
        if layer.type not in DATA or not layer.settings:
            continue
        means = layer.settings.get("mean", [])
        if len(means) not in (0, 1, 3):
            raise ValueError(f"{layer.name} has {len(means)} mean values")
        # As they were written: 103.939, not the nearest number with 24 bits.
        written = [float(str(np.float32(n))) for n in means or [0.0]]
        blue, green, red = written if len(written) == 3 else written * 3
        colour = usual.mean if "file" in layer.settings else (red, green, blue)
        scale = layer.settings.get("scale", [1.0])[-1]
        if not scale or not np.isfinite([*colour, 1 / scale]).all():
            raise ValueError(f"{layer.name} has the mean {colour}, the scale {scale}")
        conventions[Convention(colour, (1 / scale,) * 3, reverse=True)] = None
    if len(conventions) > 1:
        raise ValueError("its data layers differ in the scale or the mean")
    return next(iter(conventions), usual)


def _swapped(layers: list[Layer], net: Net) -> list[str]:
    """The first of our layers with weights that comes at another place in the file."""
    names = [*net.param_shapes()]
    theirs = dict.fromkeys(layer.name for layer in layers if layer.name in names)
    ours = [name for name in names if name in theirs]
    pairs = zip(theirs, ours, strict=True)
    return [f"{a} comes before {b}" for a, b in pairs if a != b][:1]


def _steps(layers: list[Layer]) -> tuple[list[Step], list[str]]:
    """The operations in the order of the file, and a phrase for each that does not read
    what the one before it writes."""
    steps, phrases, pad = [], [], 0.0
    made: dict[str, int] = {}  # the number of operations on the way to a blob
    for name, type, settings, bottoms, tops in layers:
        if type in DATA or type in AFTER:  # no operation can read from the latter
            made |= dict.fromkeys(tops, 0 if type in DATA else -1)
            continue
        way = made.get(bottoms[0], 0) if bottoms else len(steps)
        kind = KIND_OF.get(type, f"type {type}" if type else "a layer without a type")
        if kind == "padding":
            pad = settings["pad"][-1]
        elif type not in PASSING:
            if way != len(steps):
                phrases.append(f"{name} does not follow the layer before it")
            if kind == "convolution" and name.startswith("fc"):
                kind = "matrix product"  # a convolution over the whole map
            elif kind == "pooling":
                method = settings["method"][-1]
                kind = METHODS.get(method, f"{kind} {method:g}")
            elif kind == "normalisation" and settings["region"][-1]:
                kind = "normalisation over pixels"
            if pad and "pad" in settings:
                settings = settings | {"pad": [pad + n for n in settings["pad"]]}
                pad = 0.0
            steps.append(Step(kind, settings))
            way = len(steps)
        made |= dict.fromkeys(tops, way)
    return steps, phrases


def _departures(step: Step, layer: OurLayer, shape: Shape) -> list[str]:
    """How an operation departs from our layer, as phrases. Caffe divides alpha by the
    number of maps or pixels in a window, and its windows cross the towers."""
    ours: dict[str, float] = {"pad": 0, "stride": 1, "groups": 1, "dilation": 1}
    ours |= {"axis": 1, "transposed": 0, "slope": 0, "global": 0}
    for name in ("pad", "stride", "groups", "size", "beta", "k"):
        ours[name] = getattr(layer, name, ours.get(name, 0))
    theirs = dict(step.settings)
    if isinstance(layer, LRN):
        window = layer.size ** (1 if layer.over == "maps" else 2)
        ours["alpha"], theirs["groups"] = layer.alpha * window, [1.0]
    return [
        f"{layer.name} has {name} {' '.join(f'{n:.6g}' for n in numbers)}, not "
        f"{ours[name]:.6g}"
        for name, numbers in theirs.items()
        if name in ours and not np.allclose(numbers, ours[name], rtol=1e-5, atol=0)
    ]


def read_mean(path: Path) -> Float[np.ndarray, "height width 3"]:
    """The mean image of a `.binaryproto`, as RGB. InputError if it is not one."""
    try:
        blob = _array(memoryview(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a binaryproto: {error}") from None
    if blob.ndim != 4 or blob.shape[:2] != (1, 3) or not np.isfinite(blob).all():
        raise InputError(f"{path}: shape {blob.shape}, not that of a mean image")
    return blob[0, ::-1].transpose(1, 2, 0)


def is_net(content: memoryview) -> bool:
    """Whether a file of protocol buffers has layers, as a `.caffemodel` has."""
    try:
        fields = wire.read(content)
        return any(f.number in GENERATIONS and f.kind == wire.BYTES for f in fields)
    except ValueError:
        return False


def _messages(
    content: memoryview,
) -> Iterator[tuple[memoryview, memoryview, int, Generation]]:
    """Every layer, the message with its bottoms and tops, which of the messages in
    `Kind` has its settings (2: none), and where its fields are."""
    for field in wire.read(content):
        if field.number not in GENERATIONS or field.kind != wire.BYTES:
            continue
        if field.number == 2 and (oldest := _parts(field.data, OLDEST)):
            yield oldest[0], field.data, 2, OLDEST_GENERATION
        else:
            number = field.number
            yield field.data, field.data, int(number == 100), GENERATIONS[number]


def _layer(
    message: memoryview, wires: memoryview, place: int, fields: Generation
) -> tuple[Layer, list[memoryview]]:
    """A layer without its weights, and these."""
    blobs = _parts(message, fields.blobs)
    name = b"".join(_parts(message, fields.name)).decode("utf-8")
    type: str | int = 0
    for field in wire.read(message):
        if field.number == fields.type:
            is_text = field.kind == wire.BYTES
            type = bytes(field.data).decode("utf-8") if is_text else field.value
    bottoms, tops = (
        [bytes(part).decode("utf-8") for part in _parts(wires, number, MAX_WIRES)]
        for number in (fields.bottom, fields.top)
    )
    settings: dict[str, list[float]] = {}
    if type in KIND_OF:
        settings = _settings(message, KINDS[KIND_OF[type]], place)
    elif type in DATA:
        settings = _transform(message, place)
    return Layer(name, type, settings, bottoms, tops), blobs


def _settings(message: memoryview, kind: Kind, place: int) -> dict[str, list[float]]:
    """The settings of a layer: a number each, or several if the file has them."""
    is_oldest = place == 2
    places = {
        name: (oldest,) if is_oldest else numbers
        for name, (_, oldest, numbers) in kind.settings.items()
    }
    numbers_of: dict[int, list[float]] = {n: [] for ns in places.values() for n in ns}
    for part in [message] if is_oldest else _parts(message, kind.messages[place]):
        for field in wire.read(part):
            if (numbers := numbers_of.get(field.number)) is not None:
                more = _numbers(field)
                numbers += itertools.islice(more, MAX_NUMBERS - len(numbers))
    settings = {}
    for name, numbers in places.items():
        default = float(kind.settings[name][0])
        stated = [numbers_of[n] for n in numbers]
        if any(stated[1:]):  # for the height or the width
            stated = [side or [default] for side in stated[1:]]
        settings[name] = [*itertools.chain(*stated)] or [default]
    return settings


def _transform(message: memoryview, place: int) -> dict[str, list[float]]:
    """What a data layer does to images, as far as the file states it."""
    transform: dict[str, list[float]] = {}
    for part, scale, file, mean in TRANSFORMS[place]:
        for settings in _parts(message, part) if part else [message]:
            if mean:  # without values there, nothing is subtracted
                transform.setdefault("mean", [])
            for field in wire.read(settings):
                name = {scale: "scale", file: "file", mean: "mean"}.get(field.number)
                if name == "file":
                    transform["file"] = []
                elif name:
                    numbers = itertools.islice(_numbers(field), MAX_NUMBERS)
                    transform.setdefault(name, []).extend(numbers)
    return transform


def _numbers(field: wire.Field) -> Iterator[float]:
    if field.kind == wire.VARINT:
        yield float(field.value)
    elif field.kind == wire.FOUR:
        yield float(np.frombuffer(field.data, "<f4")[0])
    elif field.kind == wire.BYTES:
        yield from map(float, wire.varints(field.data))


def _parts(message: memoryview, number: int, most: int = 2) -> list[memoryview]:
    """The values of the fields of that number. ValueError if there are too many."""
    parts = []
    for field in wire.read(message):
        if field.number == number and field.kind == wire.BYTES:
            parts.append(field.data)
        if len(parts) > most:
            raise ValueError(f"a layer has more than {most} fields of number {number}")
    return parts


def _array(blob: memoryview) -> np.ndarray:
    """A blob's numbers in its shape."""
    legacy, dims, data = dict.fromkeys(LEGACY_DIMS, 0), None, []
    for field in wire.read(blob):
        if field.number in LEGACY_DIMS and field.kind == wire.VARINT:
            legacy[field.number] = field.value
        elif field.number == SHAPE and field.kind == wire.BYTES:
            dims = list(_dims(field.data))
        elif field.number in DTYPES and field.kind == wire.BYTES:
            data.append(np.frombuffer(field.data, DTYPES[field.number]))
        if len(data) > 1:
            raise ValueError("a blob has numbers in several places")
    numbers = data[0] if data else np.zeros(0, np.float32)
    return numbers.reshape(tuple(legacy.values()) if dims is None else dims)


def _dims(shape: memoryview) -> Iterator[int]:
    for field in wire.read(shape):
        if field.number == DIM and field.kind == wire.BYTES:
            yield from itertools.islice(wire.varints(field.data), MAX_DIMS)
        elif field.number == DIM and field.kind == wire.VARINT:
            yield field.value
