"""The device mesh, how a step's arrays lie on it, and the hosts that share it."""

import contextlib
import importlib.util
import json
import math
import os
import signal
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexvgg_jax import config
from alexvgg_jax.errors import InputError

DATA = "data"  # each device of this axis has its own images
TOWER = "tower"  # each of these two has the same images, and a tower of AlexNet
MODEL = "model"  # each has its own images, and its part of the fully-connected layers
# How many processes an MPI launcher started: jax joins Open MPI 4's alone.
LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
SILENCE = 30  # seconds; jax by itself waits 100


def all_devices() -> list[Any]:
    """Those of all hosts. Raises InputError if jax finds none."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word
        reason = str(error) or f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')}"
        raise InputError(f"jax finds no devices: {reason.splitlines()[0]}") from None


def make_mesh(given: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data`, and of `tower` or `model` where a net is split, over the first
    devices of all hosts, or of `devices`.

    Raises InputError if there are fewer, or if they do not divide.
    """
    found = all_devices() if devices is None else list(devices)
    if not 0 <= given.devices <= len(found):
        raise InputError(f"--mesh.devices {given.devices}: there are {len(found)}")
    used = found[: given.devices or len(found)]
    if given.classifier < 1:
        raise InputError(f"--mesh.classifier {given.classifier}: at least 1")
    if given.towers and given.classifier > 1:
        raise InputError("--mesh.towers and --mesh.classifier: one or the other")
    together = 2 if given.towers else given.classifier
    if len(used) % together:
        flag = "towers" if given.towers else f"classifier {together}"
        raise InputError(
            f"--mesh.{flag}: {len(used)} devices do not divide into groups of "
            f"{together}"
        )
    hosts = range(jax.process_count())
    shares = [sum(d.process_index == host for d in used) for host in hosts]
    if devices is None and len(set(shares)) > 1:
        asked = f"--mesh.devices {len(used)}" if given.devices else "devices"
        raise InputError(
            f"{asked}: of them, the hosts would have "
            f"{', '.join(map(str, shares))}; each must have as many"
        )
    axes = {DATA: len(used) // together}
    if together > 1:
        axes[TOWER if given.towers else MODEL] = together
    # Auto: a model-sharded Linen convolution raises on an Explicit mesh.
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=used,
    )


def join_hosts(coordinator: str = "", hosts: int = 0, host: int = -1) -> None:
    """Make the devices of all hosts of a job one machine, before any is used.

    Without arguments, the job is what Slurm, MPI, Kubernetes or a TPU pod say it is; on
    a machine that belongs to none of them there is nothing to join. If one of them is
    silent for SILENCE seconds, jax ends the others. Raises InputError if some of the
    three are missing or wrong, or if a launcher's processes cannot be joined. Where the
    others do not come, and where the first dies, jax itself ends the process.
    """
    given = _given(coordinator, hosts, host)
    if not given and "JOB_COMPLETION_INDEX" in os.environ and not _finds_kubernetes():
        raise InputError(
            "JOB_COMPLETION_INDEX says that this is one pod of a Kubernetes job: "
            "pip install 'jax[k8s]', or give --coordinator, --hosts and --host"
        )
    try:
        with _ended_by_ctrl_c(), _no_pod_without_a_job():
            if given:
                jax.distributed.initialize(
                    *(coordinator, hosts, host),
                    # all devices, not one a task
                    cluster_detection_method="deactivate",
                    heartbeat_timeout_seconds=SILENCE,
                )
            else:
                jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE)
    except Exception as error:  # whatever a launcher's own package raises
        if given or "coordinator_address" not in str(error):
            first = (str(error) or type(error).__name__).splitlines()[0]
            who = f"--coordinator {coordinator}" if given else "this job's hosts"
            raise InputError(f"{who}: {first}") from None
    for count in LAUNCHED:
        if os.environ.get(count, "1") != "1" and not jax.distributed.is_initialized():
            raise InputError(
                f"{count} is {os.environ[count]}, but jax cannot join the processes of "
                "this launcher: give --coordinator, --hosts and --host"
            )


def _given(coordinator: str, hosts: int, host: int) -> bool:
    """Whether the three flags say who takes part. InputError if they are wrong."""
    given = (bool(coordinator), hosts != 0, host != -1)
    if not any(given):
        return False
    if not all(given):
        raise InputError("--coordinator, --hosts, --host: all three, or none of them")
    if hosts < 1:
        raise InputError(f"--hosts {hosts}: at least 1")
    if not 0 <= host < hosts:
        raise InputError(f"--host {host}: from 0 to {hosts - 1}, --hosts being {hosts}")
    name, _, port = coordinator.rpartition(":")
    if not (name and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator {coordinator}: not HOST:PORT")
    return True


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """jax waits for the others where Python does not get to see a signal."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_pod_without_a_job() -> Iterator[None]:
    """To jax any pod of Kubernetes is part of a job, whose others it looks for."""
    pod = "KUBERNETES_SERVICE_HOST"
    alone = "JOB_COMPLETION_INDEX" not in os.environ
    hidden = os.environ.pop(pod, None) if alone else None
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[pod] = hidden


def _finds_kubernetes() -> bool:
    """Whether jax can ask Kubernetes for the other pods."""
    return importlib.util.find_spec("kubernetes") is not None


def meet(what: str, given: dict[str, Any]) -> None:
    """Wait for all hosts. InputError if they were given different ones."""
    words = (json.dumps(value).encode() for value in given.values())
    mine = np.array([zlib.crc32(each) for each in words], np.uint32)
    agreed = (multihost_utils.process_allgather(mine) == mine).all(axis=0)
    for name, same in zip(given, agreed, strict=True):
        if not same:
            raise InputError(f"the hosts were given different {what}: {name}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Of an array that each device has whole."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """A batch's rows: split over all devices but a pair of towers."""
    return NamedSharding(mesh, P(_with_own_images(mesh)))


def _with_own_images(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in mesh.axis_names if axis != TOWER)


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises InputError, naming what would do, if the devices cannot share a batch, or
    each of so many parts of it."""
    devices = math.prod(mesh.shape[axis] for axis in _with_own_images(mesh))
    if accumulate < 1:
        raise InputError(f"--accumulate {accumulate}: at least 1")
    least = devices * accumulate
    if batch < 1 or batch % least:
        below = max(batch // least, 1) * least
        over = f"{devices} devices" + f", {accumulate} times" * (accumulate > 1)
        raise InputError(
            f"--batch {batch} does not divide over {over}; "
            f"{below} and {below + least} do"
        )


def rows_of_host(batch: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this host's devices hold, in order."""
    indices = over_data(mesh).addressable_devices_indices_map((batch,)).values()
    spans = {index[0].indices(batch) for index in indices if index is not None}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def everywhere(tree, mesh: Mesh):
    """A tree of NumPy arrays that every host has alike, whole on each device."""
    return _from_hosts(jax.tree.map(np.asarray, tree), replicated(mesh))


def _from_hosts(tree, sharding: NamedSharding):
    with jax.transfer_guard("allow"):  # one by purpose, which jax takes for an accident
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree
        )


def place(batch, mesh: Mesh):
    """A tree of NumPy arrays, this host's rows of a global batch in the order of
    `rows_of_host`, as arrays sharded over the devices."""
    return _from_hosts(batch, over_data(mesh))
