"""Trouble with files of weights: they are read, or refused in one line, in little
memory. Their formats have no checksums, so a changed weight is read.
"""

import contextlib
import importlib.util
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _trouble import Random, Trial, attempt
from safetensors.numpy import save_file

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.results import ROOT

sys.path.append(str(ROOT / "tests"))

from weight_files import (
    blob,
    caffe_definition,
    caffemodel,
    keras_layers,
    onnx_graph,
    random_arrays,
    torch_state,
    write_keras,
)

NET = build("vgg-a", width=0.02, classes=3, image_size=32)
MEMORY = 2**30  # bytes above those in use; threads reserve most of it
KINDS = ["torchvision", "ours", "onnx", "caffe 0", "caffe 1", "caffe 2", "mean"]
KINDS += ["keras 1", "keras 2", "keras model", "keras 3"]
KINDS += ["torch", "torch 2019"] * bool(importlib.util.find_spec("torch"))
EXTREME = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def stored_weights(count: int, random: Random, folder: Path) -> Iterator[Trial]:
    """Damaged files of all formats."""
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        _write(kind, folder / kind)
        _read(folder / kind)
    with _limited_memory():
        for number in range(count):
            good = folder / KINDS[number % len(KINDS)]
            seed, file = int(random.integers(2**32)), folder / f"damaged {good.name}"
            damage = np.random.default_rng(seed)
            file.write_bytes(damaged(good.read_bytes(), damage))
            yield attempt(f"{good.name}, seed {seed}", _read, file)


def damaged(content: bytes, rng: Random) -> bytes:
    """The content with one to four kinds of damage, often to its start, where headers
    are: bits, ends, deletions, repetitions, extreme numbers, random bytes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        end = len(data) if rng.random() < 0.5 else min(len(data), 1024)
        at, size = int(rng.integers(0, max(end, 1))), int(rng.integers(1, 64))
        kind = rng.integers(0, 6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.integers(0, 8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size] * int(rng.integers(1, 9))
        elif kind == 4:
            number = EXTREME[rng.integers(0, len(EXTREME))]
            data[at : at + 8] = struct.pack("<Q", number)
        else:
            data[at : at + size] = rng.bytes(size)
    return bytes(data)


def _write(kind: str, path: Path) -> None:
    """A good file with random weights of `NET`."""
    arrays = random_arrays(NET)
    state = torch_state("vgg-a", arrays)
    if kind.startswith("caffe"):
        layers = caffe_definition(NET)
        if kind != "caffe 0":
            layers["data"] = ("Data", {"scale": 0.5, "mean_value": 120.0})
        path.write_bytes(caffemodel(arrays, layers, int(kind[-1]), layers))
    elif kind == "mean":
        path.write_bytes(blob(np.ones((1, 3, 40, 40), np.float32), legacy=True))
    elif kind.startswith("keras"):
        write_keras(path, keras_layers(NET, arrays), kind.split()[1])
    elif kind == "onnx":
        onnx_graph(NET, arrays).write(path)
    elif kind in ("torch", "torch 2019"):  # the older form is no zip file
        import torch

        tensors = {k: torch.from_numpy(v) for k, v in state.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "torch")
    else:
        save_file(state, path)
        if kind == "ours":
            params, provenance = weights.load(path, NET)
            weights.save(params, path, NET, provenance)


def _read(path: Path) -> str | None:
    try:
        if path.name.endswith("mean"):
            weights.read_mean(path)
            return None
        weights.net_of(path, "vgg-a")
        input = "rgb" if path.name.endswith("onnx") else None
        weights.load(path, NET, input=input)
    except InputError as error:
        if str(path) in str(error):
            raise
        return f"{error}: which file?"


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Only `MEMORY` above what is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
