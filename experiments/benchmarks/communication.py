"""AlexNet §3.2 and One weird trick: the bytes that devices exchange in a training step.

"The GPUs communicate only in certain layers": the first study trains AlexNet on two
devices, once as its two towers and once with the batch split over the devices. The
second study splits the fully-connected layers over groups of 1, 4 and 8 devices (One
weird trick), on 8, 64 and 512 devices.

No step runs. Each is compiled for that number of CPU devices, which needs only one CPU.
`alexvgg_jax/ledger.py` counts the bytes that a device receives in the compiled program,
and the least that the net needs.

    python experiments/benchmarks/communication.py      # five minutes on two cores
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from _records import OUT, Result, origin, table, write
from rich.console import Console
from rich.progress import track

from alexvgg_jax import ledger, plots
from alexvgg_jax.config import Mesh
from alexvgg_jax.errors import one_line
from alexvgg_jax.models import Net, build
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.sharding import make_mesh

PAPER = RECIPES["alexnet-paper"].run
SPLITS = {"batch split": Mesh(devices=2), "two towers": Mesh(devices=2, towers=True)}
IMAGES = {"alexnet-owt": 128, "vgg-d": 32}  # on each device
GPU_HEIGHTS = {1: 1.0, 2: 0.0}  # GPU -> where the plot draws its tower


@dataclass(frozen=True)
class Options:
    # whose fully-connected layers are shared
    nets: tuple[Literal["alexnet-owt", "vgg-d"], ...] = ("alexnet-owt", "vgg-d")
    devices: tuple[int, ...] = (8, 64, 512)  # that train these nets
    groups: tuple[int, ...] = (1, 4, 8)  # devices that share the fully-connected layers
    out: Path = OUT  # folder for communication.json, its tables and its plot


Entries = list[dict[str, Any]]  # layer, backward, bytes (received), least (needed)


def exchanged(net: Net, batch: int, split: Mesh) -> Entries:
    """What one device receives in a step, for each layer and pass."""
    mesh = make_mesh(split)
    step = ledger.compiled(net, batch, mesh, PAPER.augment, PAPER.data.size)
    received = ledger.read(step.as_text() or "", net)
    entries = [e._asdict() | {"bytes": n, "least": 0} for e, n in received.items()]
    for (layer, backward), n in ledger.least(net, batch, mesh).items():
        entries.append({"layer": layer, "backward": backward, "bytes": 0, "least": n})
    return entries


def megabytes(entries: Entries, kind: str = "bytes", **where: Any) -> float:
    """The sum over the entries of one layer or pass."""
    selected = (e for e in entries if all(e[key] == where[key] for key in where))
    return sum(entry[kind] for entry in selected) / 1e6


def page(result: Result) -> str:
    batch_split, towers = (result["towers"][name] for name in SPLITS)

    def cells(**where: Any) -> list[str]:
        sums = megabytes(batch_split, **where), megabytes(towers, **where)
        return [f"{n:,.2f}" for n in (*sums, megabytes(towers, "least", **where))]

    rows = [
        [f"{direction}, {layer}", *cells(layer=layer, backward=backward)]
        for direction, backward in (("forward", False), ("backward", True))
        for layer in PAPER.net.param_shapes()
    ]
    title = f"alexnet-paper on two devices, {result['batch']} images a step: "
    title += "MB that a device receives"
    headings = ("", *SPLITS, "two towers need")
    of_towers = table(title, headings, [*rows, ["step", *cells()]])

    rows, groups = [], {}
    for net, by_devices in result["classifier"].items():
        for devices, groups in by_devices.items():
            sums = [(megabytes(e), megabytes(e, "least")) for e in groups.values()]
            cells_of_groups = [f"{n:,.1f} ({least:,.1f})" for n, least in sums]
            images = str(result["images"][net])
            rows.append([net, images, devices, *cells_of_groups])
    shared = ["not shared" if g == "1" else f"shared by {g}" for g in groups]
    headings = ("net", "images\na device", "devices", *shared)
    title = "fully-connected layers shared by devices: MB that a device receives"
    return f"{of_towers}\n{table(f'{title} (and needs)', headings, rows)}"


def draw(result: Result, path: Path) -> None:
    """Draw both towers, an arrow for each layer's input, and the bytes that cross."""
    entries, shapes = result["towers"]["two towers"], PAPER.net.shapes()
    layers = list(PAPER.net.param_shapes())
    figure = plots.new_figure(9.0, 2.6)
    axes = figure.subplots()
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    for gpu, y in GPU_HEIGHTS.items():
        axes.text(0, y, f"image\nGPU {gpu}", fontsize=8, **centred)
    for x, layer in enumerate(layers, start=1):
        *pixels, maps = shapes[layer]
        own = maps if layer == layers[-1] else maps // 2  # the logits are summed
        label = f"{layer}\n{'x'.join(map(str, [*pixels, own]))}"
        forward, backward = (
            megabytes(entries, layer=layer, backward=b) for b in (False, True)
        )
        for gpu, y in GPU_HEIGHTS.items():
            box = {"boxstyle": "round", "fc": f"C{gpu - 1}", "alpha": 0.25}
            axes.text(x, y, label, fontsize=7, bbox=box, **centred)
            _arrow(axes, (x - 1, y), (x, y), "black")
            if forward:
                _arrow(axes, (x - 1, y), (x, 1 - y), "C3")
        if forward:
            box = {"fc": "white", "ec": "none", "pad": 1}
            label = f"{forward:.1f} MB\n{backward:.1f} back"
            axes.text(x - 0.5, 0.5, label, fontsize=8, color="C3", bbox=box, **centred)
    axes.set(xlim=(-0.5, len(layers) + 0.5), ylim=(-0.2, 1.2))
    axes.set_axis_off()
    towers, split = megabytes(entries), megabytes(result["towers"]["batch split"])
    title = (
        f"AlexNet in two towers, {result['batch']} images a step: each GPU receives "
    )
    title += f"{towers:.1f} MB. If the GPUs split the batch, it is {split:.0f} MB."
    axes.set_title(title, fontsize=9)
    plots.write_figure(figure, path)


def _arrow(axes: Any, start: tuple, end: tuple, colour: str) -> None:
    style = {"arrowstyle": "-|>", "shrinkA": 27, "shrinkB": 27, "color": colour}
    axes.annotate("", end, start, arrowprops=style)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(2, *options.devices))
    result = origin("communication") | {
        "batch": PAPER.batch,
        "images": {net: IMAGES[net] for net in options.nets},
        "towers": {
            name: exchanged(PAPER.net, PAPER.batch, split)
            for name, split in SPLITS.items()
        },
        "classifier": {net: {} for net in options.nets},
    }
    jobs = [(net, count) for net in options.nets for count in options.devices]
    for name, count in track(jobs, "compiling", console=Console(stderr=True)):
        net, batch = build(name), IMAGES[name] * count
        result["classifier"][name][str(count)] = {
            str(group): exchanged(net, batch, Mesh(devices=count, classifier=group))
            for group in options.groups
        }
    write(result, page(result), options.out)
    draw(result, options.out / "communication.png")


if __name__ == "__main__":
    with one_line():
        main()
