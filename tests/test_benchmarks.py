"""The benchmarks run, and write what they measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import mixed_precision
import pytest
import throughput

EXPERIMENTS = Path(throughput.__file__).parent


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Run a benchmark's main with options, and read what it wrote."""

    def run(benchmark, *arguments: str) -> dict:
        name = benchmark.__name__
        out = ("--out", str(tmp_path))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, *out])
        benchmark.main()
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def test_throughput(command_line, tmp_path):
    result = command_line(
        throughput, "--nets", "cifar-80sec", "--batch", "16", "--rounds", "1"
    )
    row = result["nets"]["cifar-80sec"]
    assert row["seconds"].keys() == {"training", "gradient", "inference"}
    for kind in ("training", "inference"):
        layers = list(row["layers"][kind])
        assert layers == ["conv1", "conv2", "conv3", "fc64", "fc10"]
    assert row["MB planned"] > 0
    assert row["loop"]["data"] == "digits"
    assert row["MB of training"] > 0
    assert "cifar-80sec" in (tmp_path / "throughput.txt").read_text()


def test_operations_of_a_training_step():
    """AlexNet §3.5: products forward and twice backward; none for the image itself."""
    net = throughput.build("alexnet-paper")
    conv1 = 55 * 55 * 96 * 11 * 11 * 3
    assert throughput.training_operations(net) == 2 * (3 * 724_406_816 - conv1)


def test_both_precisions_learn(command_line, tmp_path):
    result = command_line(mixed_precision, "--seeds", "1", "--epochs", "2")
    losses = {
        compute: [loss for _, loss in seeds[0]["curve"]]
        for compute, seeds in result["arms"].items()
    }
    assert list(losses) == ["float32", "bfloat16"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert (tmp_path / "mixed_precision.png").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is here"
)
def test_without_the_compiler_of_tpus():
    script = str(EXPERIMENTS / "tpu_ahead_of_time.py")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install 'jax[tpu]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_communication_of_nets_without_images():
    script = str(EXPERIMENTS / "communication.py")
    command = [sys.executable, script, "--nets", "vgg-d"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: --images: as many numbers as --nets\n",
    )


def test_communication(tmp_path):
    """The script's tables and picture, from a small version of its measurements."""
    script = str(EXPERIMENTS / "communication.py")
    small = ("--batch", "2", "--nets", "alexnet-owt", "--images", "1")
    small += ("--devices", "4", "--groups", "1", "2", "--out", str(tmp_path))
    subprocess.run([sys.executable, script, *small], check=True, capture_output=True)
    result = json.loads((tmp_path / "communication.json").read_text())
    towers = result["towers"]["two towers"]
    assert sum(row["bytes"] for row in towers) == 29_478_912 * 2 // 128
    whole, shared = (
        sum(row["bytes"] for row in rows)
        for rows in result["classifier"]["alexnet-owt"]["4"].values()
    )
    assert shared < 0.6 * whole
    assert "fc6" in (tmp_path / "communication.txt").read_text()
    assert (tmp_path / "communication.png").exists()
