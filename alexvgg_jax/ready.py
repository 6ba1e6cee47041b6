"""A run that is ready to train or to be tested: its net on a mesh, compiled steps,
images, and parameters."""

import contextlib
import dataclasses
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh as DeviceMesh
from jaxtyping import Float
from rich.console import Console

from alexvgg_jax import run as run_folder
from alexvgg_jax.augment import Statistics
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import Data, Mesh, Run
from alexvgg_jax.data.sources import Source, find_source, with_classes
from alexvgg_jax.errors import InputError
from alexvgg_jax.hosts import check_agreement, check_shared
from alexvgg_jax.models import Net, Params
from alexvgg_jax.optim import original_sgd
from alexvgg_jax.sharding import (
    all_devices,
    check_batch,
    everywhere,
    make_mesh,
    replicated,
)
from alexvgg_jax.step import Steps, compile_steps

console = Console(stderr=True)


@dataclass(frozen=True)
class Setup:
    """A run's net on a mesh, and what it needs to read images."""

    run: Run
    images: run_folder.Images  # that it was trained on
    net: Net
    mesh: DeviceMesh
    steps: Steps
    stats: Statistics


@dataclass(frozen=True)
class Work(Setup):
    """What stays the same while a run trains."""

    source: Source
    test_source: Source


def compile_run(run: Run, classes: int, mesh: DeviceMesh) -> tuple[Net, Steps]:
    """The run's net and its steps. Raises InputError if they do not fit."""
    net = run_folder.net_of(run, classes)
    steps = compile_steps(
        net,
        original_sgd(run.optim),
        run.augment,
        mesh,
        accumulate=run.accumulate,
        zero=run.mesh.zero,
    )
    return net, steps


def load(directory: Path) -> tuple[Setup, Params]:
    """A trained run on all devices of this machine: no images are read.

    Raises InputError if the folder holds no run, or no checkpoint of its net.
    """
    run, devices = run_folder.settings(directory), len(all_devices())
    images = run_folder.read_images(directory)
    batch = max(run.batch // devices, 1) * devices
    run = replace(run, mesh=Mesh(), accumulate=1, batch=batch)
    mesh = make_mesh(run.mesh)
    net, steps = compile_run(run, len(images.classes), mesh)
    params = load_params(directory)
    if _shapes(params) != _shapes(net.param_shapes()):
        raise InputError(f"{directory}: its checkpoint is of another net")
    stats = everywhere(run_folder.read_statistics(directory), mesh)
    setup = Setup(run, images, net, mesh, steps, stats)
    return setup, everywhere(params, mesh)


def load_params(directory: Path) -> Params:
    """The parameters of a run's newest checkpoint. InputError if there is none."""
    with closing(Checkpoints(directory / run_folder.CHECKPOINTS)) as checkpoints:
        newest: Any = checkpoints.restore()
    if newest is None:
        raise InputError(f"{directory}: no checkpoint there yet")
    return newest[0]["params"]


def first_kernel(directory: Path) -> tuple[Float[np.ndarray, "h w colours maps"], int]:
    """The first layer's kernels of a trained run, and the number of its towers."""
    net = run_folder.net_of(run_folder.settings(directory))
    params = load_params(directory)
    return np.asarray(params[net.layers()[0].name]["kernel"]), net.tower_count


def find_test_images(
    directory: Path, name: str, skip_bad: bool = False
) -> tuple[Source, str]:
    """The images to test the run in `directory` on, and what they are called: "test" or
    "held-out".

    Without `name` they are the run's own. If `name` is the set that the run was trained
    on, they are its test images. If it is another set, they are all of its images. TFDS
    downloads and prepares only a set that `name` names, not the run's own.
    """
    data = run_folder.settings(directory).data
    images = run_folder.read_images(directory)
    named = replace(data, name=name or data.name, skip_bad=skip_bad or data.skip_bad)
    digest = _digest(named, prepare=bool(name))
    same = digest == images.digest
    if name:
        split = "test" if same else "all"
        source, called = find_source(replace(named, held_out=0), split), "test"
    else:
        source, called = find_source(named, "test", prepare=False), data.tested
        if digest and not same:
            changed = f"{source.about}: the run was trained on other images"
            source = replace(source, note="; ".join([changed, source.note]).strip("; "))
    return with_classes(source, images.classes), called


def _digest(data: Data, prepare: bool) -> str:
    """The digest of a set's training and test images, or "" if it lacks one part."""
    try:
        parts = [find_source(data, split, prepare) for split in ("train", "test")]
    except InputError:
        return ""
    return run_folder.images_of(*parts).digest


def prepare(
    run: Run,
    directory: Path,
    resume: bool,
    change: bool,
    stack: contextlib.ExitStack,
) -> Work:
    """Open the data, build the net, lock the folder until `stack` ends, and read or
    compute the statistics of the training set. InputError if anything does not fit."""
    if run.optim.frozen_epochs and not run.init_from:
        flag = f"--optim.frozen-epochs {run.optim.frozen_epochs:g}"
        raise InputError(f"{flag}: --init-from must name trained weights")
    mesh = make_mesh(run.mesh)
    check_batch(run.batch, mesh, run.accumulate)
    source, test_source, images = run_folder.open_images(run)
    parts = dict.fromkeys(f"{source.note}; {test_source.note}".split("; "))
    notes = "; ".join(filter(None, parts))
    if notes and not jax.process_index():
        console.print(notes, soft_wrap=True, highlight=False, markup=False)
    check_agreement("images", dataclasses.asdict(images))
    net, steps = compile_run(run, len(source.classes), mesh)
    check_shared(directory)
    stack.enter_context(run_folder.locked(directory))
    if run_folder.check(directory, run, images, resume, change):
        stats = run_folder.read_statistics(directory)
    else:
        stats = run_folder.training_statistics(source)
    return Work(
        run=run,
        images=images,
        net=net,
        mesh=mesh,
        steps=steps,
        stats=everywhere(stats, mesh),
        source=source,
        test_source=test_source,
    )


def keys(work: Work) -> tuple[jax.Array, jax.Array]:
    """The keys of the initial parameters and of the steps."""
    return jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(work.run.seed))),
        out_shardings=replicated(work.mesh),
    )()


def _shapes(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, params)
