"""Damaged files of weights are read, or refused in one line, in limited memory.

`FUZZ=2000 pytest tests/test_weights_fuzz.py` tries that many files of each format.
"""

import os
import resource
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import (
    caffemodel,
    keras_layers,
    onnx_graph,
    random_arrays,
    torch_state,
    write_keras,
)

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build

NET = build("vgg-a", width=0.02, classes=3, image_size=32)
COUNT = int(os.environ.get("FUZZ", "40"))
MEMORY = 2**30  # bytes above those in use; threads reserve most of it
EXTREME = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
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


def write(kind: str, path: Path) -> None:
    """A good file with random weights of `NET`."""
    arrays = random_arrays(NET)
    state = torch_state("vgg-a", arrays)
    if kind.startswith("caffe"):
        path.write_bytes(caffemodel(arrays, arrays, int(kind[-1])))
    elif kind.startswith("keras"):
        write_keras(path, keras_layers(NET, arrays), kind[-1])
    elif kind == "onnx":
        onnx_graph(NET, arrays).write(path)
    elif kind == "torch":
        torch = pytest.importorskip("torch")
        torch.save({k: torch.from_numpy(v) for k, v in state.items()}, path)
    else:
        save_file(state, path)
        if kind == "ours":
            params, provenance = weights.load(path, NET)
            weights.save(params, path, NET, provenance)


def read(path: Path, input: weights.Input | None) -> str:
    """How reading ends. Other errors than InputError are raised."""
    try:
        weights.net_of(path, "vgg-a")
        weights.load(path, NET, input=input)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return "refused"
    return "read"


@pytest.fixture
def limited_memory():
    """Memory above what is in use, for the rest of a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "kind",
    [
        "torchvision",
        "ours",
        "caffe 1",
        "caffe 2",
        "keras 2",
        "keras 3",
        "onnx",
        "torch",
    ],
)
def test_damaged_files(kind, tmp_path, limited_memory):
    good, file = tmp_path / "good", tmp_path / "damaged"
    write(kind, good)
    input = "rgb" if kind == "onnx" else None
    assert read(good, input) == "read"
    limited_memory()
    content, ends = good.read_bytes(), Counter()
    for i in range(COUNT):
        file.write_bytes(damaged(content, np.random.default_rng(i)))
        ends[read(file, input)] += 1
    print(kind, dict(ends))
    assert ends["refused"] > COUNT / 4
