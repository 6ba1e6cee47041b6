"""Weights of Caffe: `.caffemodel`, and the mean image in a `.binaryproto`.

Layers are called conv1, conv1_1 or fc6, as here. Kernels are OIHW, matrices (outputs,
inputs), maps are flattened as (maps, height, width). The input is BGR from 0 to 255
minus the mean. The numbers of the fields are those of `caffe.proto`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import LRN
from alexvgg_jax.weights import wire
from alexvgg_jax.weights.provenance import CAFFE, Convention, Provenance
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


class Kind(NamedTuple):
    """The numbers of the fields of one generation of layers."""

    name: int
    blobs: int
    lrn: int  # the message with LRN's constants; 0: they are fields of the layer
    constants: tuple[int, ...] = (1, 2, 3, 5, 4)  # in the order of LRN_DEFAULTS


# The field of a net that has layers, and the fields of these.
GENERATIONS = {100: Kind(name=1, blobs=7, lrn=118), 2: Kind(name=4, blobs=6, lrn=18)}
# The oldest are inside a layer of generation 2.
OLDEST, OLDEST_KIND = 1, Kind(1, blobs=50, lrn=0, constants=(13, 14, 15, 22))
# What a file has that does not state them. Region 1 is one map, not several.
LRN_DEFAULTS = {"size": 5.0, "alpha": 1.0, "beta": 0.75, "k": 1.0, "region": 0.0}
LEGACY_DIMS, SHAPE, DIM, MAX_DIMS = (1, 2, 3, 4), 7, 1, 32
DTYPES = {5: "<f4", 8: "<f8"}  # of packed numbers
MAX_LAYERS = 1000


def stored(path: Path, content: memoryview) -> Stored:
    """The blobs of a `.caffemodel` of any generation."""
    arrays, order, lrns = {}, [], {}
    try:
        for layer, kind in itertools.islice(_layers(content), MAX_LAYERS):
            name = b"".join(_parts(layer, kind.name)).decode("utf-8")
            blobs = _parts(layer, kind.blobs)
            order.append(name)
            lrns[name] = _lrn(layer, kind)
            for part, blob in zip(("weight", "bias"), blobs, strict=False):
                arrays[f"{name}.{part}"] = _array(blob)
    except ValueError as error:
        raise InputError(f"{path}: not a caffemodel: {error}") from None
    is_vgg = "conv1_1.weight" in arrays
    return Stored(
        path=path,
        arrays=arrays,
        keys=keys,
        maps_first=True,
        head=("fc",),
        convention=CAFFE if is_vgg else ILSVRC_2012,
        provenance=VGG if is_vgg else ALEXNET,
        published=PUBLISHED_VGG if is_vgg else PUBLISHED_ALEXNET,
        differences=lambda net: _differences(order, net) + _departures(lrns, net),
    )


def keys(net: Net) -> Keys:
    """Layer -> keys."""
    return {name: (f"{name}.weight", f"{name}.bias") for name in net.param_shapes()}


def _differences(order: list[str], net: Net) -> list[str]:
    """The first layer that the file and the net have in different orders, such as
    pool1 and norm1 of Caffe's two AlexNets."""
    names = [layer.name for layer in net.layers()]
    theirs = [name for name in dict.fromkeys(order) if name in names]
    ours = [name for name in names if name in theirs]
    for a, b in zip(theirs, ours, strict=True):
        if a != b:
            return [f"{a} comes before {b}"]
    return []


def _departures(lrns: dict[str, dict[str, float]], net: Net) -> list[str]:
    """The constants of response normalisation that the file and the net have
    otherwise. Caffe divides alpha by the size, and its windows cross the towers."""
    phrases = []
    for layer in net.layers():
        if not isinstance(layer, LRN) or not (theirs := lrns.get(layer.name)):
            continue
        alpha = layer.alpha * layer.size
        ours = {"size": layer.size, "alpha": alpha, "beta": layer.beta, "k": layer.k}
        ours |= {"region": 0, "groups": layer.groups}
        phrases += [
            f"{layer.name} has {name} {theirs[name]:.6g}, not {value:.6g}"
            for name, value in ours.items()
            if not np.isclose(theirs[name], value, rtol=1e-5, atol=0)
        ]
    return phrases


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


def _layers(content: memoryview) -> Iterator[tuple[memoryview, Kind]]:
    """Every layer, and where its fields are."""
    for field in wire.read(content):
        if field.number not in GENERATIONS or field.kind != wire.BYTES:
            continue
        layer, kind = field.data, GENERATIONS[field.number]
        if field.number == 2 and (oldest := _parts(layer, OLDEST)):
            layer, kind = oldest[0], OLDEST_KIND
        yield layer, kind


def _lrn(layer: memoryview, kind: Kind) -> dict[str, float]:
    """The constants of a layer, if it is response normalisation."""
    found = LRN_DEFAULTS | {"groups": 1.0}
    for message in _parts(layer, kind.lrn) if kind.lrn else [layer]:
        for field in wire.read(message):
            if field.number in kind.constants:
                name = [*LRN_DEFAULTS][kind.constants.index(field.number)]
                is_float = field.kind == wire.FOUR
                number = np.frombuffer(field.data, "<f4")[0] if is_float else 0
                found[name] = float(number or field.value)
    return found


def _parts(message: memoryview, number: int) -> list[memoryview]:
    """The values of up to two fields of that number."""
    parts = []
    for field in wire.read(message):
        if field.number == number and field.kind == wire.BYTES:
            parts.append(field.data)
        if len(parts) > 2:
            raise ValueError(f"a layer has more than two fields of number {number}")
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
