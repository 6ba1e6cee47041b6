"""Training from start to end: the only file that times and saves a run."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float, Int32
from rich.console import Console

from alexvgg_jax import config, folder
from alexvgg_jax import evaluate as evaluation
from alexvgg_jax.augment import Statistics, Views, statistics
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import Run
from alexvgg_jax.data.batches import (
    Batch,
    eval_batches,
    first_step,
    prefetch,
    train_batch,
)
from alexvgg_jax.data.sources import Source, open_source
from alexvgg_jax.errors import Diverged, InputError, Stopped
from alexvgg_jax.log import Log
from alexvgg_jax.mesh import (
    all_devices,
    check_batch,
    everywhere,
    make_mesh,
    meet,
    place,
    replicated,
    rows_of_host,
)
from alexvgg_jax.models import Model, Params, build
from alexvgg_jax.optim import learning_rate, learning_rates, original_sgd
from alexvgg_jax.step import Metrics, State, Steps, compile_steps

console = Console(stderr=True)

STATISTICS_IMAGES = 100_000  # mean and colours of a larger set are those of so many
STATISTICS_PART = 128  # images at a time: 225 MB of ImageNet's, as float64 most of it


class Epoch(NamedTuple):
    """One line of a run's history; losses in nats, errors in %."""

    epoch: int
    step: int
    rate: float
    train_loss: float  # over the epoch's batches as they came, as the program prints
    train_error: float
    test_loss: float
    test_error: float
    test_top5: float
    seconds: float  # of training: without compilation and testing


@dataclass
class Position:
    """Where a run is; with the state, all that a checkpoint needs."""

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    sums: evaluation.Sums = evaluation.Sums()  # of the epoch so far
    seconds: float = 0.0  # of the epoch so far


@dataclass(frozen=True)
class Work:
    """What stays the same while a run trains."""

    run: Run
    source: Source
    test_source: Source
    net: Model
    mesh: Mesh
    steps: Steps
    stats: Statistics


class Trained(NamedTuple):
    """What training leaves."""

    work: Work
    history: list[Epoch]
    params: Params


def prepare(run: Run) -> Work:
    """Open the data, build the net, jit its steps. InputError if any does not fit."""
    _check_numbers(run)
    mesh = make_mesh(run.mesh)
    check_batch(run.batch, mesh, run.accumulate)
    source = open_source(run.data, "train")
    if run.batch > source.count:
        raise InputError(
            f"--batch {run.batch}: {source.about} has {source.count} images"
        )
    if len(source.classes) < 2:
        found = " ".join(source.classes)
        raise InputError(f"{source.about}: only one class, {found}")
    test_source = open_source(run.data, "test")
    meet("images", _images(source, test_source))
    net = net_of(run, {"classes": len(source.classes)})
    return Work(
        run=run,
        source=source,
        test_source=test_source,
        net=net,
        mesh=mesh,
        steps=compile_steps(
            net,
            original_sgd(run.optim),
            run.augment,
            mesh,
            accumulate=run.accumulate,
            zero=run.mesh.zero,
        ),
        stats=everywhere(_statistics(source), mesh),
    )


def net_of(run: Run, of_the_data: config.Switches) -> Model:
    """The run's net for images of its size, with the switches that its data decides.

    Raises InputError as `build`, and if the run itself has one of those switches.
    """
    model, size = run.model, run.augment.crop or run.data.size
    decided = {"image_size": size} | dict(of_the_data)
    if given := decided.keys() & model.switches.keys():
        raise InputError(f"--model.switches {min(given)}: the data says what it is")
    if given := {"remat", "compute"} & model.switches.keys():
        raise InputError(f"--model.switches {min(given)}: use --model.{min(given)}")
    switches: dict[str, Any] = decided | dict(model.switches)
    return build(model.name, remat=model.remat, compute=model.compute, **switches)


def _images(source: Source, test_source: Source) -> dict[str, Any]:
    """What tells them from other images, as JSON has it."""
    return {
        "set": source.about,
        "classes": list(source.classes),
        "training images": source.count,
        "test images": test_source.count,
        "training files": source.files,
        "test files": test_source.files,
    }


def _check_numbers(run: Run) -> None:
    """InputError for one that no net and no data could make right."""
    optim, augment = run.optim, run.augment
    for flag, value, least in (
        ("--batch", run.batch, 1),
        ("--accumulate", run.accumulate, 1),
        ("--epochs", run.epochs, 1),
        ("--checkpoint-every", run.checkpoint_every, 1),
        ("--until-error", run.until_error, 0),
        ("--data.size", run.data.size, 1),
        ("--augment.crop", augment.crop, 0),
        ("--augment.colour", augment.colour, 0),
        ("--augment.colour-epochs", augment.colour_epochs, 0),
        ("--optim.rate", optim.rate, 0),
        ("--optim.bias-rate", optim.bias_rate, 0),
        ("--optim.momentum", optim.momentum, 0),
        ("--optim.weight-decay", optim.weight_decay, 0),
        ("--optim.drop-epochs", min(optim.drop_epochs, default=0), 0),
        ("--optim.plateau", optim.plateau, 0),
        ("--optim.drops", optim.drops, 0),
        ("--seed", run.seed, 0),
    ):
        if not least <= value < math.inf:
            raise InputError(f"{flag} {value}: at least {least}")
    if run.augment.crop > run.data.size:
        raise InputError(
            f"--augment.crop {run.augment.crop}: the images are {run.data.size} wide"
        )
    if run.optim.plateau and run.optim.drop_epochs:
        raise InputError("--optim.plateau and --optim.drop-epochs: one or the other")


def _statistics(source: Source) -> Statistics:
    count = min(source.count, STATISTICS_IMAGES)
    numbers = np.linspace(0, source.count - 1, count).astype(np.int64)
    parts = np.array_split(numbers, -(-count // STATISTICS_PART))
    return statistics(source.fetch(part)[0] for part in parts)


def train(run: Run, directory: Path, *, resume: bool = False) -> Trained:
    """Train `run`; keep its settings, checkpoints and metrics in `directory`.

    With `resume`, go on from the newest checkpoint: the parameters at the end are the
    straight run's, bit for bit (on GPUs, where XLA sums in any order, if XLA_FLAGS has
    --xla_gpu_deterministic_ops=true). Raises InputError for a run that cannot be,
    Stopped when a signal ends it early, or a loss that is not finite, OSError if the
    disk is full, and JaxRuntimeError if a step does not fit the device.
    """
    all_devices()  # InputError if there are none
    meet("options", dataclasses.asdict(run) | {"resume": resume})
    work = prepare(run)
    init_key, key = _keys(work)
    state = work.steps.init(init_key)
    folder.check(directory, run, resume)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(directory / folder.CHECKPOINTS))
        )
        state, position = _restore(checkpoints, work, state, directory)
        signals = stack.enter_context(_signals())
        if not _done(run, position.history):
            folder.claim(directory, run)
            train_step = _compile(work, state, key)
        log = stack.enter_context(_log(work, directory, position.step))
        while not _done(run, position.history):
            with jax.transfer_guard("disallow"):  # each would make the devices wait
                state = _train_epoch(
                    work, train_step, state, position, key, log, signals
                )
                if not signals:
                    _end_epoch(work, state, position)
            if not signals:
                log.epoch(position.history[-1]._asdict())
            due = len(position.history) % run.checkpoint_every == 0
            if due or signals or _done(run, position.history):
                _save(checkpoints, work, state, position)
            if signals:
                raise Stopped(
                    f"interrupted at step {position.step}; --resume goes on from there",
                    128 + signals[0],
                )
    return Trained(work, position.history, state.params)


def _log(work: Work, directory: Path, step: int) -> Log:
    """From `step` on; of the other hosts quiet, and in folders of their own."""
    run, host = work.run, jax.process_index()
    return Log(
        Console(stderr=True, quiet=True) if host else console,
        directory / f"host{host}" if host else directory,
        work.net.name,
        run.epochs,
        first_step(run.epochs, work.source.count, run.batch),
        step,
        run.data.tested,
    )


def _keys(work: Work) -> tuple[jax.Array, jax.Array]:
    """Of the parameters that the run starts from, and of its steps."""
    return jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(work.run.seed))),
        out_shardings=replicated(work.mesh),
    )()


def untrained(work: Work) -> Params:
    """The parameters that the run starts from."""
    init_key, _ = _keys(work)
    return work.steps.init(init_key).params


def _done(run: Run, history: list[Epoch]) -> bool:
    reached = bool(history) and history[-1].train_error < run.until_error
    return reached or len(history) >= run.epochs


def _load(work: Work, step: int) -> Batch:
    run, rows = work.run, rows_of_host(work.run.batch, work.mesh)
    return place(train_batch(work.source, run.batch, run.seed, step, rows), work.mesh)


def _rate(work: Work, history: list[Epoch]) -> float:
    errors = [epoch.test_error for epoch in history]
    return learning_rate(work.run.optim, len(history), errors)


def _rates(work: Work, history: list[Epoch]) -> Any:
    """Those of every parameter, on the devices."""
    layers, errors = work.net.param_shapes(), [epoch.test_error for epoch in history]
    rates = learning_rates(work.run.optim, layers, len(history), errors)
    return everywhere(rates, work.mesh)


def _noise(work: Work, history: list[Epoch]) -> Statistics:
    """What augmentation draws from: no colours once their epochs are over."""
    last = work.run.augment.colour_epochs
    if not last or len(history) < last:
        return work.stats
    none = np.zeros(work.stats.components.shape, np.float32)
    return work.stats._replace(components=everywhere(none, work.mesh))


def _compile(work: Work, state: State, key: jax.Array) -> Callable:
    """The train step compiled ahead, so that no epoch's seconds hold a compilation."""
    with console.status("compiling"):
        arguments = (state, _load(work, 0), work.stats, _rates(work, []), key)
        return work.steps.train.lower(*arguments).compile()


def _train_epoch(
    work: Work,
    train_step: Callable,
    state: State,
    position: Position,
    key: jax.Array,
    log: Log,
    signals: list[int],
) -> State:
    """The state at the end of the epoch that `position` is in, or at a signal."""
    rate = _rate(work, position.history)
    rates, stats = _rates(work, position.history), _noise(work, position.history)
    end = first_step(len(position.history) + 1, work.source.count, work.run.batch)
    steps = range(position.step, end)
    begun, seconds_before = time.perf_counter(), position.seconds
    pending: Metrics | None = None
    for batch in prefetch(partial(_load, work, step) for step in steps):
        state, metrics = train_step(state, batch, stats, rates, key)
        if pending is not None:  # one step late, so that the devices never wait
            _collect(pending, position, rate, log)
        pending = metrics
        position.seconds = seconds_before + time.perf_counter() - begun
        if jax.process_count() > 1:  # all stop at one step, once one has a SIGTERM
            if multihost_utils.reached_preemption_sync_point(position.step):
                signals.append(signal.SIGTERM)
        if signals:
            break
    if pending is not None:
        _collect(pending, position, rate, log)
        position.seconds = seconds_before + time.perf_counter() - begun
    return state


def _collect(metrics: Metrics, position: Position, rate: float, log: Log) -> None:
    position.sums = evaluation.add(position.sums, metrics)
    position.step += 1
    means = evaluation.mean(position.sums)
    _check_finite(means.loss, position, rate)
    speed = position.sums.count / max(position.seconds, 1e-9)
    log.step(position.step, means.loss, means.top1, rate, speed)


def _check_finite(loss: float, position: Position, rate: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {position.step}, rate {rate:g}: stopped; "
            "checkpoints from before are kept",
            1,
        )


def _end_epoch(work: Work, state: State, position: Position) -> None:
    """Test the net, and move `position` from the end of one epoch into the next."""
    train_means = evaluation.mean(position.sums)
    test_means = test(work, state.params)
    rate = _rate(work, position.history)
    _check_finite(test_means.loss, position, rate)
    position.history.append(
        Epoch(
            epoch=len(position.history) + 1,
            step=position.step,
            rate=rate,
            train_loss=train_means.loss,
            train_error=train_means.top1,
            test_loss=test_means.loss,
            test_error=test_means.top1,
            test_top5=test_means.top5,
            seconds=position.seconds,
        )
    )
    position.sums, position.seconds = evaluation.Sums(), 0.0


def test(work: Work, params: Params) -> evaluation.Errors:
    """The errors of `params` on the whole test set."""
    rows = rows_of_host(work.run.batch, work.mesh)
    parts = eval_batches(work.test_source, work.run.batch, rows)
    batches = (place(part, work.mesh) for part in parts)
    return evaluation.evaluate(
        lambda batch: work.steps.eval(params, batch, work.stats), batches
    )


def predict(
    work: Work, params: Params, source: Source, kind: Views = "centre"
) -> tuple[Float[np.ndarray, "images classes"], Int32[np.ndarray, " images"]]:
    """The probabilities of every image of `source`, averaged over its views, and its
    labels. Raises InputError if more than one host holds the images, or if one cannot
    be decoded."""
    if jax.process_count() > 1:
        raise InputError("predictions are made on one host")
    parts, labels = [], []
    for batch in eval_batches(source, work.run.batch):
        rows = place(batch, work.mesh)
        probabilities = work.steps.predict(params, rows, work.stats, kind)
        parts.append(jax.device_get(probabilities)[batch.mask])
        labels.append(np.asarray(batch.labels)[batch.mask])
    return np.concatenate(parts), np.concatenate(labels)


def restored(directory: Path) -> tuple[Work, Params]:
    """A run on all devices of this machine, and its newest checkpoint's parameters.

    Raises InputError if the folder holds no run, or no checkpoint that fits, and if the
    images are not those that it was trained on, for their mean is not either.
    """
    run, devices = folder.settings(directory), len(all_devices())
    batch = max(run.batch // devices, 1) * devices
    work = prepare(replace(run, mesh=config.Mesh(), accumulate=1, batch=batch))
    like = work.steps.init(jax.random.key(0))
    state, progress = _newest(directory, like)
    _check_images(work, progress, directory)
    return work, state.params


def first_kernel(directory: Path) -> tuple[Float[np.ndarray, "h w colours maps"], int]:
    """The first layer's kernels in a run's newest checkpoint, and how many towers they
    are in. Needs no data. Raises as `restored`."""
    model = folder.settings(directory).model
    switches: dict[str, Any] = dict(model.switches)
    net = build(model.name, **switches)
    params = _newest(directory)[0]["params"]
    return np.asarray(params[net.rows[0].name]["kernel"]), net.towers


def _newest(directory: Path, like: Any = None) -> tuple[Any, dict[str, Any]]:
    path = directory / folder.CHECKPOINTS
    with contextlib.closing(Checkpoints(path)) as checkpoints:
        newest = checkpoints.restore(like)
    if newest is None:
        raise InputError(f"{directory}: no checkpoint there yet")
    return newest


def _check_images(work: Work, progress: dict[str, Any], directory: Path) -> None:
    for what, now in _images(work.source, work.test_source).items():
        if (then := progress["images"][what]) != now:
            raise InputError(
                f"{directory} was trained on other images: {what} {then}, not {now}"
            )


def _restore(
    checkpoints: Checkpoints, work: Work, state: State, directory: Path
) -> tuple[State, Position]:
    if (newest := checkpoints.restore(state)) is None:
        return state, Position()
    state, progress = newest
    _check_images(work, progress, directory)
    history = [Epoch(**epoch) for epoch in progress["history"]]
    sums = evaluation.Sums(*progress["sums"])
    return state, Position(progress["step"], history, sums, progress["seconds"])


def _save(
    checkpoints: Checkpoints, work: Work, state: State, position: Position
) -> None:
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), state.params)
    if not all(jax.device_get(jax.tree.leaves(finite))):
        raise Diverged(f"parameters are not finite at step {position.step}", 1)
    progress: dict[str, Any] = {
        "step": position.step,
        "history": [epoch._asdict() for epoch in position.history],
        "sums": list(position.sums),
        "seconds": position.seconds,
        "images": _images(work.source, work.test_source),
    }
    checkpoints.save(position.step, state, progress)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM, as a list that fills instead of an exception; a second one
    ends the program at once. With more hosts, jax takes SIGTERM and tells the others.
    """
    received: list[int] = []
    known = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()

    def receive(number: int, _: Any) -> None:
        received.append(number)
        for each in known:
            signal.signal(each, before[each])

    before = {number: signal.signal(number, receive) for number in known}
    try:
        yield received
    finally:
        for number in known:
            signal.signal(number, before[number])
