"""The command `predict`."""

import csv
import io
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexvgg_jax import evaluate, ready, weights
from alexvgg_jax.augment import Statistics, Views
from alexvgg_jax.config import Augment, Data, Mesh, Optim, Run
from alexvgg_jax.data.decode import ToSquare, fit
from alexvgg_jax.data.folder import image_files
from alexvgg_jax.errors import InputError, printable
from alexvgg_jax.files import check_place, write_text
from alexvgg_jax.models import Net, Params
from alexvgg_jax.run import Images
from alexvgg_jax.sharding import all_devices, everywhere, make_mesh
from alexvgg_jax.weights import Input, Provenance

BATCH = 32


@dataclass(frozen=True)
class Predict:
    """Classify pictures: predict photo.jpg FOLDER ... --weights WEIGHTS.

    WEIGHTS is a run's folder, a file of weights, or OWNER/NAME of the Hugging Face Hub.
    `predict RUN photo.jpg ...` is the same as `predict photo.jpg ... --weights RUN`.
    """

    # files, or folders of them
    pictures: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURE ...")
    ]
    # a run's folder, a file, or OWNER/NAME of the Hugging Face Hub; without it, the
    # first path of the command line
    weights: str = ""
    net: str = ""  # model, such as vgg-d; needed only if several models fit the file
    # what the file's net takes: torch (RGB / 255), caffe (BGR) or rgb (0 to 255);
    # without it, what nets of the file's format take (required for ONNX)
    input: Input | None = None
    csv: Path | None = None  # file to which file, rank, class, probability are written
    # number of crops to average: 1 (the centre), 9, 10 (AlexNet §6) or 50 (VGG §3.2)
    views: Views = 1

    def __call__(self) -> None:
        weights, pictures = self.weights, self.pictures
        if not weights and len(pictures) > 1:
            weights, *pictures = pictures
        if not weights or not pictures:
            both = "predict WEIGHTS photo.jpg, or predict photo.jpg --weights WEIGHTS"
            raise InputError(f"name both weights and pictures: {both}")
        files = _files([Path(path) for path in pictures])
        if not files:
            raise InputError(f"no images in {' '.join(pictures)}")
        if self.csv:
            check_place(self.csv, "--csv")
        if Path(weights).is_dir():
            if self.net or self.input:
                flag = "--net" if self.net else "--input"
                why = "a run has its own net and input"
                raise InputError(f"{flag}: not with {weights}: {why}")
            (setup, params), to_square = ready.load(Path(weights)), fit
        else:
            setup, params, to_square = self._from_file(weights)
        predictions = evaluate.classify(setup, params, files, self.views, to_square)
        console = Console(stderr=True)
        best: list[tuple[Path, list[tuple[str, float]]]] = []
        failed = 0
        for file, output in track(
            predictions, "predicting", len(files), console=console, transient=True
        ):
            if isinstance(output, Exception):
                failed += 1
                console.print(f"skipped: {output}", soft_wrap=True, highlight=False)
                continue
            order = np.argsort(-output, kind="stable")[:5]
            classes = setup.images.classes
            best.append((file, [(classes[i], float(output[i])) for i in order]))
        if best:
            Console().print(_table(best))
        if self.csv:
            write_text(_csv(best), self.csv)
        if failed:
            sys.exit(1)

    def _from_file(self, file: str) -> tuple[ready.Setup, Params, ToSquare]:
        """A file's net, its parameters, and how it resizes pictures."""
        net, params, provenance = weights.load_net(file, self.net, input=self.input)
        if params.keys() != net.param_shapes().keys():
            raise InputError(f"{file}: has no classifier; `features` needs none")
        setup = _setup(net, provenance, self.views)
        to_square = partial(_to_square, provenance=provenance)
        return setup, everywhere(params, setup.mesh), to_square


def _files(paths: list[Path]) -> list[Path]:
    """The pictures in all paths. One that does not exist is a picture that will be
    skipped. InputError if none exists."""
    some = any(path.exists() for path in paths)
    parts = [image_files(p) if p.exists() or not some else [p] for p in paths]
    return [file for part in parts for file in part]


def _to_square(image: np.ndarray, size: int, provenance: Provenance) -> np.ndarray:
    return weights.crop(image, replace(provenance, crop=size))


def _setup(net: Net, provenance: Provenance, views: Views) -> ready.Setup:
    """The setup of a run whose images have this provenance. One view is exactly
    `weights.preprocess`; more are crops of the resized image."""
    crop, mean = provenance.crop, provenance.mean.astype(np.float32)
    several = views > 1
    run = Run(
        name="weights",
        data=Data("", size=provenance.resize if several else crop),
        augment=Augment(
            crop=crop if several else 0, mean="pixel" if mean.ndim == 3 else "channel"
        ),
        net=net,
        optim=Optim(),
        batch=-(-BATCH // len(all_devices())) * len(all_devices()),
    )
    classes = provenance.classes or weights.class_names(net.classes)
    mesh = make_mesh(Mesh())
    net, steps = ready.compile_run(run, net.classes, mesh)
    stats = Statistics(
        jnp.asarray(mean if mean.ndim == 3 else mean[None, None]), jnp.zeros((3, 3))
    )
    images = Images("", tuple(classes), 0, 0, "")
    return ready.Setup(run, images, net, mesh, steps, everywhere(stats, mesh))


def _table(best: list[tuple[Path, list[tuple[str, float]]]]) -> Table:
    table = Table("picture", "class", "probability")
    table.columns[0].overflow = "fold"
    for file, classes in best:
        for name, probability in classes:
            picture = printable(str(file)) if name == classes[0][0] else ""
            table.add_row(picture, name, f"{100 * probability:.1f}%")
        table.add_section()
    return table


def _csv(best: list[tuple[Path, list[tuple[str, float]]]]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("file", "rank", "class", "probability"))
    for file, classes in best:
        for rank, (name, probability) in enumerate(classes, 1):
            lines.writerow((printable(str(file)), rank, name, f"{probability:.6f}"))
    return text.getvalue()
