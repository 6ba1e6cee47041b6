"""Weights of torchvision and timm: `.safetensors` and `.pth`.

conv1_1 of VGG is `features.0.weight` (OIHW) and `features.0.bias`. fc6 to fc8 are
`classifier.0`, `.3` and `.6` in torchvision's VGG, `classifier.1`, `.4` and `.6` in its
AlexNet, and `pre_logits.fc1`, `pre_logits.fc2` and `head.fc` in timm. Maps are
flattened as (maps, height, width). The input is RGB / 255, minus a mean, divided by a
deviation.
"""

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net, Params
from alexvgg_jax.models.layers import Conv, Dense, SlidingDense
from alexvgg_jax.weights.provenance import DAMAGED, TORCH, Provenance, from_json
from alexvgg_jax.weights.stored import (
    Keys,
    Stored,
    model_of,
    not_finite,
    to_maps_first,
    with_inputs,
)

# Top-1 and top-5 accuracy in % (torchvision 0.29, model cards), without and with batch
# normalisation. timm's `.tv_in1k` weights are the same.
PUBLISHED = {
    "alexnet-owt": "56.522 top-1, 79.066 top-5",
    "vgg-a": "69.020 top-1, 88.628 top-5",
    "vgg-b": "69.928 top-1, 89.246 top-5",
    "vgg-d": "71.592 top-1, 90.382 top-5",
    "vgg-e": "72.376 top-1, 90.876 top-5",
}
PUBLISHED_BN = {
    "vgg-a": "70.370 top-1, 89.810 top-5",
    "vgg-b": "71.586 top-1, 90.374 top-5",
    "vgg-d": "73.360 top-1, 91.516 top-5",
    "vgg-e": "74.218 top-1, 91.842 top-5",
}
TIMM = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
EPSILON = 1e-5  # of torch's BatchNorm2d
NORM_NAME = re.compile(r"features\.([0-9]{1,3})\.running_(?:mean|var)")
SCALE = re.compile(r"features\.([0-9]{1,3})\.weight")
COUNTER = ".num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var")


def stored(
    path: Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str]
) -> Stored:
    """The arrays of a state dict. Files of `weights.save` have the mean and the
    provenance as metadata."""
    arrays = {k: a for k, a in arrays.items() if not k.endswith(COUNTER)}
    has_norm = _has_norm(arrays)
    folded = _fold_norms(arrays) if has_norm else None
    is_timm = any(name.startswith(("pre_logits.", "head.")) for name in arrays)
    try:
        mean = json.loads(metadata.get("mean", "0"))
        mean = tuple(255 * float(c) for c in mean) if mean else TORCH.mean
        red, green, blue = mean
        convention = replace(TORCH, mean=(red, green, blue))
        published = PUBLISHED_BN if has_norm else PUBLISHED
        if "provenance" in metadata:
            provenance = from_json(metadata["provenance"], np.array(mean))
            published = dict.fromkeys(PUBLISHED, "")  # it is in the provenance
        else:
            provenance = Provenance(
                format="timm" if is_timm else "torchvision",
                mean=np.array(mean),
                source="https://github.com/pytorch/vision",
                licence="BSD-3-Clause",
            )
    except DAMAGED as error:
        raise InputError(f"{path}: its metadata are damaged: {error}") from None
    return Stored(
        path=path,
        arrays=arrays,
        keys=lambda net: keys(net, has_norm, is_timm),
        maps_first=True,
        head=("classifier.", "pre_logits.", "head."),
        convention=convention,
        provenance=provenance,
        published=published,
        differences=lambda _: _norm_problems(arrays, folded) if folded else [],
        norms=lambda net: _norms(net) if has_norm else {},
        folded=folded,
    )


def arrays(
    params: Params, net: Net, provenance: Provenance
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Parameters as a state dict of torchvision, and metadata about its input.

    Raises InputError for a net that torchvision does not have, and for a mean image.
    """
    if model_of(net) not in PUBLISHED:
        kind = model_of(net) or f"such {type(net).__name__}"
        raise InputError(f"torchvision has no {kind}; it has {', '.join(PUBLISHED)}")
    if provenance.mean.ndim != 1:
        raise InputError("torchvision subtracts a colour, not a mean image")
    layers, names = dict(with_inputs(net)), keys(net)
    first, state = net.layers()[0].name, {}
    for layer, shape in layers.items():
        if layer.name not in params:
            continue
        kernel, bias = (np.asarray(params[layer.name][p]) for p in ("kernel", "bias"))
        if layer.name == first:
            kernel = kernel * np.array(TORCH.deviation)[None, None, :, None]
        kernel = to_maps_first(kernel, layer, shape)
        state |= dict(zip(names[layer.name], (kernel, bias), strict=True))
    mean = [float(c) / 255 for c in provenance.mean]
    std = [deviation / 255 for deviation in TORCH.deviation]
    return state, {
        "format": "pt",
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "provenance": provenance.to_json(),
    }


def keys(net: Net, has_norm: bool = False, is_timm: bool = False) -> Keys:
    """Layer -> keys. Every layer has a number, and so has each normalisation."""
    names, part, number = {}, "features", 0
    layers = net.layers()
    last_conv = max(i for i, x in enumerate(layers) if isinstance(x, Conv))
    for i, layer in enumerate(layers):
        if isinstance(layer, Conv | Dense | SlidingDense):
            names[layer.name] = f"{part}.{number}"
        number += 2 if has_norm and isinstance(layer, Conv) else 1
        if i == last_conv + 2:  # after its activation and its pooling
            part, number = "classifier", 0
    if is_timm:
        names |= {layer: TIMM[layer] for layer in names.keys() & TIMM.keys()}
    return {layer: (f"{n}.weight", f"{n}.bias") for layer, n in names.items()}


def _has_norm(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether there is a running mean or variance, or a scale right after a kernel."""
    scales = [
        m for name, a in arrays.items() if (m := SCALE.fullmatch(name)) and a.ndim == 1
    ]
    follows = any(f"features.{int(m[1]) - 1}.weight" in arrays for m in scales)
    return follows or any(map(NORM_NAME.fullmatch, arrays))


def _norms(net: Net) -> dict[str, dict[str, tuple[int, ...]]]:
    """The arrays of the normalisation after each convolution, and their shapes."""
    names, norms = keys(net, has_norm=True), {}
    for layer in net.layers():
        if isinstance(layer, Conv):
            _, number, _ = names[layer.name][0].split(".")
            name = f"features.{int(number) + 1}"
            norms[layer.name] = {f"{name}.{part}": (layer.features,) for part in NORM}
    return norms


def _fold_norms(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with each normalisation multiplied into the convolution before it,
    unless their shapes or numbers do not allow it: then `problems_of` names them."""
    folded = dict(arrays)
    for number in {int(m[1]) for m in map(NORM_NAME.fullmatch, arrays) if m}:
        names = [f"features.{number}.{part}" for part in NORM]
        targets = [f"features.{number - 1}.{part}" for part in NORM[:2]]
        with contextlib.suppress(ValueError, KeyError):
            values = [arrays[key] for key in names]
            pair = fold_norm([arrays[key] for key in targets], values)
            folded |= dict(zip(targets, pair, strict=True))
    return folded


def _norm_problems(
    arrays: Mapping[str, np.ndarray], folded: Mapping[str, np.ndarray]
) -> list[str]:
    """What is wrong with normalisations that have all arrays in their shapes."""
    negative = [
        f"{name} has negative numbers"
        for name, array in arrays.items()
        if NORM_NAME.fullmatch(name) and name.endswith("var") and (array < 0).any()
    ]
    bad = {*not_finite(folded)} - {*not_finite(arrays)}
    return negative + [f"{name} is not finite once normalised" for name in sorted(bad)]


def fold_norm(
    convolution: Sequence[np.ndarray],
    norm: Sequence[np.ndarray],
    epsilon: float = EPSILON,
) -> tuple[np.ndarray, np.ndarray]:
    """The OIHW kernel and the bias of a convolution and the normalisation after it.

    `norm` has the scale, the shift, the mean and the variance. ValueError if the shapes
    do not fit, and for a normalisation that is not finite.
    """
    kernel, bias = (array.astype(np.float64) for array in convolution)
    scale, shift, mean, variance = (array.astype(np.float64) for array in norm)
    shapes = [kernel.shape[:1], bias.shape, *(array.shape for array in norm)]
    if kernel.ndim != 4 or len({*shapes}) > 1:
        raise ValueError(f"normalisation: shapes {shapes} do not fit")
    if not np.isfinite([scale, shift, mean, variance]).all() or variance.min() < 0:
        raise ValueError("normalisation: NaN, infinity or a negative variance")
    with np.errstate(all="ignore"):  # of damaged files; what is not finite is named
        factor = scale / np.sqrt(variance + epsilon)
        return kernel * factor[:, None, None, None], (bias - mean) * factor + shift


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata. The library checks that all sizes fit the file."""
    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            return {n: file.get_tensor(n) for n in names}, file.metadata() or {}
    except Exception as error:  # of the library, or of numpy for an unknown type
        raise InputError(f"{path}: not a safetensors file: {error}") from None


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` file, read by torch without running code in it."""
    _check_zip(path)
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: needs torch (pip install torch), or save it as .safetensors"
        ) from None
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
        tensors = dict(loaded.get("state_dict", loaded))
        # A tensor can repeat a few numbers many times.
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        fits = size <= path.stat().st_size
        arrays = {n: _numpy(torch, t) for n, t in tensors.items()} if fits else None
    except pickle.UnpicklingError:
        raise InputError(f"{path}: torch refuses it: damaged, or has code") from None
    except Exception as error:  # a damaged file can raise any
        kind = type(error).__name__
        raise InputError(f"{path}: not a state dict of torch ({kind})") from None
    if arrays is None:
        raise InputError(f"{path}: its tensors are larger than the file")
    return arrays


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return wide.detach().contiguous().numpy()


def _check_zip(path: Path) -> None:
    """InputError if a zip file has numpy's arrays, or if its parts are larger than the
    file: torch stores them uncompressed."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
    except Exception as error:  # a damaged file can raise any
        kind = type(error).__name__
        raise InputError(f"{path}: not a state dict of torch ({kind})") from None
    if parts and all(part.filename.endswith(".npy") for part in parts):
        raise InputError(f"{path}: arrays of numpy, not the weights of a net")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise InputError(f"{path}: its parts are larger than the file")
