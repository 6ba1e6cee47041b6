"""What a compiled training step communicates, and what it must at least."""

import math
import re
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich import box
from rich.table import Table

from alexvgg_jax.config import Augment, Optim
from alexvgg_jax.mesh import DATA, TOWER, check_batch
from alexvgg_jax.models import Model
from alexvgg_jax.models.parallel import exchanged, param_shardings
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.step import abstract_arguments, compile_steps


class Entry(NamedTuple):
    """Why devices exchange something in a step: rows of the ledger."""

    layer: str  # its name, or empty: the metrics, and sums of many gradients in one
    backward: bool
    operation: str  # HLO's name, such as all-gather
    devices: int  # that exchange with each other


Ledger = Counter[Entry]  # bytes that a device receives


def compiled(
    net: Model, batch: int, mesh: Mesh, config: Augment, size: int, zero: bool = False
) -> jax.stages.Compiled:
    """The compiled training step, for `size` x `size` images that are cropped.

    Raises InputError for a batch that does not divide, or a net that cannot be split.
    """
    check_batch(batch, mesh)
    optimizer = original_sgd(Optim())
    steps = compile_steps(net, optimizer, config, mesh, zero=zero)
    return steps.train.lower(*abstract_arguments(net, optimizer, batch, size)).compile()


# %all-gather.3 = f32[16,5,5,16]{3,2,1,0} all-gather(%x), ..., metadata={op_name="..."}
COLLECTIVE = re.compile(
    r"%(?P<name>\S+) = (?P<shape>\(.*?\)|\S+) (?P<operation>all-gather|all-reduce|"
    r"reduce-scatter|all-to-all|collective-permute)(?P<start>-start)?\("
)
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")
PART = re.compile(r"get-tuple-element\(%(\S+)\), index=(\d+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')


def read(step: jax.stages.Compiled, net: Model) -> Ledger:
    """Each collective of a compiled step's HLO, and the bytes that a device receives by
    the algorithms that move fewest: all but its own part of what it gathers or
    scatters, and both for a sum that every device keeps.
    """
    return read_text(step.as_text() or "", net)


def read_text(program: str, net: Model) -> Ledger:
    """As `read`, of the HLO itself."""
    lines = program.splitlines()
    partitions = re.search(r"num_partitions=(\d+)", program)
    everyone = int(partitions[1]) if partitions else 1
    # Sums that the compiler put into one collective have their names where they leave.
    parts = {
        (found[1], int(found[2])): OP_NAME.search(line)
        for line in lines
        if (found := PART.search(line))
    }
    ledger: Ledger = Counter()
    for line in lines:
        if not (found := COLLECTIVE.search(line)):
            continue
        operation, devices = found["operation"], _devices(line, everyone)
        if devices == 1:
            continue
        arrays = ARRAY.findall(found["shape"])
        if operation == "collective-permute":  # a TPU's has two words of its own behind
            arrays = [array for array in arrays if array[::2] != ("u32", "")]
        sizes = [_bytes(array) for array in arrays]
        if found["start"] and operation != "all-reduce":  # operands, then results
            sizes = sizes[len(sizes) // 2 :]
        for i, size in enumerate(sizes):
            op_name = parts.get((found["name"], i)) or OP_NAME.search(line)
            layer, backward = _origin(op_name[1] if op_name else "", net)
            entry = Entry(layer, backward, operation, devices)
            ledger[entry] += round(_share(operation, devices) * size)
    return ledger


def _origin(op_name: str, net: Model) -> tuple[str, bool]:
    """The layer, and whether it was the backward pass: jit(f)/transpose(jvp(g))/fc6/dot
    is fc6's."""
    names, words = {row.name for row in net.rows}, re.findall(r"\w+", op_name)
    layers = [word for word in words if word in names]
    return layers[-1] if layers else "", "transpose" in words


def _devices(line: str, everyone: int) -> int:
    """How many exchange, by HLO's ways to write groups: [2,4]<=[8], {{0,1},{2,3}},
    mesh['a'=2,'b'=4] {'b'}, and {} for everyone."""
    if "replica_groups={}" in line:
        return everyone
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if "source_target_pairs" in line:
        return 2
    raise ValueError(f"no groups of devices in {line.strip()[:200]}")


def _bytes(array: tuple[str, str, str]) -> int:
    _, bits, shape = array
    return math.prod(int(n) for n in shape.split(",") if n) * int(bits or 8) // 8


def _share(operation: str, devices: int) -> float:
    """Bytes received for each byte of the result."""
    others = devices - 1
    return {
        "all-gather": others / devices,
        "all-reduce": 2 * others / devices,
        "reduce-scatter": float(others),
        "all-to-all": others / devices,
        "collective-permute": 1.0,
    }[operation]


def least(net: Model, batch: int, mesh: Mesh) -> dict[tuple[str, bool], int]:
    """The bytes that a device must receive: (layer, whether backward) -> bytes.

    Of a layer's input that it needs whole, what other devices hold, and as much of its
    gradient; of logits that are summed, the others' part; and of the gradients of
    parameters that several devices hold, twice what is not its own.
    """
    group = math.prod(n for axis, n in mesh.shape.items() if axis != DATA)
    images = batch // mesh.shape[DATA]  # of a group
    number = jnp.dtype(net.compute).itemsize  # bytes; gradients are cast once summed
    found: dict[tuple[str, bool], int] = Counter()
    for layer, floats in exchanged(net, mesh).items():
        others = number * floats * images * (group - 1) // group
        if TOWER in mesh.axis_names and layer == net.rows[-1].name:
            found[layer, False] += 2 * others  # both towers need all of the sum
        else:
            found[layer, False] += others
            found[layer, True] += others
    shapes = net.param_shapes()
    for layer, parts in param_shardings(net, mesh).items():
        for part, sharding in parts.items():
            split = any(axis is not None for axis in sharding.spec)
            holders = (
                mesh.shape[DATA] if split or TOWER in mesh.axis_names else mesh.size
            )
            own = math.prod(sharding.shard_shape(shapes[layer][part].shape))
            found[layer, True] += 2 * number * own * (holders - 1) // holders
    return {key: n for key, n in found.items() if n}


def table(net: Model, batch: int, mesh: Mesh, ledger: Ledger) -> Table:
    """The ledger in bytes a device, beside what the net needs at least."""
    needed = least(net, batch, mesh)
    axes = " x ".join(f"{n} {name}" for name, n in mesh.shape.items())
    title = f"{net.name}, {batch} images a step, devices {axes}"
    caption = f"at least: what is exchanged being {net.compute}"
    drawn = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("layer", "pass", "collectives (devices)", "bytes", "at least"):
        right, one_line = heading in ("bytes", "at least"), "coll" not in heading
        justify = "right" if right else "left"
        drawn.add_column(heading, justify=justify, no_wrap=one_line)
    for backward in (False, True):
        for layer in (*(row.name for row in net.rows), ""):
            entries = [e for e in ledger if (e.layer, e.backward) == (layer, backward)]
            if not entries and (layer, backward) not in needed:
                continue
            drawn.add_row(
                layer or "(others)",
                ("backward" if backward else "forward") if layer else "",
                ", ".join(f"{e.operation} ({e.devices})" for e in entries),
                f"{sum(ledger[e] for e in entries):,}",
                f"{needed.get((layer, backward), 0):,}",
            )
    drawn.add_section()
    drawn.add_row("total", "", "", f"{ledger.total():,}", f"{sum(needed.values()):,}")
    return drawn
