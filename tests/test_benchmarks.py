"""The benchmarks run, and their committed tables are those of their records."""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import communication
import input_speed
import mixed_precision
import pytest
import start_time
import testing_time
import throughput
import vgg_memory

from alexvgg_jax import ledger, loop, memory

BENCHMARKS = Path(throughput.__file__).parent


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Run a benchmark's main with options, and return its record and its tables."""

    def run(benchmark, *arguments: str) -> tuple[dict, str]:
        name = benchmark.__name__
        out = ("--out", str(tmp_path))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, *out])
        benchmark.main()
        record = (tmp_path / f"{name}.json").read_text()
        return json.loads(record), (tmp_path / f"{name}.txt").read_text()

    return run


@pytest.mark.parametrize(
    "path", [*(BENCHMARKS / "results").glob("*.json")], ids=lambda path: path.stem
)
def test_committed_tables(path):
    """At most 100 characters wide."""
    result = json.loads(path.read_text())
    page = importlib.import_module(result["name"]).page(result)
    assert path.with_suffix(".txt").read_text() == page
    assert max(map(len, page.splitlines())) <= 100


def test_throughput(command_line, monkeypatch):
    monkeypatch.setattr(throughput, "new_process", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(throughput, "PEAK_SIZE", 64)
    monkeypatch.setattr(throughput, "ROUND_SECONDS", 0.01)
    result, table = command_line(
        throughput, "--nets", "cifar-80sec", "--batch", "2", "--rounds", "1"
    )
    net = result["nets"]["cifar-80sec"]
    assert net["images a second"].keys() == {"training", "inference"}
    assert "cifar-80sec" in table


def test_start_time(command_line, monkeypatch):
    """A second process reads what the first one of its round compiled."""
    folders = []

    def seconds(name, folder):
        folders.append(folder)
        return float(len(folders))

    monkeypatch.setattr(start_time, "new_process", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(start_time, "first_step_seconds", seconds)
    result, table = command_line(start_time, "--nets", "cifar-80sec", "--rounds", "3")
    assert folders[::2] == folders[1::2] and len(set(folders)) == 3
    assert [*result["nets"]["cifar-80sec"].values()] == [[1, 3, 5], [2, 4, 6]]
    assert table.splitlines()[-1].split() == ["cifar-80sec", "32", "3.0", "4.0"]


def test_operations_of_a_training_step():
    """AlexNet §3.5: one forward and two backward products; none for the image."""
    conv1 = 55 * 55 * 96 * 11 * 11 * 3
    operations = throughput.training_operations(throughput.build("alexnet-paper"))
    assert operations == 2 * (3 * 724_406_816 - conv1)


def test_ratios_and_the_faster_layout():
    net = throughput.build("cifar-80sec")
    rounds = {
        "jax": [1.0, 2.0, 1.0],
        "contiguous_format": [3.0, 1.0, 4.0],
        "channels_last": [2.0, 2.0, 2.0],
    }
    memory = {"jax": 100, "contiguous_format": 50, "channels_last": 200}
    seconds = dict.fromkeys(("training", "inference", "peak"), rounds)
    torch = throughput.figures(net, 4, seconds, memory)["torch"]
    assert torch["times as fast"] == {"training": 2.0, "inference": 2.0}
    assert torch["memory ratio"] == 0.5


def test_mixed_precision(command_line, monkeypatch, tmp_path):
    """Both dtypes train the same net with the same seeds."""

    def train(run, folder):
        loss = 1.0 if run.net.compute == "float32" else 1.01
        epochs = [
            loop.Epoch(i, 11 * i, 0.001, loss / i, 50.0, loss / i, 50.0, 10.0, 2.0)
            for i in range(1, run.epochs + 1)
        ]
        return SimpleNamespace(history=epochs)

    monkeypatch.setattr(loop, "train", train)
    result, table = command_line(mixed_precision, "--seeds", "1", "--epochs", "2")
    assert result["arms"]["bfloat16"][0]["curve"] == [[1, 1.01], [2, 0.505]]
    assert table.count("50.00") == 2
    assert (tmp_path / "mixed_precision.png").exists()


def test_memory_of_vgg(command_line, monkeypatch):
    """VGG Table 2: parameters and outputs by layer, against counts by hand."""
    needed = memory.Memory(*(i * 2**20 for i in range(1, 7)))
    monkeypatch.setattr(memory, "of_training", lambda net, batch: needed)
    result, table = command_line(vgg_memory, "--batch", "2")
    layers = result["layers"]
    assert layers["conv1_1"]["outputs"] == 2 * 224 * 224 * 64 * 4 / 2**20
    assert layers["fc7"]["parameters"] == (4096 + 1) * 4096 * 4 / 2**20
    assert max(layers, key=lambda name: layers[name]["parameters"]) == "fc6"
    assert result["steps"]["gap, remat"]["total"] == 6
    assert table.count("2 images of 224 pixels") == 2


def test_input_speed(command_line, monkeypatch):
    """Every reader that is installed reads all images."""
    monkeypatch.setattr(input_speed, "new_process", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(input_speed, "IMAGENET", 10_000)
    monkeypatch.setattr(input_speed.os, "sched_setaffinity", lambda *_: None)
    small = ("--images", "20", "--size", "16", "--batch", "8", "--rounds", "1")
    result, table = command_line(input_speed, *small)
    assert {"alexvgg_jax", "decoding alone"} <= result["images a second"].keys()
    assert result["count"] == 18 and result["data"] == "noise"
    taken = result["imagenet"]
    assert taken["GB"] == 10_000 * taken["bytes an image"] / 1e9
    assert "10,000 training images" in table


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None,
    reason="the TPU compiler is installed",
)
def test_without_the_tpu_compiler():
    script = str(BENCHMARKS / "tpu.py")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install 'jax[tpu]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_communication_of_two_towers(monkeypatch, tmp_path):
    """AlexNet §3.2: the bytes of each layer, and the plot of the committed record."""
    received = Counter({ledger.Entry("conv3", False, "all-gather", 2): 7})
    monkeypatch.setattr(ledger, "compiled", lambda *_: SimpleNamespace(as_text=str))
    monkeypatch.setattr(ledger, "read", lambda *_: received)
    entries = communication.exchanged(
        communication.PAPER.net, 128, communication.SPLITS["two towers"]
    )
    forward = communication.megabytes(entries, layer="conv3", backward=False)
    assert forward == 7 / 1e6
    result = json.loads((BENCHMARKS / "results" / "communication.json").read_text())
    needed = communication.megabytes(result["towers"]["two towers"], "least")
    assert communication.megabytes(entries, "least") == needed
    communication.draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_testing_time(command_line):
    """VGG §3.2: the times of dense evaluation and of crops, and what they compute."""
    small = ("--width", "0.015625", "--scale", "224", "--rounds", "1")
    result, printed = command_line(testing_time, *small)
    crops, centre = (result["protocols"][name] for name in ("multi-crop", "centre"))
    assert crops["multiply-adds"] == 50 * centre["multiply-adds"]
    assert len(crops["seconds"]) == 1 and crops["seconds"][0] > centre["seconds"][0]
    (row,) = (line.split() for line in printed.splitlines() if "multi-crop" in line)
    assert row[-2:] == ["1.0", "1.0"]  # beside itself
