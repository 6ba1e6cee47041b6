"""Weights of Keras' VGG16 and VGG19: `.h5` and `.weights.h5`, with and without top.

Layers are called block1_conv1, fc1, fc2 and predictions. Kernels are HWIO, matrices
(inputs, outputs), maps are flattened as (height, width, maps): as here. The input is
BGR from 0 to 255 minus the mean. Files have had four forms:

    block1_conv1/block1_conv1_W_1:0                         Keras 1
    block1_conv1/block1_conv1/kernel:0                      Keras 2, weights
    model_weights/block1_conv1/block1_conv1/kernel:0        Keras 2 and 3, whole model
    layers/conv2d_1/vars/0                                  Keras 3, weights

Keras 3 numbers the layers of each kind in their order. Their names are in attributes,
which are not read: a damaged one can make h5py allocate gigabytes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.weights.provenance import CAFFE, Provenance
from alexvgg_jax.weights.stored import Keys, Stored

# Top-1 and top-5 accuracy in % (keras.io/api/applications).
PUBLISHED = {"vgg-d": "71.3 top-1, 90.1 top-5", "vgg-e": "71.3 top-1, 90.0 top-5"}
HEAD = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
NAME = re.compile(r"block[1-5]_conv[1-4]|fc1|fc2|predictions|(conv2d|dense)(_\d+)?")
TRAINING = ("optimizer", "optimizer_weights")  # groups without weights
DEPTH = 8  # groups inside groups


def stored(path: Path) -> Stored:
    """The layers of a file of Keras."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: needs h5py (pip install h5py)") from None
    arrays: dict[str, np.ndarray] = {}
    left = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            for name, dataset in _datasets(h5py, file):
                left -= dataset.nbytes
                if left < 0:
                    raise InputError(f"{path}: its arrays are larger than the file")
                part = "bias" if dataset.ndim == 1 else "kernel"
                if f"{name}.{part}" in arrays:
                    raise ValueError(f"two arrays for {name}.{part}")
                arrays[f"{name}.{part}"] = dataset[()]
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not weights of Keras: {first}") from None
    return Stored(
        path=path,
        arrays=arrays,
        keys=_numbered if "conv2d.kernel" in arrays else _named,
        maps_first=False,
        head=("fc", "predictions", "dense"),
        convention=CAFFE,
        provenance=Provenance(
            format="keras",
            mean=np.array(CAFFE.mean),
            source="https://github.com/fchollet/deep-learning-models",
            licence="CC BY 4.0",
        ),
        published=PUBLISHED,
    )


def _named(net: Net) -> Keys:
    """Layer -> keys: conv1_2 is block1_conv2."""
    names = {
        name: HEAD.get(name) or re.sub(r"conv(\d)_(\d)", r"block\1_conv\2", name)
        for name in net.param_shapes()
    }
    return {layer: (f"{n}.kernel", f"{n}.bias") for layer, n in names.items()}


def _numbered(net: Net) -> Keys:
    """Layer -> keys: conv1_2, the second convolution, is conv2d_1."""
    count, keys = Counter[str](), {}
    for layer in net.param_shapes():
        kind = "conv2d" if layer.startswith("conv") else "dense"
        name = f"{kind}_{count[kind]}" if count[kind] else kind
        keys[layer] = (f"{name}.kernel", f"{name}.bias")
        count[kind] += 1
    return keys


def _datasets(
    h5py: Any,
    group: Any,
    above: tuple[str, ...] = (),
    seen: frozenset[int] = frozenset(),
) -> Iterator[tuple[str, Any]]:
    """Every array of floats, with the name of its layer."""
    seen |= {h5py.h5o.get_info(group.id).addr}
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{key} is a link")
        if key in TRAINING and not above:
            continue
        item, path = group[key], (*above, key)
        if isinstance(item, h5py.Group):
            if h5py.h5o.get_info(item.id).addr in seen or len(path) > DEPTH:
                raise ValueError(f"{key} is a group inside itself")
            yield from _datasets(h5py, item, path, seen)
        elif isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            if item.is_virtual or item.external or item.chunks:
                raise ValueError(f"{key}: not stored as it is in this file")
            names = [part for part in path if NAME.fullmatch(part)]
            yield names[0] if names else "/".join(path), item
