"""Trained weights in and out: `load` and `save` files of other libraries.

net = models.build("vgg-d")
params, provenance = weights.load("vgg16.safetensors", net)
images = weights.preprocess(photo, provenance)[None]
logits, features = net.apply(params, images, train=False)
"""

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from safetensors.numpy import save as to_bytes

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import write_bytes
from alexvgg_jax.models import MODELS, Net, Params, build
from alexvgg_jax.weights import caffe, hub, keras, onnx, ours, torchvision
from alexvgg_jax.weights.caffe import read_mean
from alexvgg_jax.weights.export import export
from alexvgg_jax.weights.provenance import (
    CONVENTIONS,
    Input,
    Provenance,
    crop,
    for_net,
    mean_of_crop,
    preprocess,
    resized,
)
from alexvgg_jax.weights.stored import (
    Stored,
    dense_layers,
    headless,
    model_of,
    not_finite,
    problems_of,
    to_params,
)

__all__ = [
    "Input",
    "Provenance",
    "class_names",
    "crop",
    "export",
    "load",
    "load_any",
    "load_net",
    "mean_of_crop",
    "net_of",
    "preprocess",
    "read_mean",
    "resized",
    "save",
]

Target = Literal["ours", "torchvision"]
# First bytes. ONNX starts with its version, Caffe with a name.
HDF5, ZIP, PICKLE, ONNX = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80", b"\x08"


def load(
    file: str | Path,
    net: Net,
    *,
    key: PRNGKeyArray | None = None,
    input: Input | None = None,
    mean: Path | None = None,
) -> tuple[Params, Provenance]:
    """The parameters of `net` from a file of weights, and where they come from.

    `file` is a file of torchvision or timm (`.safetensors`, `.pth`), Keras (`.h5`),
    Caffe (`.caffemodel`), ONNX, or `save`; the folder of a run; or the id of a
    repository of the Hugging Face Hub, which is downloaded once. Its content tells the
    format. OWNER/NAME is an id if there is no folder OWNER here, and if it does not end
    as files of weights do; nothing else is looked for on the network.

    The parameters take RGB from 0 to 255 minus `provenance.mean`, whichever input the
    file's own net takes. `input` names that if the file's format does not tell, or if
    the file departs from it: "torch" (RGB / 255, minus a mean, divided by a deviation),
    "caffe" (BGR minus a mean), "rgb" (RGB minus a mean). `mean` is the mean image of
    Caffe, a `.binaryproto`.

    A file without fully-connected layers gives the convolutions alone, which
    `net.apply(..., until=)` can use. With `key`, the last layer is drawn, for any
    number of classes, and all fully-connected layers if the file has none.

    Raises InputError for a file that is damaged, that is unknown, or that does not fit;
    then the message lists all missing, surplus and misshapen arrays.
    """
    return _load(_read(file), net, key, input, mean)


def load_net(
    file: str | Path,
    model: str = "",
    *,
    input: Input | None = None,
    mean: Path | None = None,
) -> tuple[Net, Params, Provenance]:
    """The net of `net_of`, and what `load` returns for it. The file is read once."""
    stored = _read(file)
    net = _net_of(stored, model)
    return net, *_load(stored, net, None, input, mean)


def load_any(file: str | Path) -> tuple[Net, Params, Provenance]:
    """A net that fits a file, its parameters, and where they come from.

    If several nets fit, their parameters are the same: only other layers differ.
    """
    stored = _read(file)
    net = stored.net or next(iter(_nets(stored).values()))
    return net, *_load(stored, net, None, None, None)


def _load(
    stored: Stored,
    net: Net,
    key: PRNGKeyArray | None,
    input: Input | None,
    mean: Path | None,
) -> tuple[Params, Provenance]:
    """What `load` returns for a file that has been read."""
    if input and stored.net:
        raise InputError(f"{stored.path}: input {input}: the file tells its input")
    if input and input not in CONVENTIONS:
        raise InputError(f"input {input}: choose from {', '.join(CONVENTIONS)}")
    convention = CONVENTIONS[input] if input else stored.convention
    if convention is None:
        raise InputError(
            f"{stored.path}: {stored.provenance.format} does not tell which input its "
            "net takes: name it by input (--input; `convert` has it): torch, caffe, rgb"
        )
    params = to_params(stored, net, convention, key)
    provenance = for_net(stored.provenance, net)
    published = stored.published.get(model_of(net) or "")
    if published and net.classes == 1000:
        provenance = replace(provenance, accuracy=published)
    if input:
        provenance = replace(provenance, mean=np.array(convention.mean))
        if not convention.is_like(stored.convention):  # others than those published
            provenance = replace(provenance, source="", licence="", accuracy="")
    if mean:
        provenance = replace(provenance, mean=read_mean(mean))
    if key is not None:
        return params, replace(provenance, accuracy="", classes=())
    if headless(stored, net):
        provenance = replace(provenance, accuracy="")
    return params, provenance


def net_of(file: str | Path, model: str = "") -> Net:
    """The net whose weights a file has, or the one named `model`, with the file's
    classes. InputError if none or several of the format's nets fit."""
    return _net_of(_read(file), model)


def _net_of(stored: Stored, model: str) -> Net:
    if stored.net and not model:
        return stored.net
    if model:
        return _with_classes(stored, build(model))
    name, *others = nets = _nets(stored)
    if others:
        names = ", ".join(nets)
        raise InputError(f"{stored.path}: fits several nets, {names}: name one (--net)")
    return nets[name]


def _nets(stored: Stored) -> dict[str, Net]:
    """The models that the weights fit. InputError if there are none."""
    nets = {name: _with_classes(stored, MODELS[name]) for name in stored.published}
    fits = {
        name: net
        for name, net in nets.items()
        if not problems_of(stored, net, headless(stored, net))
    }
    if not fits:
        if bad := not_finite(stored.arrays):
            raise InputError(f"{stored.path}: NaN or infinity in {', '.join(bad)}")
        names = ", ".join(nets)
        raise InputError(
            f"{stored.path}: fits none of the nets, {names}: name one (--net)"
        )
    return fits


def _with_classes(stored: Stored, net: Net) -> Net:
    """The net with the number of classes that the file has biases for."""
    _, bias = list(stored.keys(net).values())[-1]
    biases = stored.arrays.get(bias, np.zeros(0))
    return replace(net, classes=biases.size or net.classes)


def class_names(count: int) -> tuple[str, ...]:
    """ImageNet's names if there are 1000 classes, else numbers.

    The names are torchvision's (BSD-3-Clause), in the order of Caffe and Keras too.
    """
    if count != 1000:
        return tuple(map(str, range(count)))
    names = resources.files(__name__).joinpath("imagenet.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines())


def save(
    params: Params,
    file: Path,
    net: Net,
    provenance: Provenance,
    target: Target = "ours",
) -> None:
    """Write parameters as a safetensors file.

    "ours" keeps the net and the provenance. "torchvision" has the names and the layout
    of torchvision, whose nets then take RGB / 255 minus `provenance.mean` / 255,
    divided by torchvision's deviation; the metadata have both and the provenance. The
    first kernel is stored in float64, so that `load` gives the same parameters bit for
    bit.

    Raises InputError for parameters of another net, and for a net that torchvision
    does not have.
    """
    _check(params, net)
    if target == "ours":
        arrays = {
            f"{layer}.{part}": np.asarray(array)
            for layer, parts in params.items()
            for part, array in parts.items()
        }
        arrays[ours.MEAN] = np.asarray(provenance.mean)
        metadata = ours.metadata(net, provenance)
    else:
        arrays, metadata = torchvision.arrays(params, net, provenance)
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    write_bytes(to_bytes(arrays, metadata), Path(file))


def _check(params: Params, net: Net) -> None:
    """InputError if these are not the parameters of `net`, with or without its head."""
    expected = net.param_shapes()
    if not set(params) & set(dense_layers(net)):
        expected = {k: v for k, v in expected.items() if k not in dense_layers(net)}
    shapes = jax.tree.map(jnp.shape, params)
    if shapes != jax.tree.map(lambda leaf: leaf.shape, expected):
        raise InputError("params of another net")


def _read(file: str | Path) -> Stored:
    """What a file has, in the format that its content tells."""
    path = hub.download(str(file)) if hub.is_id(str(file)) else Path(file)
    if path.is_dir():
        return ours.stored_run(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")
    try:
        with path.open("rb") as opened:
            start, size = opened.read(16), path.stat().st_size
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
            arrays, metadata = torchvision.read_safetensors(path)
            format = ours if ours.is_ours(metadata) else torchvision
            return format.stored(path, arrays, metadata)
        if start.startswith(HDF5):
            return keras.stored(path)
        if start.startswith((ZIP, PICKLE)):
            return torchvision.stored(path, torchvision.read_pickle(path), {})
        if start.startswith(ONNX):
            return onnx.stored(path)
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if caffe.is_net(content):
        return caffe.stored(path, content)
    raise InputError(
        f"{path}: no weights: neither safetensors, nor a .pth of torch, nor a file of "
        "Keras, Caffe or ONNX"
    )
