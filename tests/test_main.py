import dataclasses
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import alexnet_imagenet
import cifar_ladder
import communication
import jax
import pytest
import throughput
import tpu_ahead_of_time
import tpu_scaling
import tyro
from _arms import Options

from alexvgg_jax import __main__, errors, loop, report
from alexvgg_jax.__main__ import PAIRS, Train
from alexvgg_jax.config import Augment, Data, Mesh, Model, Optim, Run
from alexvgg_jax.models import MODELS

OF_ONE = (  # the options of one experiment, or of all
    Options,
    alexnet_imagenet.ImageNetOptions,
    cifar_ladder.LadderOptions,
    communication.Options,
    throughput.Options,
    tpu_ahead_of_time.Options,
    tpu_scaling.Options,
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "alexvgg_jax", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def one_line(*arguments: str) -> str:
    """The single line that a wrong command prints."""
    ended = run(*arguments)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_summary_prints_the_net():
    printed = run("summary", "vgg-d").stdout
    assert "138,357,544" in printed
    assert "15,470,264,320" in printed


def test_summary_takes_switches():
    printed = run("summary", "vgg-d", "--switches", "head", "gap", "width", "0.5")
    assert "average" in printed.stdout and "fc6" not in printed.stdout


def test_summary_of_a_larger_image():
    """VGG §3.2: the class score map of D over 256 pixels."""
    dense = ("--switches", "head", "dense")
    lines = run("summary", "vgg-d", "--over", "256", *dense).stdout.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert cells["fc8"][0] == "2x2x1000"
    assert cells["total"][0] == "138,357,544"


def test_summary_of_training_memory():
    small = ("--switches", "width", "0.125", "--batch", "8")
    printed = run("summary", "vgg-a", "--train", *small).stdout
    assert "8 images of 224x224x3" in printed
    cells = [line.split() for line in printed.splitlines() if "total" in line]
    kept, again = map(float, cells[0][1:])
    assert kept > again


def test_the_ledger_of_towers_and_of_a_split_batch():
    """AlexNet §3.2: the layers in which the GPUs communicate, and what that saves."""
    small = ("--batch", "4", "--data.size", "67", "--augment.crop", "0")
    printed = run("ledger", "alexnet-paper", "--mesh.towers", *small).stdout
    towers, whole = (
        [line.split() for line in table.splitlines() if line.strip()]
        for table in printed.split("4 images a step")[1:]
    )
    exchanged = [line[0] for line in towers if line[1:2] in (["forward"], ["backward"])]
    assert exchanged == ["conv3", "fc6", "fc7", "fc8", "conv3", "fc6", "fc7"]
    sums = [line for line in towers + whole if line[0] == "total"]
    received, least = (int(n.replace(",", "")) for n in sums[0][1:])
    assert received == least < int(sums[1][1].replace(",", "")) / 100


def totals(*arguments: str) -> list[int]:
    """The bytes that each table of a ledger adds up to."""
    lines = [line.split() for line in run("ledger", *arguments).stdout.splitlines()]
    return [int(line[1].replace(",", "")) for line in lines if line[:1] == ["total"]]


def test_the_ledger_of_a_split_update():
    """--mesh.zero: the plain step, and half of the weights from the other device."""
    zero, plain = totals("digits", "--mesh.zero")
    assert zero - plain == 145_578 // 2 * 4


def test_the_ledger_of_activations_computed_again():
    """--model.remat: both towers gather the inputs of conv3, fc6 and fc7 once more."""
    small = ("alexnet-small", "--mesh.towers", "--batch", "8")
    kept, again = (totals(*small, *remat)[0] for remat in ((), ("--model.remat",)))
    assert again - kept == 8 * (4 * 4 * 64 + 2 * 2 * 64 + 1024) // 2 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summary", "vgg-f"), "unknown model 'vgg-f'; perhaps 'vgg-"),
        (("summary", "resnet"), ", ".join(MODELS)),
        (("summary", "vgg-d", "--image-size", "8"), "too small"),
        (("summary", "vgg-d", "--clases", "3"), "perhaps --classes?"),
        (("summary", "vgg-d", "--train", "--batch", "0"), "--batch 0: at least 1"),
        (("summary", "vgg-d", "--batch", "8"), "--batch: only with --train"),
        (("summary", "vgg-d", "--over", "256"), "built for 224x224 images"),
        (("summary", "vgg-d", "--switches", "remat", "True"), "--switches remat"),
        (("summary", "vgg-d", "--switches", "head", "cap"), "choose from fc, dense"),
        (("summary", "vgg-d", "--switches", "head"), "head needs a value"),
        (("summary", "vgg-d", "--switches", "name", "x"), "unknown switch 'name'"),
        (("train", "digits", "--optim.layer-rate", "conv1", "half"), "'half'"),
        (("train", "digit"), "choose from digits, cifar-80sec"),
        (("train", "digits", "--hosts", "2"), "all three"),
        (("eval", "nowhere"), "nowhere: no run there"),
        (("filters", "nowhere"), "nowhere: no run there"),
    ],
)
def test_a_wrong_command_names_what_is_wrong(arguments, message, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["alexvgg_jax", *arguments])
    with pytest.raises(SystemExit, match="1"), errors.one_line():
        __main__.main()
    printed = capfd.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summary", "resnet"), "unknown model 'resnet'"),
        (("ledger", "vgg-a", "--mesh.towers"), "--mesh.towers: vgg-a has one tower"),
        (("ledger", "vgg-a", "--batch", "3"), "--batch 3 does not divide"),
        (("ledger", "digits", "--accumulate", "0"), "--accumulate"),
        (("ledger", "digits", "--model.switches", "remat", "true"), "--model.remat"),
        (("train", "digits", "--model.switches", "remat", "true"), "--model.remat"),
        (("train", "digits", "--data.name", "nowhere/at/all"), "nowhere/at/all"),
        (("train", "digits", "--mesh.devices", "4097"), "--mesh.devices 4097"),
        (("train", "digits", "--accumulate", "3"), "126 and 129 do"),
    ],
)
def test_a_wrong_command_is_one_line_of_its_process(arguments, message):
    assert message in one_line(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "digits"),
        ("train", "digits", "--hosts", "1", "--host", "0", "--coordinator", "PORT"),
        ("eval", "RUN"),
        ("filters", "RUN"),
        ("summary", "cifar-80sec", "--train"),
    ],
)
def test_no_devices_are_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    report.write_json(dataclasses.asdict(Run()), tmp_path / "run.json")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    given = {"RUN": str(tmp_path), "PORT": f"localhost:{port}"}
    printed = one_line(*(given.get(word, word) for word in arguments))
    assert "jax finds no devices" in printed


def test_settings_of_another_type(tmp_path):
    """As somebody may write them; here no types are checked but by the program."""
    there = dataclasses.asdict(Run())
    there["optim"]["rate"] = 1  # a number like any other
    there["optim"]["drops"] = "many"
    report.write_json(there, tmp_path / "run.json")
    assert "run.json: not the settings of a run: optim.drops is 'many'" in one_line(
        "eval", str(tmp_path)
    )


def test_out_of_memory_is_one_line(capsys):
    """And no other error of the devices is."""

    def fails(message: str) -> None:
        with errors.one_line():
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(SystemExit, match="1"):
        fails("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore")
    printed = capsys.readouterr().err
    assert printed.startswith("error: RESOURCE_EXHAUSTED: Out of memory allocating 8")
    assert printed.count("\n") == 1
    with pytest.raises(jax.errors.JaxRuntimeError):
        fails("INTERNAL: broken")


def test_fewer_epochs_than_there_are(monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: loop.Trained(*"w", [1] * 4, {}))
    monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    with pytest.raises(errors.InputError, match="--epochs 2: runs/.* has 4 already"):
        Train(Run(epochs=2), resume=True)()


def test_out_of_memory_in_training_names_what_takes_less(monkeypatch):
    def train(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nmore")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    with pytest.raises(errors.InputError, match="Out of memory.: .*--accumulate"):
        Train(Run())()


def test_train_then_eval_and_filters(tmp_path):
    small = ("--data.size", "16", "--epochs", "1", "--mesh.devices", "1")
    small += ("--data.held-out", "200")
    folder, picture = str(tmp_path / "run"), tmp_path / "filters.png"
    trained = run("train", "digits", *small, "--out", folder)
    assert trained.returncode == 0, trained.stderr
    assert "epoch 1/1" in trained.stderr
    assert re.match("held-out loss .*top-1 error", run("eval", folder).stdout)
    assert str(picture) in run("filters", folder, "--out", str(picture)).stdout
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("part", [*(Data, Augment, Model, Optim, Mesh, Run), *OF_ONE])
def test_every_option_says_what_it_is(part):
    """By the comment on its line, or above it, which is its help."""
    source = inspect.getsource(part)
    for option in dataclasses.fields(part):
        if not dataclasses.is_dataclass(option.default) and option.name != "shared":
            line = rf"^    # \S.*\n    {option.name}: |^    {option.name}: .*  # \S"
            assert re.search(line, source, re.M), option.name


def test_switches_of_a_recipe_can_be_replaced():
    """VGG's recipes start from Glorot's weights, which other switches replace."""

    def switches(*words):
        given = ["vgg-a", "--model.switches", *words]
        config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff)
        train = tyro.cli(Train, args=given, config=config, registry=PAIRS)
        return train.recipe.model.switches

    assert switches("lrn", "true", "width", "0.5", "head", "gap") == {
        "lrn": True,
        "width": 0.5,
        "head": "gap",
    }
    assert switches() == {}
    assert "init glorot" in run("train", "vgg-a", "--help").stdout


def test_report_renders_the_committed_results(tmp_path):
    """And a result that is taken away makes its claim say "not run"."""
    results = Path(__file__).parents[1] / "experiments" / "results"
    shutil.copytree(results, tmp_path / "results")
    where = ("--results", str(tmp_path / "results"), "--out", str(tmp_path / "page.md"))
    assert run("report", *where).returncode == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "](#alexnet_relu)" in page
    assert "![alexnet_relu](results/alexnet_relu.png)" in page
    (tmp_path / "results" / "alexnet_relu.json").unlink()
    assert run("report", *where).returncode == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "not run: `python experiments/alexnet_relu.py --data cifar10 --out" in page
    assert "--results" in one_line("report", "--results", str(tmp_path / "none"))


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    page = Path(__file__).parents[1] / "experiments" / "README.md"
    where = ("--results", str(page.parent / "results"))
    assert run("report", *where, "--out", str(tmp_path / "page.md")).returncode == 0
    links = Path(os.path.relpath(page.parent / "results", tmp_path)).as_posix()
    rendered = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert rendered.replace(links, "results") == page.read_text(encoding="utf-8")


def test_every_committed_plot_is_shown():
    page = Path(__file__).parents[1] / "experiments" / "README.md"
    readme = page.parents[1] / "README.md"
    shown = readme.read_text(encoding="utf-8") + page.read_text(encoding="utf-8")
    plots = [path.name for path in (page.parent / "results").glob("*.png")]
    assert [name for name in plots if f"results/{name})" not in shown] == []
