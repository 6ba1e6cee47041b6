"""Two processes of two devices each, as two hosts, against one process of four."""

import json
import os
import re
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import jax
import numpy as np
import processes
import pytest
from jax.experimental import multihost_utils

from alexvgg_jax.errors import InputError
from alexvgg_jax.hosts import check_agreement, check_shared, join_hosts

SMALL = ("--data.size", "12", "--epochs", "3", "--batch", "32")  # 10 steps
UNTIL_ENDED = ("--epochs", "1000")
DEAD = processes.HEARTBEAT + 60  # seconds until a host has seen that another died
ROUNDING = 1e-4  # of sums in another order, grown over the steps

# In this process.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("there:1", 0, -1), "all three"),
        (("", 2, 0), "all three"),
        (("there:1", -1, 0), "--hosts -1: at least 1"),
        (("there:1", 2, 2), "--host 2: from 0 to 1"),
        (("localhost", 2, 0), "not HOST:PORT"),
        (("localhost:abc", 2, 0), "not HOST:PORT"),
        (("localhost:99999", 2, 0), "not HOST:PORT"),
    ],
)
def test_hosts_that_cannot_be_joined(arguments, message):
    with pytest.raises(InputError, match=message):
        join_hosts(*arguments)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "2"), ("JOB_COMPLETION_INDEX", "0")],
)
def test_processes_that_jax_cannot_join_do_not_train_alone(
    variable, value, monkeypatch
):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    join_hosts()  # a single machine
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{variable} is set, .* pass --coordinator"):
        join_hosts()


def test_a_pod_without_a_job_trains_alone(monkeypatch):
    """jax would look for the job's other pods."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    seen = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **_: seen.append(dict(os.environ))
    )
    join_hosts()
    assert "KUBERNETES_SERVICE_HOST" not in seen[0]
    assert os.environ["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"


def test_hosts_with_other_images_are_refused(monkeypatch):
    """Each would train on its own images, in its own order."""

    def other_host(mine):
        return np.stack([mine, mine + np.uint32([0, 1])])

    check_agreement("images", {"set": "folder a", "train": 20})
    monkeypatch.setattr(multihost_utils, "process_allgather", other_host)
    with pytest.raises(InputError, match="the hosts have different images: train$"):
        check_agreement("images", {"set": "folder a", "train": 20})


@pytest.mark.parametrize("shared", [True, False])
def test_hosts_must_share_the_folder(tmp_path, monkeypatch, shared):
    """The other host's mark is there, or it is in another folder."""

    def sync(name):
        if shared:
            (tmp_path / "run" / ".host1").touch()

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", sync)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda mine: mine)
    if shared:
        check_shared(tmp_path / "run")
    else:
        with pytest.raises(InputError, match="--out .*run: not a folder that all"):
            check_shared(tmp_path / "run")
        assert not (tmp_path / "run").exists()


# In processes of their own.

STARTED: list[BaseProcess] = []


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory):
    """Three classes of 35 images to train on and 8 to test; `Host` finds them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 35), ("test", 8)):
        for name in "abc":
            folder = tmp_path_factory.getbasetemp() / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(12, 12, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return tmp_path_factory.getbasetemp() / "images"


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.join()


class Host:
    """The training command in a process of its own, and what it printed."""

    def __init__(self, folder: Path, devices: int, *arguments: str, **launcher: str):
        images = folder.parent.parent / "images"
        command = ("train", "digits", *SMALL, "--data.name", str(images))
        command += ("--out", str(folder), *arguments)
        self.log = folder.parent / f"{folder.name}{len(list(folder.parent.iterdir()))}"
        self.log.touch()
        self.process = processes.start(
            command,
            (self.log, self.log),
            launcher,
            jax_num_cpu_devices=devices,
            jax_platforms="cpu",
        )
        STARTED.append(self.process)

    def ends(self, seconds: float = 240) -> int:
        """Its exit code, once it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.log.read_text()
        return self.process.exitcode

    def ended(self, code: int = 0) -> str:
        """What it printed, once it has ended with that exit code."""
        actual = self.ends()
        printed = self.log.read_text()
        assert actual == code, printed
        return printed

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)


def at(address: str, host: int) -> tuple[str, ...]:
    return ("--coordinator", address, "--hosts", "2", "--host", str(host))


def two_hosts(
    folder: Path, *arguments: str, second: tuple[str, ...] = ()
) -> tuple[Host, Host]:
    """With arguments for both, and more for the second."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    first = Host(folder, 2, *at(address, 0), *arguments)
    return first, Host(folder, 2, *at(address, 1), *arguments, *second)


def two_tasks_of_slurm(folder: Path, *arguments: str) -> tuple[Host, Host]:
    first, second = (
        Host(
            *(folder, 2, *arguments),
            SLURM_JOB_ID=str(os.getpid()),  # jax derives a port from it
            SLURM_STEP_NODELIST="localhost",
            SLURM_NTASKS="2",
            SLURM_PROCID=str(task),
            SLURM_LOCALID="0",
        )
        for task in range(2)
    )
    return first, second


def wait_for_a_checkpoint(folder: Path, host: Host) -> None:
    while not (folder / "checkpoints" / "4").exists():
        assert host.process.exitcode is None, host.log.read_text()
        time.sleep(0.01)


def epochs(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "epoch" in line]


def first_losses(folder: Path) -> list[float]:
    """Of the epochs that one host trains; a run that is ended late has more."""
    first = epochs(folder)[:3]
    return [e[loss] for e in first for loss in ("train_loss", "test_loss")]


@pytest.fixture(scope="module")
def one_host(tmp_path_factory) -> list[float]:
    folder = tmp_path_factory.mktemp("runs") / "one"
    Host(folder, 4).ended()
    return first_losses(folder)


def test_two_tasks_of_slurm_train_as_one_process(one_host, tmp_path):
    for host in two_tasks_of_slurm(tmp_path / "two", "--mesh.zero"):
        host.ended()
    assert first_losses(tmp_path / "two") == pytest.approx(one_host, rel=ROUNDING)


def test_a_host_that_dies_ends_the_other_and_one_host_resumes(one_host, tmp_path):
    folder = tmp_path / "two"
    first, second = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, first)
    second.signal(signal.SIGKILL)
    assert first.ends(DEAD) != 0
    printed = first.log.read_text()
    assert printed.startswith("waiting for 2 hosts")
    assert "if one dies, all end, and --resume continues" in printed
    # "another task" is jax's, if it misses the heartbeats before Gloo misses data.
    assert re.search("another host died|another task died", printed), printed
    assert "Traceback" not in printed
    Host(folder, 4, "--resume").ended()
    assert first_losses(folder) == pytest.approx(one_host, rel=ROUNDING)


@pytest.mark.parametrize("interrupted", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_interrupted_host_ends_the_other(tmp_path, interrupted):
    folder = tmp_path / "two"
    hosts = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, hosts[0])
    hosts[interrupted].signal(signal.SIGINT)
    assert "interrupted" in hosts[interrupted].ended(130)
    assert hosts[1 - interrupted].ends(DEAD) != 0


@pytest.mark.slow
def test_an_error_of_one_host_ends_both(tmp_path):
    (tmp_path / "two").mkdir()
    in_its_way = tmp_path / "two" / "host1"  # where the second writes its metrics
    in_its_way.touch()
    first, second = two_hosts(tmp_path / "two")
    assert re.search(f"error: .*{in_its_way}", second.ended(1))
    assert first.ends(DEAD) != 0


@pytest.mark.parametrize(
    "where", ["train", pytest.param("test", marks=pytest.mark.slow)]
)
def test_a_picture_that_breaks_ends_both(one_host, tmp_path, images, where):
    """Only one host reads it. Nothing hangs, and both say why they end."""
    folder, picture = tmp_path / "two", images / where / "b" / "3.png"
    hosts = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, hosts[0])
    content = picture.read_bytes()
    picture.write_bytes(content[:40])
    try:
        ends = [host.ends(DEAD) for host in hosts]
    finally:
        picture.write_bytes(content)
    printed = [host.log.read_text() for host in hosts]
    assert 0 not in ends and "Traceback" not in "".join(printed), printed
    named = [bool(re.search(rf"^error: .*{picture}", p, re.M)) for p in printed]
    assert sorted(named) == [False, True], printed
    assert re.search("another (host|task) died", printed[named.index(False)]), printed


def test_the_first_host_dies(tmp_path):
    """jax itself ends the others and prints its stack, below our advice."""
    folder = tmp_path / "two"
    first, second = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, first)
    first.signal(signal.SIGKILL)
    assert second.ends(DEAD) != 0
    assert "if one dies, all end, and --resume continues" in second.log.read_text()


@pytest.mark.slow  # two tests above check the same in one process
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("--seed", "1"), "error: the hosts have different options: seed"),
        (("--out", "OTHER"), "error: --out .*two: not a folder that all hosts share"),
    ],
)
def test_hosts_that_differ(tmp_path, second, message):
    second = tuple(
        word.replace("OTHER", str(tmp_path / "b" / "two")) for word in second
    )
    for host in two_hosts(tmp_path / "two", second=second):
        printed = host.ended(1)  # Gloo prints its own lines at any time
        (line,) = re.findall("^error.*", printed, re.M)
        assert re.fullmatch(message, line)
        assert "Traceback" not in printed
    assert not list(tmp_path.glob("**/two"))


def test_ctrl_c_while_a_host_waits_for_the_others(tmp_path):
    host = Host(tmp_path / "two", 2, *at("localhost:1", 1))
    while "waiting for 2 hosts" not in host.log.read_text():
        assert host.process.exitcode is None, host.log.read_text()
        time.sleep(0.1)
    time.sleep(1)
    host.signal(signal.SIGINT)
    host.ended(-signal.SIGINT)


def test_a_closed_terminal_of_one_host_saves_on_both(one_host, tmp_path):
    """As SIGTERM does, which SIGHUP becomes."""
    folder = tmp_path / "two"
    hosts = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, hosts[0])
    hosts[1].signal(signal.SIGHUP)
    for host in hosts:
        assert "--resume continues from it" in host.ended(128 + signal.SIGTERM)
    for host in two_hosts(folder, "--resume"):
        host.ended()
    assert first_losses(folder) == pytest.approx(one_host, rel=ROUNDING)
