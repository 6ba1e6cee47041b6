"""AlexNet and VGG on the command line: train, test, predict, look inside."""

import os
import signal
import sys
import warnings

if __name__ == "__main__":  # Ctrl-C while the rest is imported

    def _end(*_: object) -> None:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from alexvgg_jax import ledger, loop, memory, plots, ready
from alexvgg_jax import run as run_folder
from alexvgg_jax.commands.convert import Convert
from alexvgg_jax.commands.eval import Eval
from alexvgg_jax.commands.features import Features
from alexvgg_jax.commands.predict import Predict
from alexvgg_jax.commands.prepare import Prepare
from alexvgg_jax.config import Data, Mesh, Run
from alexvgg_jax.data.decode import BadImages
from alexvgg_jax.data.records import damaged
from alexvgg_jax.data.sources import check_classes, find_source, folder_of
from alexvgg_jax.errors import Diverged, InputError, Stopped, one_line
from alexvgg_jax.hosts import end_process, join_hosts
from alexvgg_jax.models import MODELS, Net, summary, usual
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.sharding import all_devices, make_mesh

Recipe = Annotated[
    tyro.extras.subcommand_type_from_defaults(
        {name: recipe.run for name, recipe in RECIPES.items()},
        {name: recipe.about for name, recipe in RECIPES.items()},
    ),
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class Train:
    """Train a network: train RECIPE, whose options change it."""

    recipe: Recipe
    out: Path | None = None  # folder of the run; without it, runs/NAME-DATA
    # continue from the newest checkpoint in the run's folder, or start if it has none
    resume: bool = False
    change: bool = False  # with --resume: --optim and --augment can differ from before
    # HOST:PORT of the first host, with --hosts and --host; without it, jax detects it
    coordinator: str = ""
    hosts: int = 0  # number of hosts that train together; 0: jax detects it
    host: int = -1  # number of this host, from 0; -1: jax detects it

    def __call__(self) -> None:
        if self.coordinator and self.hosts > 1:
            others = f"{self.hosts} hosts to meet at {self.coordinator}"
            print(f"waiting for {others}", file=sys.stderr, flush=True)
        join_hosts(self.coordinator, self.hosts, self.host)
        run: Run = self.recipe
        name = f"{run.name}-{Path(run.data.name).name}"
        folder = self.out or Path("runs") / name
        try:
            trained = _train(run, folder, self.resume, self.change)
        except Diverged:
            raise
        except Stopped as end:  # all hosts stop together
            how = "--resume continues from it"
            raise Stopped(f"{end}; {how}", end.exit_code) from None
        except BaseException as error:
            if not jax.distributed.is_initialized():
                raise
            end_process(error)
        if (epochs := len(trained.history)) > run.epochs:
            raise InputError(f"--epochs {run.epochs}: {folder} has {epochs} already")
        print(f"checkpoints and metrics are in {folder}")


def _train(run: Run, folder: Path, resume: bool, change: bool) -> loop.Trained:
    """Train; if memory runs out, suggest what needs less."""
    all_devices()
    if (hosts := jax.process_count()) > 1:
        print(
            f"host {jax.process_index()} of {hosts}: if one dies, all end, and "
            "--resume continues from the last checkpoint",
            file=sys.stderr,
        )
    try:
        return loop.train(run, folder, resume=resume, change=change)
    except jax.errors.JaxRuntimeError as error:
        if not (first := str(error).splitlines()[0]).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise InputError(
            f"{first}: lower --batch, raise --accumulate, or set --net.remat"
        ) from None


@dataclass(frozen=True)
class Check:
    """Find all damaged images of a set, before training: check FOLDER."""

    # a folder with a folder for each class, or another set that `train` takes
    data: tyro.conf.Positional[str]
    # pixels: every image is scaled and cut to this side, as by --data.size of train
    size: int = 32

    def __call__(self) -> None:
        if self.size < 1:
            raise InputError(f"--size {self.size}: at least 1")
        count, problems, console = 0, set[str](), Console(stderr=True)

        def report(*lines: str) -> None:
            for line in lines:
                if line not in problems:
                    print(line)
                problems.add(line)

        for split in ("train", "test"):
            try:
                source = find_source(Data(self.data, self.size), split)
            except InputError as error:
                report(str(error).removeprefix("--data "))
                continue
            if source.note:
                print(source.note)
            numbers = np.arange(source.count)
            parts = np.array_split(numbers, -(-source.count // 256))
            for part in track(parts, split, console=console, transient=True):
                try:
                    source.fetch(part)
                except BadImages as bad:
                    report(*map(str, bad.errors))
                except InputError as error:  # a damaged file of records
                    report(str(error).removeprefix("--data "))
            count += source.count
            if split == "train":
                try:
                    check_classes(source, count=not problems)
                except InputError as error:
                    report(str(error))
        root = folder_of(self.data)
        with console.status("comparing digests"):
            report(*(damaged(root) if root else ()))
        counted = f"{len(problems):,} problem{'s' * (len(problems) != 1)}"
        print(f"{self.data}: {count:,} images, {counted}")
        if problems:
            sys.exit(1)


def _flagged(error: InputError, part: str = "") -> InputError:
    """The error of a net's switch with the flag that sets it."""
    switch, _, rest = str(error).partition(" ")
    return InputError(f"--{part}{switch.replace('_', '-')} {rest}")


@dataclass(frozen=True)
class NamedNet:
    """A network and its switches."""

    name: Annotated[str, tyro.conf.Suppress]
    net: Net


Model = Annotated[
    tyro.extras.subcommand_type_from_defaults(
        {name: NamedNet(name, net) for name, net in MODELS.items()}
    ),
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class Summary:
    """Print what a network costs, layer by layer: summary MODEL."""

    model: Model
    classes: int = 0  # number of classes; 0: the model's own
    image_size: int = 0  # pixels: side of the images; 0: the model's own
    # pixels: side of a larger image, over which a dense or gap head slides; 0: none
    over: int = 0
    train: bool = False  # print the memory of a training step, not the layers
    batch: int | None = None  # with --train: images in the step; without it, 128

    def __call__(self) -> None:
        name, net = self.model.name, self.model.net
        if self.batch is not None and not self.train:
            raise InputError("--batch: only with --train")
        classes, size = self.classes or net.classes, self.image_size or net.image_size
        try:
            net = replace(net, classes=classes, image_size=size)
        except InputError as error:
            raise _flagged(error) from None
        net.shapes()  # raises if the image is too small
        if self.train:
            with Console(stderr=True).status("compiling"):
                batch = 128 if self.batch is None else self.batch
                table = memory.table(name, net, batch)
        else:
            table = summary.table(name, net, self.over or None)
        Console().print(table)


@dataclass(frozen=True)
class Ledger:
    """Print what a training step communicates: ledger RECIPE, with --mesh options.

    The step is compiled for that many CPU devices; the machine needs only one.
    """

    recipe: Recipe

    def __call__(self) -> None:
        run: Run = self.recipe
        if run.accumulate != 1:
            raise InputError("--accumulate: the ledger shows a step with all images")
        devices = run.mesh.devices or max(2, run.mesh.classifier)
        net, name = run_folder.net_of(run), run.name
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        split = replace(run.mesh, devices=devices)
        for options in dict.fromkeys((split, Mesh(devices))):
            mesh = make_mesh(options)
            with Console(stderr=True).status("compiling"):
                step = ledger.compiled(
                    net, run.batch, mesh, run.augment, run.data.size, options.zero
                )
            entries = ledger.read(step.as_text() or "", net)
            Console().print(ledger.table(name, net, run.batch, mesh, entries))


@dataclass(frozen=True)
class Filters:
    """Draw the first layer's kernels of a run (AlexNet figure 3): filters RUN."""

    run: tyro.conf.Positional[Path]  # folder that `train` wrote
    out: Path = Path("filters.png")  # picture to write

    def __call__(self) -> None:
        kernel, towers = ready.first_kernel(self.run)
        try:
            plots.draw_filters(kernel, towers, self.out)
        except ValueError as error:
            raise InputError(f"--out {self.out}: {error}") from None
        print(f"wrote {self.out}")


COMMANDS: dict[str, Callable] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "features": Features,
    "convert": Convert,
    "check": Check,
    "prepare": Prepare,
    "summary": Summary,
    "ledger": Ledger,
    "filters": Filters,
}


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command of a command line. Raises InputError for a setting that is out of its
    bounds, and SystemExit for words that it does not know."""
    try:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="python -m alexvgg_jax",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
    except SystemExit as end:
        for word in arguments if end.code else ():
            if hint := usual(word):
                print(f"{word}: {hint}", file=sys.stderr)
        raise
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise _flagged(error, "net.") from None


def main(arguments: Sequence[str]) -> None:
    """Run a command line.

    It ignores JAX_TRANSFER_GUARD, which would forbid even making a random key. Training
    guards its own steps. It shows no warnings of Pillow, which do not name the picture:
    one that is damaged is named where it is skipped. OpenCV's are silent for the same
    reason.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with one_line(), jax.transfer_guard("allow"):
        parse(arguments)()


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is _end:  # pyrefly: ignore[unbound-name]
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1:])
