"""The command `features`."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, UInt8
from rich.console import Console
from rich.progress import track

from alexvgg_jax import weights
from alexvgg_jax.config import Mesh
from alexvgg_jax.data.batches import prefetch
from alexvgg_jax.data.folder import image_files
from alexvgg_jax.errors import InputError
from alexvgg_jax.evaluate import decode_file
from alexvgg_jax.files import check_place
from alexvgg_jax.models import Net, Params
from alexvgg_jax.sharding import all_devices, everywhere, make_mesh, place
from alexvgg_jax.weights import Input, Provenance

Pooling = Literal["none", "average", "max"]
MAX_HEADER = 100_000_000  # bytes that safetensors reads


@dataclass(frozen=True)
class Features:
    """Write a layer's output for every picture: features FOLDER ... --weights WEIGHTS.

    The array `features` of the file has a row for each picture, and its metadata list
    the pictures (`names`, as JSON). A picture that cannot be read has a row of NaN.
    Rerun an interrupted command and it continues.
    """

    # files, or folders of them
    pictures: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PICTURE ...")
    ]
    weights: str  # a run's folder, a file, or OWNER/NAME of the Hugging Face Hub
    out: Path  # the .safetensors file to write
    # name of the layer: fc7 is the last hidden layer before its ReLU, relu7 the same
    # after it, pool5 the maps of the last pooling
    layer: str = "relu7"
    pool: Pooling = "none"  # average or max: one number for each map; none: whole maps
    batch: int = 32  # pictures that are computed together
    net: str = ""  # model, such as vgg-d; needed only if several models fit the file
    # what the file's net takes: torch (RGB / 255), caffe (BGR) or rgb (0 to 255);
    # without it, what nets of the file's format take (required for ONNX)
    input: Input | None = None

    def __call__(self) -> None:
        files = [file for path in self.pictures for file in image_files(path)]
        if not files:
            raise InputError(f"no images in {' '.join(map(str, self.pictures))}")
        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: at least 1")
        if self.out.suffix != ".safetensors":
            raise InputError(f"--out {self.out}: name a .safetensors file")
        if self.out.exists():
            raise InputError(f"--out {self.out}: exists already")
        check_place(self.out, "--out")
        net, params, provenance = weights.load_net(
            self.weights, self.net, input=self.input
        )
        params = _used(params, net, self.layer)
        shape = net.shapes()[self.layer]
        shape = shape[-1:] if self.pool != "none" else shape
        head = _header(files, shape, self, _digest(params, provenance))
        unfinished = self.out.with_name(self.out.name + ".part")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        row = 4 * int(np.prod(shape))
        failed = 0
        with _open(unfinished, head, row) as file:
            done = (file.seek(0, os.SEEK_END) - len(head)) // row
            for number in _failed_before(unfinished, len(head), row, done):
                failed += 1
                print(f"skipped before: {files[number]}", file=sys.stderr)
            rows = _rows(self, net, params, provenance, files[done:])
            for features, errors in rows:
                file.write(features.astype("<f4").tobytes())
                file.flush()
                failed += len(errors)
                for error in errors:
                    print(f"skipped: {error}", file=sys.stderr)
            os.fsync(file.fileno())
        unfinished.replace(self.out)
        size = "x".join(map(str, (len(files), *shape)))
        print(f"wrote {self.out}: {self.layer}, {size}")
        if failed:
            sys.exit(1)


def _used(params: Params, net: Net, layer: str) -> Params:
    """The parameters up to a layer. InputError if the net or the weights lack it."""
    names = [x.name for x in net.layers()]
    if layer not in names:
        raise InputError(f"--layer {layer}: choose from {', '.join(names)}")
    before = names[: names.index(layer) + 1]
    needed = [name for name in net.param_shapes() if name in before]
    if missing := [name for name in needed if name not in params]:
        raise InputError(f"--layer {layer}: the weights have no {missing[0]}")
    return {name: params[name] for name in needed}


def _digest(params: Params, provenance: Provenance) -> str:
    """Tells weights and their input from others."""
    digest = hashlib.blake2b(provenance.to_json().encode(), digest_size=16)
    for leaf in (provenance.mean, *jax.tree.leaves(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _header(
    files: list[Path], shape: tuple[int, ...], command: Features, digest: str
) -> bytes:
    """The first bytes of the file: what follows is the array."""
    size = 4 * len(files) * int(np.prod(shape))
    metadata = {
        "names": json.dumps([str(file) for file in files]),
        "layer": command.layer,
        "pool": command.pool,
        "weights": command.weights,
        "digest": digest,
    }
    array = {"dtype": "F32", "shape": [len(files), *shape], "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, "features": array}).encode()
    if len(text) > MAX_HEADER:
        raise InputError(f"--out {command.out}: too many pictures for one file")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _open(path: Path, header: bytes, row: int) -> BinaryIO:
    """The unfinished file, cut after its last complete row. InputError, which says what
    differs, if it has other pictures, another layer or other weights."""
    try:
        file = path.open("r+b" if path.exists() else "w+b")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    start = file.read(len(header))
    if start != header[: len(start)]:
        file.close()
        raise InputError(f"{path}: {_difference(path, header)}: delete it first")
    if len(start) < len(header):
        file.seek(0)
        file.write(header)
    rows = (file.seek(0, os.SEEK_END) - len(header)) // row
    file.truncate(len(header) + rows * row)
    return file


def _difference(path: Path, header: bytes) -> str:
    """What an unfinished file has that differs from what `header` tells."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            other = file.read(min(size, MAX_HEADER))
        theirs, ours = (json.loads(h)["__metadata__"] for h in (other, header[8:]))
        for key in ("layer", "pool", "weights"):
            if theirs[key] != ours[key]:
                return f"has --{key} {theirs[key]}, not {ours[key]}"
        same = theirs["names"] == ours["names"]
        return "of other weights" if same else "of other pictures"
    except (ValueError, TypeError, KeyError):
        return "has no features"


def _failed_before(path: Path, start: int, row: int, done: int) -> np.ndarray:
    """The numbers of the rows of NaN in the part of the array that is done."""
    if not done:
        return np.arange(0)
    rows = np.memmap(path, "<f4", "r", start, (done, row // 4))
    return np.flatnonzero(np.isnan(rows[:, 0]))


def _rows(
    command: Features,
    net: Net,
    params: Params,
    provenance: Provenance,
    files: list[Path],
) -> Iterator[tuple[Float[np.ndarray, "rows ..."], list[Exception]]]:
    """The features of every batch, and the errors of pictures that cannot be read."""
    mesh, devices = make_mesh(Mesh()), len(all_devices())
    batch = -(-command.batch // devices) * devices
    mean = weights.mean_of_crop(provenance)[None]
    params = everywhere(params, mesh)

    @jax.jit
    def compute(
        params: Params, crops: UInt8[Array, "batch height width 3"]
    ) -> Float[Array, "batch ..."]:
        images = crops.astype(jnp.float32) - mean
        maps, _ = net.apply(params, images, train=False, until=command.layer)
        if command.pool == "none" or maps.ndim == 2:
            return maps
        return maps.mean((1, 2)) if command.pool == "average" else maps.max((1, 2))

    parts = [files[i : i + batch] for i in range(0, len(files), batch)]
    decoded = prefetch(partial(_decode, part, batch, provenance) for part in parts)
    console = Console(stderr=True)
    for crops, errors in track(
        decoded, command.layer, len(parts), console=console, transient=True
    ):
        features = np.array(compute(params, place(crops, mesh)))[: len(errors)]
        features[[error is not None for error in errors]] = np.nan
        yield features, [error for error in errors if error]


def _decode(
    files: list[Path], batch: int, provenance: Provenance
) -> tuple[UInt8[np.ndarray, "batch crop crop 3"], list[Exception | None]]:
    """The crops of pictures, and the error of each that cannot be read."""

    def to_square(image: np.ndarray, size: int) -> np.ndarray:
        return weights.crop(image, replace(provenance, crop=size))

    size = provenance.crop
    crops = np.zeros((batch, size, size, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        read = partial(decode_file, size=size, to_square=to_square)
        images = list(pool.map(read, files))
    for i, image in enumerate(images):
        if isinstance(image, np.ndarray):
            crops[i] = image
    return crops, [image if isinstance(image, Exception) else None for image in images]
