"""AlexNet and VGG on the command line: train, test, look inside, report."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin

import jax
import tyro
from rich.console import Console

from alexvgg_jax import ledger, loop, memory, report
from alexvgg_jax.config import RECIPES, Mesh, Run, Switches
from alexvgg_jax.errors import InputError, Stopped, one_line, short_usage
from alexvgg_jax.mesh import all_devices, join_hosts, make_mesh
from alexvgg_jax.models import build, summary

PAIRS = tyro.constructors.ConstructorRegistry()


@PAIRS.primitive_rule
def _pairs(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Mappings as NAME VALUE NAME VALUE ..., in place of all that a recipe has."""
    if get_origin(info.type) is not Mapping:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME VALUE ...]",
        instance_from_str=partial(_from_words, numbers=float in get_args(info.type)),
        is_instance=lambda found: isinstance(found, Mapping),
        str_from_instance=lambda pairs: [
            str(w) for pair in pairs.items() for w in pair
        ],
    )


def _from_words(words: list[str], numbers: bool) -> dict[str, Any]:
    if len(words) % 2:
        raise ValueError(f"{words[-1]} needs a value")
    value = float if numbers else _value
    return {
        name: value(text) for name, text in zip(words[::2], words[1::2], strict=True)
    }


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


Recipe = Annotated[
    tyro.extras.subcommand_type_from_defaults(
        {name: run for name, (_, run) in RECIPES.items()},
        {name: about for name, (about, _) in RECIPES.items()},
    ),
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class Train:
    """Train a network: train RECIPE, whose options change it."""

    recipe: Recipe
    out: Path | None = None  # folder of the run (default: runs/MODEL-DATA)
    resume: bool = False  # go on from the newest checkpoint in that folder
    coordinator: str = ""  # host:port of the first of more hosts, if none tells us
    hosts: int = 0  # how many there are
    host: int = -1  # which of them this is, from 0

    def __call__(self) -> None:
        if self.coordinator and self.hosts > 1:
            others = f"{self.hosts} hosts to meet at {self.coordinator}"
            print(f"waiting for {others}", file=sys.stderr, flush=True)
        join_hosts(self.coordinator, self.hosts, self.host)
        run: Run = self.recipe
        name = f"{run.model.name}-{Path(run.data.name).name}"
        folder = self.out or Path("runs") / name
        try:
            all_devices()
            if (hosts := jax.process_count()) > 1:
                end = "if one dies, all end, and --resume goes on from the last "
                end += "checkpoint"
                print(f"host {jax.process_index()} of {hosts}: {end}", file=sys.stderr)
            with _out_of_memory():
                trained = loop.train(run, folder, resume=self.resume)
        except Stopped:
            raise  # all hosts together
        except BaseException as error:
            if not jax.distributed.is_initialized():
                raise
            _end_alone(error)
        if (epochs := len(trained.history)) > run.epochs:
            raise InputError(f"--epochs {run.epochs}: {folder} has {epochs} already")
        print(f"checkpoints and metrics are in {folder}")


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    """Of a step that is too large, say what makes it smaller."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not (first := str(error).splitlines()[0]).startswith("RESOURCE_EXHAUSTED"):
            raise
        less = "a smaller --batch, --accumulate or --model.remat take less"
        raise InputError(f"{first}: {less}") from None


OF_ANOTHER_HOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "Socket closed")


def _end_alone(error: BaseException) -> NoReturn:
    """End one of several hosts: an orderly end would wait for the others, and they for
    it."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif not isinstance(error, InputError | OSError | jax.errors.JaxRuntimeError):
        message = traceback.format_exc()
    elif any(word in reason for word in OF_ANOTHER_HOST):
        message = f"another host has died ({reason}); --resume goes on from the last "
        message += "checkpoint"
    else:
        message = f"error: {reason}"
    print(message, file=sys.stderr, flush=True)
    index = 0
    with contextlib.suppress(RuntimeError, AssertionError):  # where it has no devices
        index = jax.process_index()
    if index == 0:
        time.sleep(2)  # jax ends the others with it: let them say what they have to
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)


@dataclass(frozen=True)
class Eval:
    """Test the newest checkpoint of a run: eval FOLDER."""

    folder: tyro.conf.Positional[Path]  # that `train` wrote

    def __call__(self) -> None:
        work, params = loop.restored(self.folder)
        errors = loop.test(work, params)
        print(
            f"{work.run.data.tested} loss {errors.loss:.4f}  "
            f"top-1 error {errors.top1:.2f}%  top-5 error {errors.top5:.2f}%"
        )


@dataclass(frozen=True)
class Summary:
    """Print what a network costs, layer by layer: summary MODEL."""

    model: tyro.conf.Positional[str]  # such as vgg-d; a wrong name prints all names
    classes: int = 0  # 0 for the paper's
    image_size: int = 0  # height and width in pixels, 0 for the paper's
    switches: Switches = field(default_factory=dict)  # such as head gap
    over: int = 0  # pixels of a larger image, over which a dense or gap head slides
    train: bool = False  # the memory of a training step instead, as the compiler has it
    batch: int | None = None  # images of that step (default: 128)

    def __call__(self) -> None:
        given = {"classes": self.classes, "image_size": self.image_size}
        sizes = {name: n for name, n in given.items() if n}
        switches: dict[str, Any] = sizes | dict(self.switches)
        if "remat" in self.switches:
            raise InputError("--switches remat: --train shows the net with and without")
        if self.batch is not None and not self.train:
            raise InputError("--batch: only with --train")
        net = build(self.model, **switches)
        net = net.over(self.over) if self.over else net
        if self.train:
            with Console(stderr=True).status("compiling"):
                batch = 128 if self.batch is None else self.batch
                table = memory.table(net, batch)
        else:
            table = summary.table(net)
        Console().print(table)


@dataclass(frozen=True)
class Ledger:
    """Print what a training step communicates: ledger RECIPE, with --mesh options.

    The step is compiled for as many CPUs, of which this machine needs only one.
    """

    recipe: Recipe

    def __call__(self) -> None:
        run: Run = self.recipe
        if run.accumulate != 1:
            raise InputError("--accumulate: the ledger is that of a whole batch")
        devices = run.mesh.devices or max(2, run.mesh.classifier)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        net, size = loop.net_of(run, {}), run.data.size
        for given in dict.fromkeys((replace(run.mesh, devices=devices), Mesh(devices))):
            mesh, zero = make_mesh(given), given.zero
            with Console(stderr=True).status("compiling"):
                step = ledger.compiled(net, run.batch, mesh, run.augment, size, zero)
            found = ledger.read(step, net)
            Console().print(ledger.table(net, run.batch, mesh, found))


@dataclass(frozen=True)
class Filters:
    """Draw the first layer's kernels of a run (AlexNet figure 3): filters FOLDER."""

    folder: tyro.conf.Positional[Path]  # that `train` wrote
    out: Path = Path("filters.png")  # the picture

    def __call__(self) -> None:
        kernel, towers = loop.first_kernel(self.folder)
        try:
            report.draw_filters(kernel, towers, self.out)
        except ValueError as error:
            raise InputError(f"--out {self.out}: {error}") from None
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class Report:
    """Render every claim, published and ours, from the experiments' JSON files."""

    results: Path = Path("experiments/results")  # folder of the JSON files and plots
    out: Path = Path("experiments/README.md")  # the page

    def __call__(self) -> None:
        if not self.results.is_dir():
            raise InputError(f"--results {self.results}: no such folder")
        results = report.read_all(self.results)
        folder = Path(os.path.relpath(self.results, self.out.parent)).as_posix()
        drawn = report.pictures(results, self.results)
        report.write_text(report.page(results, folder, drawn), self.out)
        print(f"wrote {self.out}")


def main() -> None:
    with short_usage():
        command = tyro.extras.subcommand_cli_from_dict(
            {
                "train": Train,
                "eval": Eval,
                "summary": Summary,
                "ledger": Ledger,
                "filters": Filters,
                "report": Report,
            },
            prog="python -m alexvgg_jax",
            description=__doc__,
            config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
            registry=PAIRS,
        )
    command()


if __name__ == "__main__":
    with one_line():
        main()
