"""Two processes of two devices each, as two hosts, against one process of four."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from alexvgg_jax.mesh import SILENCE

SMALL = ("--data.size", "16", "--augment.crop", "14", "--epochs", "6")
SMALL += ("--checkpoint-every", "3")  # 34 steps
UNTIL_ENDED = ("--epochs", "1000")
ROUNDING = 1e-4  # of sums in another order, grown over 68 steps


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()


class Host:
    """The training command in a process of its own, and what it printed."""

    def __init__(self, folder: Path, devices: int, *arguments: str, **launcher: str):
        command = [sys.executable, "-m", "alexvgg_jax", "train", "digits", *SMALL]
        self.log = folder.parent / f"{folder.name}{len(list(folder.parent.iterdir()))}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--out", str(folder), *arguments],
                env=os.environ
                | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
                | launcher,
                stdout=log,
                stderr=log,
            )
        STARTED.append(self.process)

    def ended(self, code: int = 0) -> str:
        """What it printed, once it has ended with that exit code."""
        found = self.process.wait(timeout=240)
        printed = self.log.read_text()
        assert found == code, printed
        return printed


def at(address: str, host: int) -> tuple[str, ...]:
    return ("--coordinator", address, "--hosts", "2", "--host", str(host))


def two_hosts(
    folder: Path, *arguments: str, second: tuple[str, ...] = (), **of_second: str
) -> tuple[Host, Host]:
    """With arguments of both, and arguments and environment of the second alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    hosts = (
        Host(folder, 2, *at(address, host), *arguments, *words, **environment)
        for host, (words, environment) in enumerate([((), {}), (second, of_second)])
    )
    return next(hosts), next(hosts)


def two_tasks_of_slurm(folder: Path, *arguments: str) -> tuple[Host, Host]:
    first, second = (
        Host(
            *(folder, 2, *arguments),
            SLURM_JOB_ID=str(os.getpid()),  # of which jax makes a port
            SLURM_STEP_NODELIST="localhost",
            SLURM_NTASKS="2",
            SLURM_PROCID=str(task),
            SLURM_LOCALID="0",
        )
        for task in range(2)
    )
    return first, second


def wait_for_a_checkpoint(folder: Path, host: Host) -> None:
    while not (folder / "checkpoints" / "34").exists():
        assert host.process.poll() is None, host.log.read_text()
        time.sleep(0.01)


def epochs(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "epoch" in line]


def first_losses(folder: Path) -> list[float]:
    """Of as many epochs as one host trains: one that is ended late has more."""
    first = epochs(folder)[:6]
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
    second.process.send_signal(signal.SIGKILL)
    assert first.process.wait(timeout=SILENCE + 60) != 0
    printed = first.log.read_text()
    assert printed.startswith("waiting for 2 hosts")
    # The second is jax's own, where it misses the heartbeats before Gloo the data.
    assert re.search("another host has died|another task died", printed), printed
    assert "Traceback" not in printed
    Host(folder, 4, "--resume").ended()
    assert first_losses(folder) == pytest.approx(one_host, rel=ROUNDING)


def test_a_host_that_is_interrupted_ends_the_other(tmp_path):
    folder = tmp_path / "two"
    first, second = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, first)
    second.process.send_signal(signal.SIGINT)
    assert "interrupted" in second.ended(130)
    assert first.process.wait(timeout=SILENCE + 60) != 0


def test_an_error_of_one_host_ends_both(tmp_path):
    (tmp_path / "two").mkdir()
    in_its_way = tmp_path / "two" / "host1"  # where the second writes what it measures
    in_its_way.touch()
    first, second = two_hosts(tmp_path / "two")
    assert re.search(f"error: .*{in_its_way}", second.ended(1))
    assert first.process.wait(timeout=SILENCE + 60) != 0


def test_the_first_host_dies(tmp_path):
    """jax itself ends the others, and prints its own stack; what to do stands above."""
    folder = tmp_path / "two"
    first, second = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, first)
    first.process.send_signal(signal.SIGKILL)
    assert second.process.wait(timeout=SILENCE + 60) != 0
    assert "if one dies, all end, and --resume goes on" in second.log.read_text()


def test_hosts_with_different_options(tmp_path):
    for host in two_hosts(tmp_path / "two", second=("--seed", "1")):
        printed = host.ended(1)  # Gloo's own lines come when they like
        assert re.findall("^error.*", printed, re.M) == [
            "error: the hosts were given different options: seed"
        ]
        assert "Traceback" not in printed
    assert not (tmp_path / "two" / "run.json").exists()


def test_hosts_with_different_images(tmp_path, monkeypatch):
    """Each would take its own for the whole set's, in an order of its own."""
    for home, count in (("first", 20), ("second", 21)):
        for name in "ab":
            (tmp_path / home / "set" / name).mkdir(parents=True)
            for i in range(count):
                image = np.full((16, 16, 3), i, np.uint8)
                cv2.imwrite(str(tmp_path / home / "set" / name / f"{i}.png"), image)
    monkeypatch.setenv("HOME", str(tmp_path / "first"))
    given = ("--data.name", "~/set", "--batch", "8")
    for host in two_hosts(tmp_path / "two", *given, HOME=str(tmp_path / "second")):
        assert re.findall("^error.*", host.ended(1), re.M) == [
            "error: the hosts were given different images: training images"
        ]
    assert not (tmp_path / "two" / "run.json").exists()


def test_hosts_without_a_shared_folder(tmp_path):
    (tmp_path / "b").mkdir()
    second = ("--out", str(tmp_path / "b" / "two"))
    for host in two_hosts(tmp_path / "two", second=second):
        printed = host.ended(1)
        assert re.findall("^error.*", printed, re.M)[0].endswith("all hosts share")
        assert "Traceback" not in printed
    assert not list(tmp_path.glob("**/two"))


def test_a_run_that_only_the_first_host_sees(tmp_path):
    for folder in ("a/two", "b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a" / "two" / "run.json").write_text("{}")
    second = ("--out", str(tmp_path / "b" / "two"))
    for host in two_hosts(tmp_path / "a" / "two", "--resume", second=second):
        assert "all hosts share" in host.ended(1)


def test_ctrl_c_while_a_host_waits_for_the_others(tmp_path):
    host = Host(tmp_path / "two", 2, *at("localhost:1", 1))
    while "waiting for 2 hosts" not in host.log.read_text():
        assert host.process.poll() is None, host.log.read_text()
        time.sleep(0.1)
    time.sleep(1)
    host.process.send_signal(signal.SIGINT)
    host.ended(-signal.SIGINT)


def test_sigterm_on_one_host_saves_on_both(one_host, tmp_path):
    folder = tmp_path / "two"
    hosts = two_hosts(folder, *UNTIL_ENDED)
    wait_for_a_checkpoint(folder, hosts[0])
    hosts[1].process.send_signal(signal.SIGTERM)
    for host in hosts:
        assert "--resume goes on from there" in host.ended(128 + signal.SIGTERM)
    for host in two_hosts(folder, "--resume"):
        host.ended()
    assert first_losses(folder) == pytest.approx(one_host, rel=ROUNDING)
