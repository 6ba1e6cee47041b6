"""What a compiled training step communicates, and the minimum that it must."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich import box
from rich.table import Table

from alexvgg_jax.config import Augment, Optim
from alexvgg_jax.models import Net
from alexvgg_jax.models.parallel import DATA, TOWER, exchanged, param_shardings
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.sharding import check_batch
from alexvgg_jax.step import abstract_arguments, compile_steps


class Entry(NamedTuple):
    """Who exchanges something in a step, and how."""

    layer: str  # empty for the loss and errors, and for gradients summed together
    backward: bool
    operation: str  # HLO's name, such as all-gather
    devices: int  # in a group


Ledger = Counter[Entry]  # bytes that one device receives


def compiled(
    net: Net,
    batch: int,
    mesh: Mesh,
    augmentation: Augment,
    size: int,
    zero: bool = False,
) -> jax.stages.Compiled:
    """The compiled training step for images of `size` x `size` pixels before the crop.

    Raises InputError for a batch that does not divide, or a net that cannot be split.
    """
    check_batch(batch, mesh)
    optimizer = original_sgd(Optim())
    steps = compile_steps(net, optimizer, augmentation, mesh, zero=zero)
    return steps.train.lower(*abstract_arguments(net, optimizer, batch, size)).compile()


# operation -> bytes received for each byte of the result, by the devices of a group
RECEIVED: dict[str, Callable[[int], float]] = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
# %all-gather.3 = f32[16,5,5,16]{3,2,1,0} all-gather(%x), ..., metadata={op_name="..."}
COLLECTIVE = re.compile(
    r"%(?P<name>\S+) = (?P<shape>\(.*?\)|\S+) "
    rf"(?P<operation>{'|'.join(RECEIVED)})(?P<start>-start)?\("
)
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")
PART = re.compile(r"get-tuple-element\(%(\S+)\), index=(\d+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')


def read(program: str, net: Net) -> Ledger:
    """The collectives of a compiled step's HLO text, and the bytes that a device
    receives.

    It assumes the algorithms that move the fewest bytes: a gather and a scatter move
    all but the device's own part, and an all-reduce is both.
    """
    lines = program.splitlines()
    partitions = re.search(r"num_partitions=(\d+)", program)
    everyone = int(partitions[1]) if partitions else 1
    # Gradients summed in one collective have their names where they are unpacked.
    parts = {
        (match[1], int(match[2])): OP_NAME.search(line)
        for line in lines
        if (match := PART.search(line))
    }
    ledger: Ledger = Counter()
    for line in lines:
        if not (match := COLLECTIVE.search(line)):
            continue
        operation, devices = match["operation"], _devices(line, everyone)
        if devices == 1:
            continue
        sizes = [
            math.prod(int(n) for n in shape.split(",") if n) * int(bits or 8) // 8
            for dtype, bits, shape in ARRAY.findall(match["shape"])
            # a collective-permute of TPUs has two scalars more
            if operation != "collective-permute" or (dtype, shape) != ("u32", "")
        ]
        if match["start"] and operation != "all-reduce":  # operands, then results
            sizes = sizes[len(sizes) // 2 :]
        for i, size in enumerate(sizes):
            op_name = parts.get((match["name"], i)) or OP_NAME.search(line)
            layer, backward = _origin(op_name[1] if op_name else "", net)
            entry = Entry(layer, backward, operation, devices)
            ledger[entry] += round(RECEIVED[operation](devices) * size)
    return ledger


def _origin(op_name: str, net: Net) -> tuple[str, bool]:
    """The layer of an operation, and whether it is in the backward pass, as in
    jit(f)/transpose(jvp(g))/fc6/dot."""
    names, words = {layer.name for layer in net.layers()}, re.findall(r"\w+", op_name)
    layers = [word for word in words if word in names]
    return layers[-1] if layers else "", "transpose" in words


def _devices(line: str, everyone: int) -> int:
    """The size of a group, which HLO writes as [2,4]<=[8], {{0,1},{2,3}},
    mesh['a'=2,'b'=4] {'b'}, or {} for all devices."""
    if "replica_groups={}" in line:
        return everyone
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if "source_target_pairs" in line:
        return 2
    raise ValueError(f"no groups of devices in {line.strip()[:200]}")


def least(net: Net, batch: int, mesh: Mesh) -> dict[tuple[str, bool], int]:
    """The bytes that a device must receive: (layer, whether backward) -> bytes.

    For a gathered input, the part of the other devices, and the same for its gradient.
    For summed logits, the part of the others. For the gradients of parameters that
    several devices hold, twice what is not its own.
    """
    group = math.prod(n for axis, n in mesh.shape.items() if axis != DATA)
    images = batch // mesh.shape[DATA]  # of one group
    number = jnp.dtype(net.compute).itemsize  # bytes; gradients are cast after the sum
    received: dict[tuple[str, bool], int] = Counter()
    for layer, floats in exchanged(net, mesh).items():
        others = number * floats * images * (group - 1) // group
        if TOWER in mesh.axis_names and layer == net.layers()[-1].name:
            received[layer, False] += 2 * others  # both towers need the sum
        else:
            received[layer, False] += others
            received[layer, True] += others
    shapes = net.param_shapes()
    for layer, parts in param_shardings(net, mesh).items():
        for part, sharding in parts.items():
            split = any(axis is not None for axis in sharding.spec)
            split = split or TOWER in mesh.axis_names
            holders = mesh.shape[DATA] if split else mesh.size
            own = math.prod(sharding.shard_shape(shapes[layer][part].shape))
            received[layer, True] += 2 * number * own * (holders - 1) // holders
    return {key: n for key, n in received.items() if n}


def table(name: str, net: Net, batch: int, mesh: Mesh, ledger: Ledger) -> Table:
    """The ledger in bytes per device, next to the minimum that the net needs."""
    needed = least(net, batch, mesh)
    axes = " x ".join(f"{n} {name}" for name, n in mesh.shape.items())
    title = f"{name}, {batch} images a step, devices {axes}"
    caption = f"at least: for arrays of {net.compute}"
    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    table.add_column("collectives (devices)")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("at least", justify="right", no_wrap=True)
    for backward in (False, True):
        for layer in (*(layer.name for layer in net.layers()), ""):
            entries = [e for e in ledger if (e.layer, e.backward) == (layer, backward)]
            if not entries and (layer, backward) not in needed:
                continue
            table.add_row(
                layer or "(others)",
                ("backward" if backward else "forward") if layer else "",
                ", ".join(f"{e.operation} ({e.devices})" for e in entries),
                f"{sum(ledger[e] for e in entries):,}",
                f"{needed.get((layer, backward), 0):,}",
            )
    table.add_section()
    table.add_row("total", "", "", f"{ledger.total():,}", f"{sum(needed.values()):,}")
    return table
