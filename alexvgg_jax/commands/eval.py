"""The command `eval`."""

import io
import math
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from alexvgg_jax import evaluate, mistakes, paper, protocols, ready, weights
from alexvgg_jax.config import Data
from alexvgg_jax.data.decode import MAX_PIXELS, Resize
from alexvgg_jax.data.sources import Source, find_source, with_classes
from alexvgg_jax.errors import InputError
from alexvgg_jax.files import check_place, write_bytes
from alexvgg_jax.models import Net, Params
from alexvgg_jax.protocols import Protocol
from alexvgg_jax.sharding import all_devices
from alexvgg_jax.weights import Input, Provenance
from alexvgg_jax.weights.stored import model_of

TABLE5 = {"dense": "dense", "multi-crop": "multi-crop", "dense+multi-crop": "both"}
THREE_SCALES = "256 384 512"  # VGG Tables 4 to 6
TEN_CROPS = {"centre": "centre crop", "ten": "ten crops"}


class Outcome(NamedTuple):
    """What nets predict for a set of pictures, as `--save` stores it."""

    model: str  # in MODELS, or empty
    protocol: str
    scales: tuple[int, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray


class Loaded(NamedTuple):
    """A net that is to be tested."""

    name: str
    net: Net
    params: Params
    provenance: Provenance


@dataclass(frozen=True)
class Eval:
    """Test a net: eval RUN, or eval WEIGHTS --data FOLDER.

    A protocol says what is averaged for each image:

    - centre: the centre crop alone
    - nine: 9 crops of the centre square (the CIFAR-10 nets of 2012)
    - ten: 10 crops of the centre square (AlexNet §6)
    - multi-crop: 50 crops of the whole image (VGG §3.2)
    - dense: the net slid over the whole image and its mirror image (VGG §3.2)
    - dense+multi-crop: the mean of the last two
    """

    # a run's folder, a file, or OWNER/NAME of the Hugging Face Hub
    weights: tyro.conf.Positional[str]
    data: str = ""  # a folder or a TFDS name; without it, the run's test images
    net: str = ""  # model, such as vgg-d; needed only if several models fit the file
    # what the file's net takes: torch (RGB / 255), caffe (BGR) or rgb (0 to 255);
    # without it, what nets of the file's format take (required for ONNX)
    input: Input | None = None
    protocol: Protocol = "centre"  # what is averaged for each image: see above
    # pixels: short sides to which an image is scaled; the probabilities of all scales
    # are averaged; without it, the size that each net was trained for
    scales: tuple[int, ...] = ()
    # other runs or weights, or files of --save: average their probabilities too
    fuse: tuple[str, ...] = ()
    save: Path | None = None  # .npz file to write: the averaged probabilities, labels
    # draw the confusion matrix and the most certain mistakes: confusion.png and
    # mistakes.png in the run's folder, or in this one for a file of weights
    mistakes: bool = False
    batch: int = 32  # images that are computed together
    skip_bad: bool = False  # leave out damaged images; otherwise they are an error

    def __call__(self) -> None:
        self._check()
        all_devices()  # raises if there are none
        files = [other for other in self.fuse if other.endswith(".npz")]
        saved = {file: _read(Path(file)) for file in files}
        first = weights.load_net(self.weights, self.net, input=self.input)
        others = (_load(other) for other in self.fuse if other not in saved)
        nets = (Loaded(self.weights, *first), *others)
        source, called = self._source(nets[0])
        if source.note:
            print(source.note, file=sys.stderr)
        for loaded in nets:  # before hours of work
            _check_net(loaded, source, self.protocol, self._scales(loaded))
        tests = [self._test(loaded, source) for loaded in nets]
        for file, test in saved.items():
            check_same(file, tests[0], test)
        tests += saved.values()
        fused = np.mean([test.probabilities for test in tests], axis=0)
        labels = tests[0].labels
        if self.mistakes:
            folder = Path(self.weights) if Path(self.weights).is_dir() else Path()
            print(mistakes.draw(source, fused, labels, folder))
        score = evaluate.score_predictions(fused, labels)
        five = fused.shape[1] > 5  # otherwise every image is right
        top5 = f"top-5 error {score.top5:.2f}%  " if five else ""
        print(
            f"{called} loss {score.loss:.4f}  top-1 error {score.top1:.2f}%  {top5}"
            f"({len(fused):,} images of {source.about}; {self.protocol}, "
            f"{_counted(len(tests), 'net')}, {_scales(tests)} pixels)"
        )
        for line in published(tests):
            print(line)
        if self.save:
            model = tests[0].model if len(tests) == 1 else ""
            _write(tests[0]._replace(model=model, probabilities=fused), self.save)

    def _check(self) -> None:
        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: at least 1")
        if self.save and self.save.suffix != ".npz":
            raise InputError(f"--save {self.save}: name an .npz file")
        if self.save and self.save.exists():
            raise InputError(f"--save {self.save}: exists already")
        if self.save:
            check_place(self.save, "--save")

    def _scales(self, loaded: Loaded) -> tuple[int, ...]:
        return self.scales or (loaded.provenance.resize,)

    def _source(self, loaded: Loaded) -> tuple[Source, str]:
        """The images, labelled by the net's classes, and what they are called."""
        if Path(self.weights).is_dir():
            return ready.find_test_images(Path(self.weights), self.data, self.skip_bad)
        if not self.data:
            raise InputError("--data: name the images: a folder or a TFDS name")
        _, net, _, provenance = loaded
        data = Data(self.data, size=provenance.resize, skip_bad=self.skip_bad)
        source = find_source(data, "all")
        names = provenance.classes or weights.class_names(net.classes)
        if provenance.classes or set(source.classes) <= set(names):
            return with_classes(source, names), "test"
        if len(source.classes) != net.classes:
            raise InputError(
                f"{source.about}: {len(source.classes)} classes, and the net has "
                f"{net.classes}, such as {names[0]!r}"
            )
        note = "class names differ from the net's, so output i is class i by name"
        note = f"{source.about}: {note}"
        note = "; ".join(filter(None, (source.note, note)))
        return replace(source, note=note), "test"

    def _test(self, loaded: Loaded, source: Source) -> Outcome:
        """The predictions of one net."""
        name, net, params, provenance = loaded
        scales = self._scales(loaded)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(self.protocol, total=source.count)
            predicted = evaluate.predict_pictures(
                net,
                params,
                source,
                self.protocol,
                scales,
                weights.mean_of_crop(provenance),
                _resize(provenance, self.protocol),
                self.batch,
                lambda count: progress.advance(task, count),
            )
        compiled = _counted(predicted.programs, "program")
        print(f"{name}: {compiled} for images of these shapes", file=sys.stderr)
        return Outcome(
            model=model_of(net) or "",
            protocol=self.protocol,
            scales=scales,
            classes=source.classes,
            names=predicted.names,
            labels=predicted.labels,
            probabilities=predicted.probabilities,
        )


def _load(other: str) -> Loaded:
    try:
        return Loaded(other, *weights.load_net(other))
    except InputError as error:
        raise InputError(f"--fuse {error}") from None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _scales(tests: Sequence[Outcome]) -> str:
    """The scales of the tests, as in "256 384 or 512"."""
    return " or ".join(dict.fromkeys(" ".join(map(str, t.scales)) for t in tests))


def _check_net(
    loaded: Loaded, source: Source, protocol: Protocol, scales: Sequence[int]
) -> None:
    """InputError for a net without classifier or with other classes than the images,
    and for scales that do not suit it."""
    name, net, params, provenance = loaded
    if params.keys() != net.param_shapes().keys():
        raise InputError(f"{name}: has no classifier; `features` needs none")
    classes = provenance.classes or source.classes
    if classes != source.classes or net.classes != len(classes):
        raise InputError(f"--fuse {name}: a net of other classes")
    for scale in scales:
        if scale < net.image_size or scale**2 > MAX_PIXELS:
            raise InputError(
                f"--scales {scale}: from {net.image_size}, the side of the net's "
                f"images, to {math.isqrt(MAX_PIXELS)}"
            )
        if scale == net.image_size and protocol in ("nine", "ten"):
            raise InputError(
                f"--protocol {protocol}: at a scale of {scale} all crops are the same; "
                f"use --scales {scale * 5 // 4}"
            )
    if "dense" in protocol:
        protocols.cost(net, protocol, min(scales), min(scales))  # raises if it cannot


def _resize(provenance: Provenance, protocol: Protocol) -> Resize:
    """How an image is scaled for a protocol, with the method of the weights."""

    def resize(image: np.ndarray, size: int) -> np.ndarray:
        scaled = replace(provenance, resize=size)
        if protocol == "centre":
            return weights.crop(image, scaled)
        if protocol in ("nine", "ten"):
            return weights.crop(image, replace(scaled, crop=size))
        return weights.resized(image, scaled)

    return resize


def published(tests: Sequence[Outcome]) -> list[str]:
    """The rows of both papers for ImageNet's nets of these names, tested this way."""
    how = {(test.protocol, test.scales, len(test.classes)) for test in tests}
    if len(how) > 1 or len(tests[0].classes) != 1000:
        return []
    protocol, q = tests[0].protocol, " ".join(map(str, tests[0].scales))
    models = sorted(test.model for test in tests)
    rows: list[tuple[str, str]] = []
    if len(models) == 1 and models[0].startswith("vgg-"):
        column = models[0].removeprefix("vgg-").upper()
        tag = "VGG Table 3" if len(tests[0].scales) == 1 else "VGG Table 4"
        if protocol == "dense":
            known = {key.rsplit(", ", 1)[0] for key in paper.claim(tag).published}
            rows = [
                (tag, row)
                for row in sorted(known)
                if row.startswith(f"{column}, S ") and row.endswith(f", Q {q}")
            ]
        if q == THREE_SCALES and column in "DE" and protocol in TABLE5:
            rows.append(("VGG Table 5", f"{column}, {TABLE5[protocol]}"))
    elif models == ["vgg-d", "vgg-e"] and q == THREE_SCALES and protocol in TABLE5:
        rows = [("VGG Table 6", f"D and E, {TABLE5[protocol]}")]
    elif set(models) <= {"alexnet-paper", "alexnet-source"} and q == "256":
        if len(models) == 1 and protocol in TEN_CROPS:
            rows.append(("AlexNet §6 ten crops", TEN_CROPS[protocol]))
        if protocol == "ten" and len(models) in (1, 5):
            row = "1 CNN" if len(models) == 1 else "5 CNNs"
            rows.append(("AlexNet Table 2", row))
    return [_row(tag, name) for tag, name in rows]


def _row(tag: str, name: str) -> str:
    figures = paper.claim(tag).published.items()
    cells = [
        f"{key.removeprefix(f'{name}, ')} error {figure}"
        for key, figure in figures
        if key.startswith(f"{name}, ")
    ]
    return f"published, {tag}, {name}: {', '.join(cells)}"


def _write(tested: Outcome, path: Path) -> None:
    content = io.BytesIO()
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in tested._asdict().items()}
    np.savez(content, **arrays)
    write_bytes(content.getvalue(), path)
    print(f"wrote {path}")


def _read(path: Path) -> Outcome:
    """A file of `--save`. InputError for another file."""
    try:
        file = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        arrays = {name: file[name] for name in Outcome._fields}
        return Outcome(
            model=str(arrays["model"]),
            protocol=str(arrays["protocol"]),
            scales=tuple(arrays["scales"].tolist()),
            classes=tuple(arrays["classes"].tolist()),
            names=tuple(arrays["names"].tolist()),
            labels=arrays["labels"],
            probabilities=arrays["probabilities"],
        )
    except OSError as error:
        raise InputError(f"--fuse {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile):
        raise InputError(f"--fuse {path}: not a file of --save") from None


def check_same(other: str, one: Outcome, two: Outcome) -> None:
    """InputError unless two nets were tested on the same images and classes."""
    for what, ours, theirs in (
        ("classes", one.classes, two.classes),
        ("images", _below_root(one.names), _below_root(two.names)),
        ("labels", one.labels, two.labels),
    ):
        if not np.array_equal(ours, theirs):
            raise InputError(f"--fuse {other}: of other {what} than the first net's")
    p = two.probabilities
    if one.probabilities.shape != p.shape or not np.allclose(p.sum(axis=1), 1, 0, 1e-3):
        raise InputError(f"--fuse {other}: not a file of --save")


def _below_root(names: Sequence[str]) -> list[str]:
    """Names without the folder that all share: it can be moved."""
    start = os.path.commonprefix(names).rfind("/") + 1
    return [name[start:] for name in names]
