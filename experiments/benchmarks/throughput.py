"""Benchmark: the images per second of training and inference, against PyTorch.

Each net runs on images of random noise, in one process for each framework. The rounds
alternate between the processes, so that a noisy machine slows both frameworks alike. A
figure is the median of the rounds. A training step is complete: it crops and mirrors
uint8 images, and computes the loss, the gradients and the update. PyTorch runs in both
of its memory layouts, and the faster one counts. The machine's peak is the speed of a
product of two large matrices in the same run.

    python experiments/benchmarks/throughput.py            # JAX alone
    python experiments/benchmarks/throughput.py --torch    # pip install -e '.[parity]'
    python experiments/benchmarks/throughput.py --nets alexnet-paper --batch 64
"""

import functools
import importlib.metadata
import multiprocessing
import operator
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _records import OUT, Result, origin, table, write
from rich.console import Console
from rich.progress import track

from alexvgg_jax import results
from alexvgg_jax.augment import Statistics, centre
from alexvgg_jax.config import Augment, Mesh, Optim
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.models import Net, build, summary
from alexvgg_jax.optim import learning_rates, original_sgd
from alexvgg_jax.sharding import make_mesh, place
from alexvgg_jax.step import compile_steps, compiler_options

BATCHES = {
    "alexnet-paper": 32,
    "alexnet-owt": 32,
    "vgg-a": 8,
    "vgg-d": 8,
    "cifar-18pct": 128,
    "cifar-11pct": 128,
}
KINDS = ("training", "inference")
LAYOUTS = ("contiguous_format", "channels_last")  # PyTorch's
ROUND_SECONDS = 0.3  # a round repeats its step for about this long
PEAK_SIZE = 3072  # rows of the square matrices whose product measures the peak


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...] = tuple(BATCHES)  # names in alexvgg_jax.models.MODELS
    batch: int = 0  # images a step; 0 for a usual number
    rounds: int = 9  # the medians are taken over these
    torch: bool = False  # compare with PyTorch
    out: Path = OUT  # folder for throughput.json and its table


Step = Callable[[], Any]


class Program(NamedTuple):
    """A net in one framework."""

    steps: dict[str, Step]  # kind, such as training -> one step
    bytes_before: int  # memory of the process without the program


def noise(net: Net, batch: int) -> tuple[np.ndarray, np.ndarray, Augment]:
    """Images, labels, and the paper's crop if the net is made for crops."""
    size = {224: 256, 227: 256, 24: 32}.get(net.image_size, net.image_size)
    crop = net.image_size if size != net.image_size else 0
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = rng.integers(0, net.classes, batch).astype(np.int32)
    return images, labels, Augment(crop=crop, mirror=crop > 0, mean="channel")


def in_jax(net: Net, batch: int) -> Program:
    jnp.ones(1).block_until_ready()
    before = process_bytes("VmRSS")
    images, labels, augment = noise(net, batch)
    mesh = make_mesh(Mesh(devices=1))
    on_device = place(Batch(images, labels, np.ones(batch, bool)), mesh)
    stats = Statistics(jnp.full(images.shape[1:], 127.0), jnp.eye(3))
    steps = compile_steps(net, original_sgd(Optim()), augment, mesh)
    key = jax.random.key(0)
    rates = learning_rates(Optim(rate=0.001), net.param_shapes())
    state = steps.init(key)

    def train():
        nonlocal state
        state, metrics = steps.train(state, on_device, stats, rates, key)
        return metrics

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def infer(params, images):
        return net.apply(params, centre(images, stats, augment), train=False)[0]

    square, product = jnp.ones((PEAK_SIZE, PEAK_SIZE)), jax.jit(jnp.matmul)
    kinds: dict[str, Step] = {
        "training": train,
        "inference": lambda: infer(state.params, on_device.images),
        "peak": lambda: product(square, square),
    }
    return Program(kinds, before)


def in_torch(net: Net, batch: int, layout: str) -> Program:
    import torch
    from _torch_nets import Trainer

    torch.set_num_threads(results.machine()["cores"])
    torch.manual_seed(0)
    torch.ones(1).sum()
    before = process_bytes("VmRSS")
    images, labels, augment = noise(net, batch)
    trainer = Trainer(net, augment, Optim(rate=0.001), layout)
    x, y = trainer.place(images), torch.tensor(labels, dtype=torch.long)
    square = torch.ones(PEAK_SIZE, PEAK_SIZE)
    kinds: dict[str, Step] = {
        "training": lambda: trainer.train(x, y),
        "inference": lambda: trainer.infer(x),
        "peak": lambda: square @ square,
    }
    return Program(kinds, before)


# These functions run in the process of a framework, which keeps its program.


@functools.cache
def program(framework: str, name: str, batch: int) -> Program:
    net = build(name)
    return in_jax(net, batch) if framework == "jax" else in_torch(net, batch, framework)


@functools.cache
def repeats(kind: str, *which: Any) -> int:
    """How often a step fits into a round. The first call compiles it."""
    step = program(*which).steps[kind]
    mean_seconds(step, 2)
    return max(1, round(ROUND_SECONDS / mean_seconds(step, 1)))


def round_seconds(kind: str, *which: Any) -> float:
    """The mean seconds of a step in one round."""
    step, count = program(*which).steps[kind], repeats(kind, *which)
    step()  # the other processes have used the caches in the meantime
    return mean_seconds(step, count)


def mean_seconds(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(step())
    return (time.perf_counter() - start) / count


def program_bytes(*which: Any) -> int:
    """The most memory that the program has used so far."""
    return process_bytes("VmHWM") - program(*which).bytes_before


def process_bytes(field: str) -> int:
    """The memory that this process holds (VmRSS), or its maximum so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def new_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def measure(name: str, options: Options) -> Result:
    """Time a net in all frameworks, round by round."""
    batch = options.batch or BATCHES.get(name, 32)
    processes = {f: new_process() for f in ("jax", *LAYOUTS * options.torch)}

    def ask(function: Callable, *arguments: Any) -> dict[str, Any]:
        return {
            f: process.submit(function, *arguments, f, name, batch).result()
            for f, process in processes.items()
        }

    seconds = {kind: {f: [] for f in processes} for kind in (*KINDS, "peak")}
    memory = {}
    for kind, by_framework in seconds.items():
        ask(repeats, kind)
        title, console = f"{name}, {kind}", Console(stderr=True)
        for _ in track(range(options.rounds), title, console=console):
            for framework, mean in ask(round_seconds, kind).items():
                by_framework[framework].append(mean)
        memory = memory or ask(program_bytes)  # of training
    for process in processes.values():
        process.shutdown()
    return figures(build(name), batch, seconds, memory)


def training_operations(net: Net) -> int:
    """The operations of one image: a forward product and two backward.

    The first layer computes no gradient of the image.
    """
    counts = [layer.multiply_adds for layer in summary.costs(net)]
    return 2 * (3 * sum(counts) - counts[0])


def figures(
    net: Net,
    batch: int,
    seconds: dict[str, dict[str, list[float]]],
    memory: dict[str, int],
) -> Result:
    """Medians, ratios of paired rounds, and the share of the peak.

    `seconds` are those of each round: kind -> framework -> seconds.
    """
    medians = {
        kind: {f: median(rounds) for f, rounds in by_framework.items()}
        for kind, by_framework in seconds.items()
    }
    peak = 2 * PEAK_SIZE**3 / min(medians["peak"].values())
    operations = training_operations(net) * batch
    result: Result = {
        "batch": batch,
        "median seconds": medians,
        "images a second": {kind: batch / medians[kind]["jax"] for kind in KINDS},
        "MB of training": memory["jax"] / 1e6,
        "peak, GFLOP/s": peak / 1e9,
        "fraction of the peak, training": operations
        / medians["training"]["jax"]
        / peak,
    }
    if len(memory) > 1:
        best = {k: min(LAYOUTS, key=medians[k].__getitem__) for k in KINDS}
        result["torch"] = {
            "times as fast": {
                k: median(map(operator.truediv, seconds[k][best[k]], seconds[k]["jax"]))
                for k in KINDS
            },
            "memory ratio": memory["jax"] / memory[best["training"]],
        }
    return result


def page(result: Result) -> str:
    machine, rows = result["machine"], []
    for name, net in result["nets"].items():
        training = f"{net['images a second']['training']:,.1f}"
        peak = f"{net['fraction of the peak, training']:.0%}"
        against, memory = ["", ""], f"{net['MB of training']:,.0f}"
        if torch := net.get("torch"):
            against = [f"{torch['times as fast'][kind]:.2f}x" for kind in KINDS]
            memory += f" ({torch['memory ratio']:.2f}x)"
        rows.append([name, str(net["batch"]), training, peak, *against, memory])
    versions = [f"{p} {machine[p]}" for p in ("jax", "torch") if p in machine]
    title = [f"float32, {machine['processor']}, {machine['cores']} cores", *versions]
    headings = ("net", "batch", "training\nimages/s", "of the\npeak")
    headings += ("training\nagainst torch", "inference\nagainst torch")
    return table(", ".join(title), (*headings, "memory, MB\n(against torch)"), rows)


def begin(benchmark: str, nets: Sequence[str], rounds: int) -> Result:
    """The start of a result. InputError for an unknown net, before any is measured."""
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: at least 1")
    for net in nets:
        build(net)
    return origin(benchmark) | {"rounds": rounds}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    result = begin("throughput", options.nets, options.rounds)
    if options.torch:
        try:
            result["machine"]["torch"] = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            raise InputError("--torch: pip install -e '.[parity]'") from None
    result["nets"] = {name: measure(name, options) for name in options.nets}
    write(result, page(result), options.out)


if __name__ == "__main__":
    with one_line():
        main()
