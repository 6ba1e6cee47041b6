"""AlexNet §3.2 and One weird trick: what devices tell each other in a training step.

"The GPUs communicate only in certain layers": the paper's net in its two towers on two
devices, against the same net with its batch split over them. And the fully-connected
layers split over a group of devices (One weird trick), against whole ones, for 8, 64
and 512 devices.

The steps are compiled for as many CPUs, of which this machine needs only one, and not
run: every collective of the compiled program is counted, in bytes that a device
receives, beside what the net needs at least (`alexvgg_jax/ledger.py`).

    python experiments/communication.py      # five minutes on two cores
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexvgg_jax import ledger, report
from alexvgg_jax.config import Augment, Mesh
from alexvgg_jax.errors import InputError, one_line, short_usage
from alexvgg_jax.mesh import make_mesh
from alexvgg_jax.models import Model, build

AUGMENT, SIZE = Augment(crop=224, mirror=True, colour=0.1), 256
SPLITS = {"batch split": Mesh(devices=2), "two towers": Mesh(devices=2, towers=True)}
MEGABYTE = 1e6
TOWERS = {1: 1.0, 2: 0.0}  # GPU -> where its row is drawn


@dataclass(frozen=True)
class Options:
    batch: int = 128  # images a step of AlexNet in its towers (AlexNet §5)
    nets: tuple[str, ...] = ("alexnet-owt", "vgg-d")  # whose classifier is split
    images: tuple[int, ...] = (128, 32)  # of each of them, on each device
    devices: tuple[int, ...] = (8, 64, 512)  # that train those nets
    groups: tuple[int, ...] = (1, 4, 8)  # devices that share a classifier
    out: Path = Path("results")  # folder for communication.json, table and picture


def counted(net: Model, batch: int, given: Mesh) -> list[dict[str, Any]]:
    """A row for each layer and pass: bytes that a device receives, and must."""
    mesh = make_mesh(given)
    found = ledger.read(ledger.compiled(net, batch, mesh, AUGMENT, SIZE), net)
    needed = ledger.least(net, batch, mesh)
    rows = [
        entry._asdict() | {"bytes": count, "least": 0} for entry, count in found.items()
    ]
    for (layer, backward), least in needed.items():
        rows.append({"layer": layer, "backward": backward, "bytes": 0, "least": least})
    return rows


def total(rows: list[dict[str, Any]], figure: str = "bytes", **where: Any) -> int:
    """The sum of the rows in which every `where` is so."""
    return sum(
        row[figure]
        for row in rows
        if all(row.get(name) == value for name, value in where.items())
    )


def towers_table(result: Mapping[str, Any]) -> Table:
    drawn = Table(
        title=f"alexnet-paper on two devices, {result['batch']} images a step: "
        "MB that a device receives"
    )
    drawn.add_column("")
    for heading in ("batch split", "two towers", "two towers need"):
        drawn.add_column(heading, justify="right")
    whole, split = (result["towers"][name] for name in SPLITS)
    layers = [row.name for row in build("alexnet-paper").rows] + [""]
    for backward in (False, True):
        for layer in layers:
            where = {"layer": layer, "backward": backward}
            cells = (total(whole, **where), total(split, **where))
            if any(cells):
                name = layer or "(metrics, others)"
                drawn.add_row(
                    f"{'backward' if backward else 'forward'}, {name}",
                    *(f"{n / MEGABYTE:,.2f}" for n in cells),
                    f"{total(split, 'least', **where) / MEGABYTE:,.2f}",
                )
    drawn.add_section()
    sums = (total(whole), total(split), total(split, "least"))
    drawn.add_row("step", *(f"{n / MEGABYTE:,.2f}" for n in sums))
    return drawn


def classifier_table(result: Mapping[str, Any]) -> Table:
    drawn = Table(
        title="One weird trick: MB that a device receives in a step (least possible)"
    )
    groups = list(next(iter(next(iter(result["classifier"].values())).values())))
    for heading in ("net", "images a device", "devices"):
        drawn.add_column(heading, justify="right" if heading != "net" else "left")
    for group in groups:
        shared = "whole classifier" if group == "1" else f"shared by {group}"
        drawn.add_column(shared, justify="right")
    for net, by_devices in result["classifier"].items():
        for devices, by_group in by_devices.items():
            cells = (
                f"{total(rows) / MEGABYTE:,.1f} "
                f"({total(rows, 'least') / MEGABYTE:,.1f})"
                for rows in by_group.values()
            )
            drawn.add_row(net, str(result["images"][net]), devices, *cells)
        drawn.add_section()
    return drawn


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Both towers, an arrow for each layer's input, and the bytes that cross."""
    from matplotlib.figure import Figure  # 0.5 s to import

    net, rows = build("alexnet-paper"), result["towers"]["two towers"]
    layers = [r.name for r in net.rows if r.name.startswith(("conv", "fc"))]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    for gpu, y in TOWERS.items():
        axes.text(0, y, f"image\nGPU {gpu}", fontsize=8, **centred)
    for place, layer in enumerate(layers, start=1):
        *pixels, maps = net.shapes()[layer]
        own = maps if layer == layers[-1] else maps // 2  # fc8's are summed
        size = "x".join(map(str, [*pixels, own]))
        for gpu, y in TOWERS.items():
            box = {"boxstyle": "round", "fc": f"C{gpu - 1}", "alpha": 0.25}
            label = f"{layer}\n{size}"
            axes.text(place, y, label, fontsize=7, bbox=box, **centred)
        there, back = (total(rows, layer=layer, backward=b) for b in (False, True))
        _arrows(axes, place, crossing=there > 0)
        if there:
            box = {"fc": "white", "ec": "none", "pad": 1}
            label = f"{there / MEGABYTE:.1f} MB\n{back / MEGABYTE:.1f} back"
            style: dict[str, Any] = {"fontsize": 8, "color": "C3", "bbox": box}
            axes.text(place - 0.5, 0.5, label, **style, **centred)
    axes.set(xlim=(-0.5, len(layers) + 0.5), ylim=(-0.2, 1.2))
    axes.set_axis_off()
    axes.set_title(
        f"AlexNet in two towers, {result['batch']} images a step: each GPU receives "
        f"{total(rows) / MEGABYTE:.1f} MB, "
        f"{total(result['towers']['batch split']) / MEGABYTE:.0f} MB if they split the "
        "batch",
        fontsize=9,
    )
    report.write_figure(figure, path)


def _arrows(axes: Any, place: int, *, crossing: bool) -> None:
    """From the layer before to that at the place, and to the other tower's."""
    arrow = {"arrowstyle": "-|>", "shrinkA": 27, "shrinkB": 27}
    for y in TOWERS.values():
        axes.annotate("", (place, y), (place - 1, y), arrowprops=arrow)
        if crossing:
            red = arrow | {"color": "C3"}
            axes.annotate("", (place, 1 - y), (place - 1, y), arrowprops=red)


def main() -> None:
    with short_usage():
        given = tyro.cli(Options, description=__doc__)
    if len(given.nets) != len(given.images):
        raise InputError("--images: as many numbers as --nets")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(2, *given.devices))
    paper_net = build("alexnet-paper")
    result: dict[str, Any] = {
        "name": "communication",
        "command": report.command(),
        "commit": report.commit(),
        "machine": report.machine(),
        "batch": given.batch,
        "images": dict(zip(given.nets, given.images, strict=True)),
        "towers": {
            name: counted(paper_net, given.batch, split)
            for name, split in SPLITS.items()
        },
        "classifier": {net: {str(n): {} for n in given.devices} for net in given.nets},
    }
    jobs = [
        (net, n, g) for net in given.nets for n in given.devices for g in given.groups
    ]
    for name, devices, group in track(jobs, "compiling", console=Console(stderr=True)):
        rows = counted(
            build(name),
            result["images"][name] * devices,
            Mesh(devices=devices, classifier=group),
        )
        result["classifier"][name][str(devices)][str(group)] = rows
    path = given.out / "communication.json"
    report.write_json(result, path)
    with path.with_suffix(".txt").open("w", encoding="utf-8") as page:
        for drawn in (towers_table(result), classifier_table(result)):
            Console(file=page, width=100).print(drawn)
    draw(result, path.with_suffix(".png"))
    print(path.with_suffix(".txt").read_text(encoding="utf-8"))
    print(f"wrote {path}, and beside it the tables (.txt) and the picture (.png)")


if __name__ == "__main__":
    with one_line():
        main()
