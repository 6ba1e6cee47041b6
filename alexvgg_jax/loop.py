"""Training from start to end: the only file with a training loop."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from alexvgg_jax import evaluate
from alexvgg_jax import run as run_folder
from alexvgg_jax.augment import Statistics
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import Run
from alexvgg_jax.data.batches import Batch, first_step, prefetch, train_batch
from alexvgg_jax.data.decode import BadImages
from alexvgg_jax.errors import Diverged, Stopped
from alexvgg_jax.hosts import catch_signals, check_agreement
from alexvgg_jax.log import Log
from alexvgg_jax.models import Params
from alexvgg_jax.optim import learning_rate, learning_rates
from alexvgg_jax.progress import Epoch, Position, restore, save
from alexvgg_jax.ready import Work, keys, prepare
from alexvgg_jax.sharding import all_devices, everywhere, place, rows_of_host
from alexvgg_jax.start import start_from
from alexvgg_jax.step import State, Sums

GUESS_EPOCHS, GUESS_STEPS = 5, 1000
GUESSES = (
    "the net still guesses (its loss is ln(classes)): try another --optim.rate, "
    "--net.weight-init glorot or he, or the recipe photos-alexnet or photos-vgg"
)

console = Console(stderr=True)


class Trained(NamedTuple):
    """The result of training."""

    work: Work
    history: list[Epoch]
    params: Params


def train(
    run: Run, directory: Path, *, resume: bool = False, change: bool = False
) -> Trained:
    """Train `run`; keep its settings, checkpoints and metrics in `directory`.

    With `resume`, continue from the newest checkpoint. The final parameters then equal
    an uninterrupted run's bit for bit (on GPUs only if XLA_FLAGS contains
    --xla_gpu_deterministic_ops=true). With `change` too, go on with the new settings
    `optim` and `augment`. Raises InputError for a run that is impossible,
    Stopped when a signal or a loss that is not finite ends it, OSError if the disk is
    full, and JaxRuntimeError if a step does not fit the device.
    """
    all_devices()  # InputError if jax has none
    options = {"resume": resume, "change": change}
    check_agreement("options", dataclasses.asdict(run) | options)
    run = run_folder.continued(directory, run) if resume else run
    with contextlib.ExitStack() as stack:
        work = prepare(run, directory, resume, change, stack)
        init_key, key = keys(work)
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(directory / run_folder.CHECKPOINTS))
        )
        state, position = restore(checkpoints, work.steps.init(init_key))
        if not position.step:
            work, params = start_from(work, state.params)
            state = state._replace(params=params)
        signals = stack.enter_context(catch_signals())
        train_step = None
        if not _done(run, position.history):
            run_folder.write(directory, run, work.images, work.stats, position.step)
            train_step = _compile(work, state, key)
        log = stack.enter_context(_open_log(work, directory, position))
        stack.enter_context(_kept(checkpoints))
        if train_step:
            state = _train_epochs(
                work, train_step, state, position, checkpoints, log, signals
            )
    return Trained(work, position.history, state.params)


def _train_epochs(
    work: Work,
    train_step: Callable,
    state: State,
    position: Position,
    checkpoints: Checkpoints,
    log: Log,
    signals: list,
) -> State:
    """The state at the end of the run."""
    run = work.run
    while not _done(run, position.history):
        epochs = len(position.history)
        with jax.transfer_guard("disallow"):  # a transfer would stall the devices
            state = _train_epoch(work, train_step, state, position, log, signals)
            if not signals:
                with _stopped_by_images(signals):
                    _end_epoch(work, state, position)
        if len(position.history) > epochs:
            log.epoch(position.history[-1]._asdict())
            if _guesses(position.history, len(work.source.classes)):
                log.note(GUESSES)
        due = len(position.history) % run.checkpoint_every == 0
        if due or signals or _done(run, position.history):
            save(checkpoints, state, position)
        if signals:
            raise _stopped(signals[0], position.step)
    return state


def _stopped(cause: int | BadImages, step: int) -> Stopped:
    """What a signal or damaged images end with, after a checkpoint was saved."""
    saved = f"a checkpoint of step {step} is saved"
    if isinstance(cause, BadImages):
        restore = "restore pictures that have changed since the start"
        return Stopped(f"{cause}: stopped; {saved}; {restore}", 1)
    return Stopped(f"interrupted; {saved}", 128 + cause)


@contextlib.contextmanager
def _stopped_by_images(signals: list) -> Iterator[None]:
    """Treat damaged images like a signal, so that a checkpoint is saved. Not on several
    hosts: the others have good images and train on."""
    try:
        yield
    except BadImages as error:
        if jax.process_count() > 1:
            raise
        signals.append(error)


@contextlib.contextmanager
def _kept(checkpoints: Checkpoints) -> Iterator[None]:
    """Let Diverged say whether there are checkpoints."""
    try:
        yield
    except Diverged as end:
        kept = "; earlier checkpoints are kept" if checkpoints.steps() else ""
        raise Diverged(f"{end}{kept}", end.exit_code) from None


def _open_log(work: Work, directory: Path, position: Position) -> Log:
    """A log that continues from `position`. Hosts other than the first print nothing
    and have their own folders."""
    run, host = work.run, jax.process_index()
    return Log(
        Console(stderr=True, quiet=True) if host else console,
        directory / f"host{host}" if host else directory,
        run.name,
        run.epochs,
        first_step(run.epochs, work.source.count, run.batch),
        position.step,
        [epoch._asdict() for epoch in position.history],
        run.data.tested,
    )


def _done(run: Run, history: list[Epoch]) -> bool:
    reached = bool(history) and history[-1].train_error < run.until_error
    return reached or len(history) >= run.epochs


def _guesses(history: list[Epoch], classes: int) -> bool:
    """Whether the training loss is still ln(classes) at the end of the first epoch
    after which 5 epochs or 1,000 steps have passed."""
    passed = [e.epoch >= GUESS_EPOCHS or e.step >= GUESS_STEPS for e in history]
    is_first = passed[-1] and not any(passed[:-1])
    return is_first and history[-1].train_loss > 0.98 * math.log(classes)


def _load(work: Work, step: int) -> Batch:
    run, rows = work.run, rows_of_host(work.run.batch, work.mesh)
    batch = train_batch(work.source, run.batch, run.seed, step, rows, run.data.shuffle)
    return place(batch, work.mesh)


def _schedule(work: Work, history: list[Epoch]) -> tuple[float, Any, Statistics]:
    """The learning rate, the rates of all parameters, and the statistics for
    augmentation, which have no colours after `colour_epochs`."""
    run, errors = work.run, [epoch.test_error for epoch in history]
    rate = learning_rate(run.optim, len(history), errors)
    rates = learning_rates(run.optim, work.net.param_shapes(), len(history), errors)
    stats, last = work.stats, run.augment.colour_epochs
    if last and len(history) >= last:
        none = np.zeros(stats.components.shape, np.float32)
        stats = stats._replace(components=everywhere(none, work.mesh))
    return rate, everywhere(rates, work.mesh), stats


def _compile(work: Work, state: State, key: jax.Array) -> Callable:
    """The train step, a function of (state, batch, stats, rates), compiled ahead, so
    that no epoch's seconds include compilation."""
    with console.status("compiling"):
        _, rates, stats = _schedule(work, [])
        arguments = (state, _load(work, 0), stats, rates, key)
        compiled = work.steps.train.lower(*arguments).compile()
    return lambda *changing: compiled(*changing, key)


def _train_epoch(
    work: Work,
    train_step: Callable,
    state: State,
    position: Position,
    log: Log,
    signals: list,
) -> State:
    """The state at the end of the current epoch, or at a signal."""
    rate, rates, stats = _schedule(work, position.history)
    end = first_step(len(position.history) + 1, work.source.count, work.run.batch)
    steps = range(position.step, end)
    start, seconds_before = time.perf_counter(), position.seconds
    pending: Sums | None = None
    for batch in _good_batches(work, steps, signals):
        state, sums = train_step(state, batch, stats, rates)
        if pending is not None:  # one step late, so that the devices never wait
            _collect(pending, position, rate, log)
        pending = sums
        position.seconds = seconds_before + time.perf_counter() - start
        if jax.process_count() > 1:  # after a SIGTERM, all hosts stop at the same step
            if multihost_utils.reached_preemption_sync_point(position.step):
                signals.append(signal.SIGTERM)
        if signals:
            break
    if pending is not None:
        _collect(pending, position, rate, log)
        position.seconds = seconds_before + time.perf_counter() - start
    return state


def _good_batches(work: Work, steps: range, signals: list) -> Iterator[Batch]:
    """The batches of these steps, up to one with damaged images."""
    with _stopped_by_images(signals):
        yield from prefetch(partial(_load, work, step) for step in steps)


def _collect(sums: Sums, position: Position, rate: float, log: Log) -> None:
    position.sums = evaluate.add(position.sums, sums)
    position.step += 1
    means = evaluate.score(position.sums)
    _check_finite(means.loss, position, rate)
    speed = float(position.sums.count) / max(position.seconds, 1e-9)
    log.step(position.step, means.loss, means.top1, rate, speed)


def _check_finite(loss: float, position: Position, rate: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {position.step}, rate {rate:g}: stopped", 1
        )


def _end_epoch(work: Work, state: State, position: Position) -> None:
    """Test the net, and move `position` to the start of the next epoch."""
    trained = evaluate.score(position.sums)
    tested = evaluate.test(work, state.params, work.test_source)
    rate, *_ = _schedule(work, position.history)
    _check_finite(tested.loss, position, rate)
    position.history.append(
        Epoch(
            epoch=len(position.history) + 1,
            step=position.step,
            rate=rate,
            train_loss=trained.loss,
            train_error=trained.top1,
            test_loss=tested.loss,
            test_error=tested.top1,
            test_top5=tested.top5,
            seconds=position.seconds,
        )
    )
    position.sums, position.seconds = Sums(), 0.0
