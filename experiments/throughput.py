"""Benchmark: how fast the networks train and answer on this machine, beside PyTorch's.

In the manner of convnet-benchmarks: images of random noise, medians of several rounds
after warming up. Each net has a process for each framework, and the rounds go from one
to the next, so that a noisy machine is noisy for all of them. A training step is the
whole of it: uint8 images that are cropped and mirrored, loss, gradients, the update. Of
PyTorch's two memory layouts the faster one counts. The machine's peak is that of a
product of two large matrices, in the same run.

Then each layer with parameters is timed by itself, in inference and in training. Their
sum, the "products", is what a step would take if all else were free: how far from the
peak the convolutions and products are, and how much of the step the rest costs. Memory
is what the process takes beyond its imports; "planned" is what the compiler plans for
the step's arrays, and the rest is the compiler's own.

Nets of 32-pixel images also train for an epoch a round on real data from memory, as
`train` does it: batches drawn, shipped as uint8, augmented on the device, metrics
fetched. "Loop" is how much of the bare step's speed is left.

    python experiments/throughput.py                           # ours
    python experiments/throughput.py --against torch           # the extra parity
    python experiments/throughput.py --nets alexnet-paper --batch 64
"""
# torch is in the extra `parity`
# pyright: reportMissingImports=false

import functools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexvgg_jax import loop, memory, report
from alexvgg_jax.augment import Statistics, centre
from alexvgg_jax.config import RECIPES, Augment, Mesh, Optim
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError, one_line, short_usage
from alexvgg_jax.loss import cross_entropy
from alexvgg_jax.mesh import make_mesh, place
from alexvgg_jax.models import Model, build, summary
from alexvgg_jax.models.layers import Conv, Dense, Layer, Local, Shape
from alexvgg_jax.optim import learning_rates, original_sgd
from alexvgg_jax.step import compile_steps, compiler_options

BATCHES = {
    "alexnet-paper": 32,
    "alexnet-owt": 32,
    "vgg-a": 8,
    "vgg-d": 8,
    "cifar-18pct": 128,
    "cifar-11pct": 128,
}
KINDS = ("training", "gradient", "inference")
PROFILED = ("training", "inference")
ROUND_SECONDS = 0.3  # a round repeats its step for at least as long
LOOP_EPOCHS = 2
LOOP = "of the bare step's speed"
PEAK_SIZE = 3072  # of the square matrices whose product has the machine's peak


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...] = tuple(BATCHES)  # rows of alexvgg_jax.models.MODELS
    batch: int = 0  # images a step; 0 for a usual one
    rounds: int = 9  # of which the medians are taken
    data: str = "digits"  # that the loop trains on; or a TFDS name, such as cifar10
    against: Literal["nothing", "torch"] = "nothing"  # what runs beside ours
    out: Path = Path("results")  # folder for throughput.json and its table


def data(net: Model, batch: int) -> tuple[np.ndarray, np.ndarray, Augment]:
    """Noise to train on, larger than the net where its papers crop."""
    size = {224: 256, 227: 256, 24: 32}.get(net.image_size, net.image_size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = rng.integers(0, net.rows[-1].output(())[0], batch).astype(np.int32)
    crop = net.image_size if size != net.image_size else 0
    return images, labels, Augment(crop=crop, mirror=crop > 0, mean="channel")


Steps = dict[str, Callable[[], Any]]  # kind -> one step, done when it returns


def in_jax(name: str, batch: int) -> Steps:
    net = build(name)
    images, labels, config = data(net, batch)
    mesh = make_mesh(Mesh(devices=1))
    rows = place(Batch(images, labels, np.ones(batch, bool)), mesh)
    stats = Statistics(jnp.full(images.shape[1:], 127.0), jnp.eye(3))
    steps = compile_steps(net, original_sgd(Optim()), config, mesh)
    key, rates = jax.random.key(0), learning_rates(Optim(0.001), net.param_shapes())
    state = None

    def training():
        nonlocal state
        state = steps.init(key) if state is None else state
        state, metrics = steps.train(state, rows, stats, rates, key)
        return jax.block_until_ready(metrics)

    def loss(params, images):
        logits, _ = net.apply(params, images, train=True, key=key)
        return cross_entropy(logits, jnp.asarray(labels)).mean()

    options = compiler_options()
    grad = jax.jit(jax.grad(loss), compiler_options=options)
    infer = jax.jit(
        lambda params, images: net.apply(
            params, centre(images, stats, config), train=False
        )[0],
        compiler_options=options,
    )
    pixels = jax.jit(lambda images: centre(images, stats, config))

    def params():
        return steps.init(key).params if state is None else state.params

    square = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    product = jax.jit(jnp.matmul)
    return {
        "training": training,
        "gradient": lambda: jax.block_until_ready(grad(params(), pixels(rows.images))),
        "inference": lambda: jax.block_until_ready(infer(params(), rows.images)),
        "peak": lambda: jax.block_until_ready(product(square, square)),
    }


def in_torch(layout: str, name: str, batch: int) -> Steps:
    import torch
    from _in_torch import Trainer

    torch.set_num_threads(report.machine()["cores"])
    torch.manual_seed(0)
    net = build(name)
    images, labels, config = data(net, batch)
    trainer = Trainer(net, config, Optim(rate=0.001), layout)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous(
        memory_format=trainer.format
    )
    y = torch.tensor(labels, dtype=torch.long)
    square = torch.ones(PEAK_SIZE, PEAK_SIZE)
    return {
        "training": lambda: trainer.train(x, y),
        "gradient": lambda: trainer.gradient(x, y),
        "inference": lambda: trainer.infer(x),
        "peak": lambda: square @ square,
    }


def serve(connection: Connection, framework: str, name: str, batch: int) -> None:
    """Answer each kind with the seconds of its step, "memory" with bytes."""
    if framework == "ours":
        jax.block_until_ready(jnp.ones(1) + 1)
        before = _bytes("VmRSS")
        steps = in_jax(name, batch)
    else:
        import torch

        torch.ones(1).sum()
        before = _bytes("VmRSS")
        steps = in_torch(framework, name, batch)
    repeats: dict[str, int] = {}
    while (kind := connection.recv()) != "end":
        if kind == "memory":
            connection.send(_bytes("VmHWM") - before)
            continue
        if kind not in repeats:
            steps[kind]()  # compiles
            steps[kind]()
            repeats[kind] = max(1, round(ROUND_SECONDS / _seconds(steps[kind], 1)))
        steps[kind]()  # others had the caches and the memory since the last one
        connection.send(_seconds(steps[kind], repeats[kind]))


def _seconds(step: Callable[[], Any], repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - begun) / repeats


def _bytes(field: str) -> int:
    """Memory that this process holds (VmRSS), or the most that it ever held (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(frameworks: list[str], name: str, batch: int, rounds: int) -> dict:
    """framework -> kind -> seconds of each round; "memory" -> bytes beyond imports."""
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, dict] = {framework: {} for framework in frameworks}
    ends, workers = {}, []
    for framework in frameworks:
        ends[framework], other = spawn.Pipe()
        arguments = (other, framework, name, batch)
        workers.append(spawn.Process(target=serve, args=arguments, daemon=True))
        workers[-1].start()
        other.close()

    def ask(framework: str, kind: str) -> float:
        ends[framework].send(kind)
        return ends[framework].recv()

    for kind in (*KINDS, "peak"):
        for framework in frameworks:
            ask(framework, kind)  # warms up
        title = f"{name}, {kind}"
        for _ in track(range(rounds), title, console=Console(stderr=True)):
            for framework in frameworks:
                found[framework].setdefault(kind, []).append(ask(framework, kind))
        if kind == "training":
            for framework in frameworks:
                found[framework]["memory"] = ask(framework, "memory")
    for framework, worker in zip(frameworks, workers, strict=True):
        ends[framework].send("end")
        worker.join()
    return found


class Alone(nn.Module):
    row: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.row(x, train=False, key=None)


def layers_alone(name: str, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """kind -> layer -> median seconds by itself: in inference its forward pass, in
    training the backward pass too."""
    net, rng = build(name), np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {"training": {}, "inference": {}}
    seen: Shape = net.input_shape
    for row in net.rows:
        given, seen = seen, net.shapes()[row.name]
        if not isinstance(row, Conv | Dense | Local):
            continue
        x, slope = (
            jnp.asarray(rng.standard_normal((batch, *shape), np.float32))
            for shape in (given, seen)
        )
        layer = Alone(row)
        params = jax.jit(layer.init)(jax.random.key(0), x)

        def inference(params, x, _, layer=layer):
            return layer.apply(params, x)

        def training(params, x, slope, layer=layer, first=given == net.input_shape):
            if first:  # the image needs no gradient
                y, backward = jax.vjp(lambda params: layer.apply(params, x), params)
            else:
                y, backward = jax.vjp(layer.apply, params, x)
            return y, backward(slope)

        for passes in (training, inference):
            step = jax.jit(passes, compiler_options=compiler_options())
            run = functools.partial(_run, step, (params, x, slope))
            run()
            repeats = max(1, round(ROUND_SECONDS / 10 / _seconds(run, 1)))
            found[passes.__name__][row.name] = statistics.median(
                _seconds(run, repeats) for _ in range(rounds)
            )
    return found


def _run(step: Callable, arguments: tuple) -> None:
    jax.block_until_ready(step(*arguments))


def planned_bytes(name: str, batch: int) -> int:
    """What the compiler plans for the arrays of a training step."""
    return memory.of_training(build(name), batch).total


def through_the_loop(name: str, batch: int, data: str) -> dict[str, Any]:
    """Seconds a step of `loop.train` and of the bare step, an epoch of each in turn."""
    _, recipe = RECIPES[name]
    run = replace(recipe, data=replace(recipe.data, name=data), batch=batch)
    bare = in_jax(name, batch)["training"]
    bare()
    found: dict[str, list[float]] = {"loop": [], "bare": []}
    loop.console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        # The loop compiles its step anew whenever it goes on.
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        for epoch in range(1, LOOP_EPOCHS + 1):
            run = replace(run, epochs=epoch)
            last = loop.train(run, Path(folder, "run"), resume=epoch > 1).history[-1]
            steps = last.step // epoch
            found["loop"].append(last.seconds / steps)
            found["bare"].append(_seconds(bare, steps))
    ratios = (a / b for a, b in zip(found["bare"], found["loop"], strict=True))
    return {
        "data": data,
        "seconds": {kind: statistics.median(times) for kind, times in found.items()},
        LOOP: statistics.median(ratios),
    }


def training_operations(net: Model) -> int:
    """Of one image: a product forward and two backward, but for the image's own."""
    counts = [row.multiply_adds for row in summary.rows(net)]
    return 2 * (3 * sum(counts) - counts[0])


def figures(name: str, batch: int, found: dict) -> dict[str, Any]:
    """The row of a net: medians, ratios of paired rounds, the fraction of the peak."""
    ours = found["ours"]
    medians = {
        framework: {kind: statistics.median(times[kind]) for kind in KINDS}
        for framework, times in found.items()
    }
    peak_seconds = min(statistics.median(times["peak"]) for times in found.values())
    peak = 2 * PEAK_SIZE**3 / peak_seconds
    operations = training_operations(build(name)) * batch
    row = {
        "batch": batch,
        "seconds": medians["ours"],
        "images a second": {k: batch / medians["ours"][k] for k in KINDS},
        "MB of training": ours["memory"] / 1e6,
        "peak, GFLOP/s": peak / 1e9,
        "fraction of the peak, training": operations
        / medians["ours"]["training"]
        / peak,
    }
    others = [framework for framework in found if framework != "ours"]
    if others:
        best = {k: min(others, key=lambda f: medians[f][k]) for k in KINDS}
        row["torch"] = {
            "seconds": {f: medians[f] for f in others},
            "MB of training": {f: found[f]["memory"] / 1e6 for f in others},
            "times as fast": {
                k: statistics.median(
                    theirs / own
                    for theirs, own in zip(found[best[k]][k], ours[k], strict=True)
                )
                for k in KINDS
            },
            "memory ratio": ours["memory"] / found[best["training"]]["memory"],
        }
    return row


def table(result: dict[str, Any]) -> Table:
    machine = result["machine"]
    drawn = Table(
        title=f"float32, {machine['processor']}, {machine['cores']} cores, "
        f"jax {machine['jax']}"
    )
    for heading in ("net", "batch", *(f"{k}\nimages/s" for k in KINDS), "of the\npeak"):
        drawn.add_column(heading, justify="left" if heading == "net" else "right")
    compared = any("torch" in row for row in result["nets"].values())
    for heading in (*KINDS, "memory", "planned") if compared else ():
        drawn.add_column(f"{heading}\nto torch", justify="right")
    for kind in PROFILED:
        drawn.add_column(f"products,\n{kind}", justify="right")
        if compared:
            drawn.add_column("alone,\nto torch", justify="right")
    drawn.add_column("loop", justify="right")
    for name, row in result["nets"].items():
        cells = [name, str(row["batch"])]
        cells += [f"{row['images a second'][kind]:,.1f}" for kind in KINDS]
        cells.append(f"{row['fraction of the peak, training']:.2f}")
        if "torch" in row:
            cells += [f"{row['torch']['times as fast'][kind]:.2f}x" for kind in KINDS]
            ratio = row["torch"]["memory ratio"]
            planned = row["MB planned"] / row["MB of training"]
            cells += [f"{ratio:.2f}", f"{ratio * planned:.2f}"]
        for kind in PROFILED:
            products = sum(row["layers"][kind].values()) / row["seconds"][kind]
            cells.append(f"{products:.2f}")
            if "torch" in row:  # as fast as it were if nothing else took any time
                most = row["torch"]["times as fast"][kind] / products
                cells.append(f"{most:.2f}x")
        if "loop" in row:
            cells.append(f"{row['loop'][LOOP]:.3f}")
        drawn.add_row(*cells)
    return drawn


def main() -> None:
    with short_usage():
        given = tyro.cli(Options, description=__doc__)
    if given.rounds < 1:
        raise InputError(f"--rounds {given.rounds}: at least 1")
    frameworks = ["ours"]
    if given.against == "torch":
        try:
            import torch
        except ImportError:
            raise InputError(
                "--against torch: it is not installed; pip install -e '.[parity]'"
            ) from None
        frameworks += ["contiguous_format", "channels_last"]
    nets = {name: given.batch or BATCHES.get(name, 32) for name in given.nets}
    for name in nets:
        build(name)
    result: dict[str, Any] = {
        "name": "throughput",
        "command": report.command(),
        "commit": report.commit(),
        "machine": report.machine(),
        "rounds": given.rounds,
        "nets": {},
    }
    if given.against == "torch":
        result["machine"]["torch"] = torch.__version__
    for name, batch in nets.items():
        found = measure(frameworks, name, batch, given.rounds)
        result["nets"][name] = figures(name, batch, found)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            arguments = (name, batch, given.rounds)
            result["nets"][name]["layers"] = pool.apply(layers_alone, arguments)
            planned = pool.apply(planned_bytes, (name, batch))
            result["nets"][name]["MB planned"] = planned / 1e6
            if name in RECIPES and build(name).image_size <= 32:
                arguments = (name, batch, given.data)
                result["nets"][name]["loop"] = pool.apply(through_the_loop, arguments)
    path = given.out / "throughput.json"
    report.write_json(result, path)
    report.write_table(table(result), path.with_suffix(".txt"), width=200)
    print(path.with_suffix(".txt").read_text(encoding="utf-8"))
    print(f"wrote {path}, and beside it the table (.txt)")


if __name__ == "__main__":
    with one_line():
        main()
