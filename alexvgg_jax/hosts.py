"""Several hosts that train together: how they join, agree, and end."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import write_text

HEARTBEAT = 30  # seconds of silence after which a host counts as dead (jax: 100)
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # processes that mpirun started
POD, POD_OF_JOB = "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"
DEAD_HOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "Socket closed")  # in errors


def join_hosts(coordinator: str = "", hosts: int = 0, host: int = -1) -> None:
    """Connect this process to the other hosts of its job; call it before using jax.

    Without arguments, jax asks Slurm, MPI, Kubernetes or the TPU pod, and a single
    machine joins nothing. Raises InputError for missing or wrong arguments, and for a
    job whose hosts cannot be joined. If a host dies, jax ends the others.
    """
    options: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT}
    if explicit := _check_arguments(coordinator, hosts, host):
        options |= {"coordinator_address": coordinator, "num_processes": hosts}
        # Without "deactivate", Slurm gives each task one device instead of all.
        options |= {"process_id": host, "cluster_detection_method": "deactivate"}
        # By default the first host listens on all of its addresses.
        options["coordinator_bind_address"] = coordinator
    # In a pod outside a job, jax would look for a job and fail.
    pod = os.environ.pop(POD, "") if POD_OF_JOB not in os.environ else ""
    try:
        with _ctrl_c_ends():
            jax.distributed.initialize(**options)
    except Exception as error:  # a launcher's own package can raise anything
        if explicit or "coordinator_address" not in str(error):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            who = f"--coordinator {coordinator}" if explicit else "joining the hosts"
            raise InputError(f"{who}: {reason}") from None
    finally:
        if pod:
            os.environ[POD] = pod
    _check_joined()


def _check_arguments(coordinator: str, hosts: int, host: int) -> bool:
    """Whether the three flags were used. Raises InputError if they are wrong."""
    used = (bool(coordinator), hosts != 0, host != -1)
    if not any(used):
        return False
    if not all(used):
        raise InputError("--coordinator, --hosts, --host: all three, or none of them")
    if hosts < 1:
        raise InputError(f"--hosts {hosts}: at least 1")
    if not 0 <= host < hosts:
        raise InputError(f"--host {host}: from 0 to {hosts - 1} for --hosts {hosts}")
    name, _, port = coordinator.rpartition(":")
    if not (name and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator {coordinator}: not HOST:PORT")
    return True


@contextlib.contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    """Let Ctrl-C end the process: while jax waits, Python does not see the signal."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_joined() -> None:
    """InputError if a launcher started several processes that jax did not join: each
    would train alone."""
    if jax.distributed.is_initialized():
        return
    launched = [name for name in MPI_SIZES if os.environ.get(name, "1") != "1"]
    launched += [POD_OF_JOB] if POD_OF_JOB in os.environ else []
    if launched:
        raise InputError(
            f"{launched[0]} is set, but jax did not join the processes of this job: "
            "pass --coordinator, --hosts and --host (or on Kubernetes: pip install "
            "'jax[k8s]')"
        )


def check_agreement(what: str, values: Mapping[str, Any]) -> None:
    """Wait for all hosts. Raises InputError on each if their `values` differ."""
    texts = (json.dumps(value).encode() for value in values.values())
    mine = np.array([zlib.crc32(text) for text in texts], np.uint32)
    agreed = (multihost_utils.process_allgather(mine) == mine).all(axis=0)
    for name, same in zip(values, agreed, strict=True):
        if not same:
            raise InputError(f"the hosts have different {what}: {name}")


def check_shared(folder: Path) -> None:
    """Wait for all hosts. Raises InputError on each unless they share the folder."""
    if jax.process_count() == 1:
        return
    marks = [folder / f".host{i}" for i in range(jax.process_count())]
    own = marks[jax.process_index()]
    write_text("", own)
    multihost_utils.sync_global_devices("marked")
    seen = np.array(all(mark.exists() for mark in marks))
    shared = multihost_utils.process_allgather(seen).all()
    own.unlink()
    if not shared:
        with contextlib.suppress(OSError):  # a folder with other files stays
            folder.rmdir()
        raise InputError(f"--out {folder}: not a folder that all hosts share")
    multihost_utils.sync_global_devices("looked")


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """A list that collects Ctrl-C, SIGTERM and SIGHUP (a closed terminal) instead of an
    exception; a second signal ends the program at once.

    It stays empty outside the main thread, which alone can handle signals. On several
    hosts, jax handles SIGTERM for all of them, which SIGHUP becomes, and Ctrl-C ends
    its host at once: the others would wait for it. Signals that are ignored stay so, as
    nohup wants it.
    """
    received: list[int] = []
    alone = jax.process_count() == 1
    numbers = [signal.SIGINT, signal.SIGHUP, *((signal.SIGTERM,) if alone else ())]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    ignored = (signal.SIG_IGN, None)  # None: handled by C++
    handled = [n for n in numbers if signal.getsignal(n) not in ignored]

    def receive(number: int, _: Any) -> None:
        if not alone and number == signal.SIGHUP:
            return signal.raise_signal(signal.SIGTERM)
        if not alone:
            end_process(KeyboardInterrupt())
        received.append(number)
        for each in handled:
            signal.signal(each, before[each])

    before = {number: signal.signal(number, receive) for number in handled}
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, before[number])


def end_process(error: BaseException) -> NoReturn:
    """Print the error and end this host at once: a normal exit would wait for the other
    hosts, and they for this one."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif not isinstance(error, InputError | OSError | jax.errors.JaxRuntimeError):
        message = traceback.format_exc()
    elif any(word in reason for word in DEAD_HOST):
        message = f"another host died ({reason}); --resume continues from the last "
        message += "checkpoint"
    else:
        message = f"error: {reason}"
    print(message, file=sys.stderr, flush=True)
    index = 0
    with contextlib.suppress(RuntimeError, AssertionError):  # jax has no devices
        index = jax.process_index()
    if index == 0:
        time.sleep(2)  # jax ends the other hosts with the first: let them print
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)
