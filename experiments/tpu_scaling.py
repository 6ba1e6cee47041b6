"""Benchmark: one training step on 8, 32 and 256 TPU chips, from the compiler.

Nothing runs: the step of AlexNet and VGG in bfloat16 is compiled ahead of time for v5e
slices of 2x4, 4x8 and 16x16 chips, with its batch split over all of them (data), with
AlexNet's two towers on a pair of chips each (§3.2), and with the fully-connected layers
shared by groups of chips (One weird trick). Weak scaling keeps the images on a chip,
strong scaling those of a step.

A chip's memory and the seconds of its own work are the compiler's; the bytes that it
receives are counted in the compiled program (`alexvgg_jax/ledger.py`), and take the
seconds that they take at the interconnect's bandwidth. The compiler overlaps some of
the one with the other: a step takes at least the longer, and about at most their sum.

    pip install 'jax[tpu]' && pip install -e .     # in an environment of its own
    python experiments/tpu_scaling.py              # half an hour on two cores
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _tpu
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexvgg_jax import ledger, report
from alexvgg_jax.config import Mesh
from alexvgg_jax.errors import InputError, one_line, short_usage
from alexvgg_jax.mesh import make_mesh
from alexvgg_jax.models import build

INTERCONNECT = 1600e9 / 8  # bytes a second and chip: cloud.google.com/tpu/docs/v5e
SLICES = {8: "v5e:2x4", 32: "v5e:4x8", 256: "v5e:16x16"}


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...] = ("alexnet-paper", "vgg-d")  # rows of MODELS
    images: tuple[int, ...] = (128, 32)  # of each of them on a chip (weak scaling)
    group: int = 4  # chips that share a classifier
    chips: tuple[int, ...] = tuple(SLICES)  # of a slice
    out: Path = Path("results")  # folder for tpu_scaling.json and its table


def splits(name: str, group: int) -> dict[str, Mesh]:
    ways = {"data": Mesh(), f"classifier by {group}": Mesh(classifier=group)}
    if build(name).towers == 2:
        ways["towers"] = Mesh(towers=True)
    return ways


def cost(name: str, batch: int, chips: int, split: Mesh) -> dict[str, Any] | None:
    """What the compiler says of one step on one chip; None if it does not fit."""
    net = build(name, compute="bfloat16")
    mesh = make_mesh(split, _tpu.chips(SLICES[chips]))
    if (compiled := _tpu.compiled(net, batch, mesh)) is None:
        return None
    received = ledger.read(compiled, net)
    return {
        **_tpu.costs(compiled),
        "bytes received": received.total(),
        "bytes received, least": sum(ledger.least(net, batch, mesh).values()),
        "seconds of communication": received.total() / INTERCONNECT,
        "collectives": [e._asdict() | {"bytes": n} for e, n in received.items()],
    }


def table(result: Mapping[str, Any]) -> Table:
    drawn = Table(
        title=f"TPU v5e slices, bfloat16, as jax {result['machine']['jax']} plans them"
    )
    for heading in (
        "net",
        "split",
        "scaling",
        "chips",
        "images\na step",
        "GiB\na chip",
        "MB\nreceived",
        "work\nms",
        "exchange\nms",
        "images/s",
    ):
        right = heading not in ("net", "split", "scaling")
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in result["rows"]:
        head = [row["net"], row["split"], row["scaling"], row["chips"], row["batch"]]
        if (found := row["cost"]) is None:
            drawn.add_row(*map(str, head), *[""] * 4, "too large")
            continue
        work, exchange = found["optimal seconds"], found["seconds of communication"]
        low, high = (row["batch"] / t for t in (work + exchange, max(work, exchange)))
        drawn.add_row(
            *map(str, head),
            f"{found['memory, bytes'] / 2**30:.1f}",
            f"{found['bytes received'] / 1e6:,.1f}",
            f"{1e3 * work:.1f}",
            f"{1e3 * exchange:.2f}",
            f"{low:,.0f} to {high:,.0f}",
        )
    return drawn


def jobs(given: Options) -> list[dict[str, Any]]:
    """Every row of the table; where weak and strong scaling begin they are one."""
    found = []
    for name, images in zip(given.nets, given.images, strict=True):
        for split, mesh in splits(name, given.group).items():
            for chips in given.chips:
                of_a_step = {"weak": images * chips, "strong": images * given.chips[0]}
                if chips == given.chips[0]:
                    of_a_step = {"both": images * chips}
                for scaling, batch in of_a_step.items():
                    head = {"net": name, "split": split, "scaling": scaling}
                    head |= {"chips": chips, "batch": batch}
                    found.append(head | {"mesh": dataclasses.asdict(mesh)})
    return found


def main() -> None:
    with short_usage():
        given = tyro.cli(Options, description=__doc__)
    if len(given.nets) != len(given.images):
        raise InputError("--images: as many numbers as --nets")
    if unknown := set(given.chips) - SLICES.keys():
        known = ", ".join(map(str, SLICES))
        raise InputError(f"--chips {min(unknown)}: choose from {known}")
    result: dict[str, Any] = {
        "name": "tpu_scaling",
        "command": report.command(),
        "commit": report.commit(),
        "machine": report.machine() | {"compiled for": "TPU v5e"},
        "rows": [],
    }
    path = given.out / "tpu_scaling.json"
    for job in track(jobs(given), "compiling", console=Console(stderr=True)):
        of_a_step = job["net"], job["batch"], job["chips"]
        result["rows"].append(job | {"cost": cost(*of_a_step, Mesh(**job["mesh"]))})
        report.write_json(result, path)
    report.write_table(table(result), path.with_suffix(".txt"), width=130)
    print(path.with_suffix(".txt").read_text(encoding="utf-8"))
    print(f"wrote {path}, and beside it the table (.txt)")


if __name__ == "__main__":
    with one_line():
        main()
