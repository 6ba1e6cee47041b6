import csv
import dataclasses
import inspect
import re
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import jax
import numpy as np
import processes
import pytest

from alexvgg_jax import __main__, errors, loop, memory
from alexvgg_jax.__main__ import Train
from alexvgg_jax.config import Augment, Data, Mesh, Optim, Run, to_settings
from alexvgg_jax.data.decode import decode
from alexvgg_jax.errors import InputError
from alexvgg_jax.files import write_json
from alexvgg_jax.models import MODELS, Net
from alexvgg_jax.recipes import ALEXNET_SMALL, DIGITS


def run(*arguments: str, **options: str) -> tuple[int | None, str, str]:
    """The exit code of a command in a process of its own, and what it prints."""
    with TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        process = processes.start(arguments, files, **options)
        process.join()
        return process.exitcode, files[0].read_text(), files[1].read_text()


def one_line(*arguments: str, **options: str) -> str:
    """The single line that a wrong command prints."""
    code, out, err = run(*arguments, **options)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def printed_by(capfd, *arguments: str) -> str:
    """What a command prints, run in this process."""
    __main__.parse(arguments)()
    return capfd.readouterr().out


def test_summary_prints_the_net():
    code, printed, err = run("summary", "vgg-d")
    assert (code, err) == (0, "")
    assert "138,357,544" in printed
    assert "15,470,264,320" in printed


def test_summary_takes_switches(capfd):
    switches = ("--net.head", "gap", "--net.width", "0.5")
    printed = printed_by(capfd, "summary", "vgg-d", *switches)
    assert "average" in printed and "fc6" not in printed


def test_summary_of_a_larger_image(capfd):
    """VGG §3.2: the class score map of D over 256 pixels."""
    dense = ("--net.head", "dense")
    printed = printed_by(capfd, "summary", "vgg-d", "--over", "256", *dense)
    lines = printed.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert cells["fc8"][0] == "2x2x1000"
    assert cells["total"][0] == "138,357,544"


def test_summary_of_training_memory(capfd, monkeypatch):
    def of_training(net: Net, batch: int) -> memory.Memory:
        return memory.Memory(*[0] * 5, total=batch * 2**20 * (1 if net.remat else 10))

    monkeypatch.setattr(memory, "of_training", of_training)
    printed = printed_by(capfd, "summary", "cifar-80sec", "--train", "--batch", "8")
    assert "8 images of 32x32x3" in printed
    cells = [line.split() for line in printed.splitlines() if "total" in line]
    assert cells[0][1:] == ["80.0", "8.0"]


def test_the_ledger_of_towers_and_of_a_split_batch(monkeypatch, capfd):
    """AlexNet §3.2: the layers in which the GPUs communicate, and what that saves."""
    command = ("ledger", "alexnet-small", "--mesh.towers", "--batch", "4")
    # what makes compiling slow
    command += ("--augment.colour", "0")
    for layer in ("conv1", "conv2"):
        command += (f"--net.after-{layer}", "act", "pool")
    with monkeypatch.context() as patch:  # this process has its devices
        patch.setattr(jax.config, "update", lambda *_: None)
        printed = printed_by(capfd, *command)
    towers, whole = (
        [line.split() for line in table.splitlines() if line.strip()]
        for table in printed.split("4 images a step")[1:]
    )
    exchanged = [line[0] for line in towers if line[1:2] in (["forward"], ["backward"])]
    assert exchanged == ["conv3", "fc6", "fc7", "fc8", "conv3", "fc6", "fc7"]
    sums = [line for line in towers + whole if line[0] == "total"]
    received, least = (int(n.replace(",", "")) for n in sums[0][1:])
    assert received == least < int(sums[1][1].replace(",", "")) / 100


def test_check_lists_all_damaged_images(tmp_path, capfd):
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8))
    __main__.parse(("check", str(tmp_path)))()
    assert capfd.readouterr().out == f"{tmp_path}: 4 images, 0 problems\n"
    for name in ("train/b/2.png", "test/a/3.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1"):
        __main__.parse(("check", str(tmp_path)))()
    assert capfd.readouterr().out.splitlines() == [
        f"{tmp_path}/train/b/2.png: not an image that can be decoded",
        f"{tmp_path}/test/a/3.png: not an image that can be decoded",
        f"{tmp_path}: 4 images, 2 problems",
    ]


def test_warnings_of_pillow_are_not_shown(tmp_path, capfd):
    """They do not name the picture, as the command does."""
    for name in ("a/1.tif", "b/2.tif"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-5])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(InputError):
            decode(content[:-5], name, 8)
        assert shown
        shown.clear()
        with pytest.raises(SystemExit, match="1"):
            __main__.main(["check", str(tmp_path)])
    assert f"{tmp_path}/b/2.tif: not an image that can" in capfd.readouterr().out
    assert not shown


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        (
            ["train/a/1.png", "val/a/1.png"],
            ["folder set: only one class, a", "set: 2 images, 1 problem"],
        ),
        ([], ["set: ", "set: 0 images, 1 problem"]),
        (
            ["a/1.png", "b/1.png"],
            ["for testing; `train --data.held-out N` te", "set: 2 images, 1 problem"],
        ),
    ],
)
def test_check_says_what_training_would_refuse(
    files, lines, tmp_path, capfd, monkeypatch
):
    """Each problem once."""
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path("set", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"set/{name}", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(SystemExit, match="1"):
        __main__.parse(("check", "set"))()
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == len(lines)
    assert all(line in found for line, found in zip(lines, printed, strict=True))
    assert not any("--data " in line for line in printed)  # `check` has no such flag


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "digits", "--size", "0"), "error: --size 0: at least 1"),
        (("summary", "vgg-d", "--image-size", "8"), "too small"),
        (("summary", "vgg-d", "--image-size", "-1"), "error: --image-size -1: a whole"),
        (("summary", "vgg-d", "--train", "--batch", "0"), "--batch 0: at least 1"),
        (("summary", "vgg-d", "--batch", "8"), "--batch: only with --train"),
        (("summary", "vgg-d", "--over", "256"), "built for 224x224 images"),
        (("train", "digits", "--hosts", "2"), "all three"),
        (("train", "digits", "--data.name", "nowhere/at/all"), "nowhere/at/all"),
        (("train", "digits", "--mesh.devices", "4097"), "--mesh.devices 4097"),
        (("train", "digits", "--accumulate", "3"), "120 and 144 do"),
        (("ledger", "vgg-a", "--mesh.towers"), "--mesh.towers: this VGG has one tower"),
        (("ledger", "vgg-a", "--batch", "3"), "--batch 3 does not divide"),
        (("ledger", "digits", "--accumulate", "2"), "--accumulate"),
        (
            ("train", "digits", "--mesh.classifier", "0"),
            "error: --mesh.classifier 0: at",
        ),
        (("train", "digits", "--epochs", "0"), "error: --epochs 0: at least 1"),
        (("train", "digits", "--augment.crop", "40"), "error: --augment.crop 40"),
        (("train", "digits", "--optim.rate", "-1"), "error: --optim.rate -1.0: at"),
        (("train", "digits", "--optim.rate", "nan"), "error: --optim.rate nan: at"),
        (
            ("train", "vgg-a", "--net.width", "0"),
            "error: --net.width 0.0: must be",
        ),
        (("train", "vgg-a", "--net.dropout", "2"), "error: --net.dropout 2.0: from 0"),
        (("summary", "vgg-d", "--net.width", "-1"), "error: --net.width -1.0: a numb"),
        (("summary", "alexnet-paper", "--net.lrn-k", "0"), "error: --net.lrn-k 0.0: "),
        (("eval", "nowhere"), "nowhere: No such file"),
        (("predict", "nowhere", "x.jpg"), "x.jpg: No such file or directory"),
        (("predict", "x.jpg"), "name both weights and pictures"),
        (("predict", "--weights", "x.h5"), "name both weights and pictures"),
        (("filters", "nowhere"), "nowhere: no run there"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, message, monkeypatch, capfd):
    if "--hosts" not in arguments:
        monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    with monkeypatch.context() as patch:
        if arguments[0] == "ledger":  # would ask for other devices than this process's
            patch.setattr(jax.config, "update", lambda *_: None)
        with pytest.raises(SystemExit, match="1"), errors.one_line():
            __main__.parse(arguments)()
    printed = capfd.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summary", "vgg-d", "--clases", "3"), "--classes"),
        (("summary", "resnet"), "vgg-d"),
        (("summary", "vgg-d", "--net.head", "cap"), "dense"),
        (("train", "digits", "--net.activation", "elu"), "tanh"),
        (("train", "digits", "--optim.layer-rate", "conv1", "half"), "layer-rate"),
        (("train", "digit"), "cifar-80sec"),
        (("train", "vgg16", "--epochs", "2"), "\nvgg16: here it is 'vgg-d'\n"),
        (("summary", "alexnet"), "\nalexnet: here it is 'alexnet-paper'\n"),
        (("eval", "run", "--protocol", "3"), "multi-crop"),
    ],
)
def test_a_wrong_option_is_explained(arguments, message, capfd):
    with pytest.raises(SystemExit, match="2"):
        __main__.parse(arguments)
    assert message in capfd.readouterr().err


def test_a_wrong_command_is_one_line_of_its_process():
    assert "too small" in one_line("summary", "vgg-d", "--image-size", "8")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "digits", "--hosts", "1", "--host", "0", "--coordinator", "PORT"),
        ("eval", "RUN"),
    ],
)
def test_no_devices_are_one_line(arguments, tmp_path):
    write_json(to_settings(DIGITS), tmp_path / "run.json")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = {"RUN": str(tmp_path), "PORT": f"localhost:{port}"}
    arguments = [words.get(word, word) for word in arguments]
    printed = one_line(*arguments, jax_platforms="cuda")
    assert "jax finds no devices" in printed


def test_settings_of_another_type(tmp_path):
    """As somebody may write them; here no types are checked but by the program."""
    settings: Any = to_settings(DIGITS)
    settings["optim"]["rate"] = 1  # a number like any other
    settings["optim"]["drops"] = "many"
    write_json(settings, tmp_path / "run.json")
    assert "run.json: not the settings of a run: drops is 'many'" in one_line(
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
        Train(replace(DIGITS, epochs=2), resume=True)()


def test_out_of_memory_in_training_names_what_takes_less(monkeypatch):
    def train(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nmore")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    with pytest.raises(errors.InputError, match="memory.: .*raise --accumulate"):
        Train(DIGITS)()


@pytest.mark.usefixtures("optimized")
def test_a_run_is_trained_tested_used_and_drawn(tmp_path, monkeypatch, capfd):
    """Train, eval, predict and filters, in this process."""

    def command(*arguments) -> tuple[str, str]:
        __main__.parse([*map(str, arguments)])()
        return capfd.readouterr()

    monkeypatch.setattr(__main__, "join_hosts", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    small = ("--data.size", "16", "--epochs", "1", "--mesh.devices", "1")
    small += ("--data.held-out", "200", "--augment.crop", "14")
    folder, picture = Path("run"), Path("filters.png")
    _, trained = command("train", "digits", *small, "--out", folder)
    assert "epoch 1/1" in trained
    with jax.transfer_guard("disallow"):  # as JAX_TRANSFER_GUARD does
        __main__.main(("eval", str(folder)))
    tested, _ = capfd.readouterr()
    assert re.match("held-out loss .*top-1 error .*200 images of scikit", tested)
    tested, _ = command("eval", folder, "--data", "digits", "--protocol", "ten")
    assert re.match("test loss .*360 images of scikit-learn", tested)
    tested, _ = command("eval", folder, "--mistakes")
    assert re.match("accuracy .* of 200; drawn: run/confusion.png", tested)
    assert (folder / "mistakes.png").read_bytes()[:4] == b"\x89PNG"
    drawn, _ = command("filters", folder, "--out", picture)
    assert str(picture) in drawn
    assert picture.read_bytes()[:4] == b"\x89PNG"

    table, _ = command("predict", folder, picture, "--csv", tmp_path / "best.csv")
    assert "filters.png" in table
    lines = list(csv.DictReader((tmp_path / "best.csv").read_text().splitlines()))
    assert [line["rank"] for line in lines] == list("12345")
    assert {line["class"] for line in lines} < set("0123456789")
    shares = [float(line["probability"]) for line in lines]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.00001

    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="1"):
        command("predict", folder, "bad.jpg", picture)
    printed = capfd.readouterr()
    assert "filters.png" in printed.out and "bad.jpg" not in printed.out
    assert "skipped: bad.jpg: not an image" in printed.err
    with pytest.raises(errors.InputError, match="no images in run/checkpoints"):
        command("predict", folder, folder / "checkpoints")
    for flag, value in (("--net", "vgg-d"), ("--input", "torch")):
        with pytest.raises(errors.InputError, match=f"{flag}: not with run: a run has"):
            command("predict", folder, picture, flag, value)

    (tmp_path / "set" / "cat").mkdir(parents=True)
    picture.rename(tmp_path / "set" / "cat" / "1.png")
    with pytest.raises(errors.InputError, match="the net has no class 'cat'"):
        command("eval", folder, "--data", tmp_path / "set")


NETS = sorted({type(net) for net in MODELS.values()}, key=lambda net: net.__name__)
PARTS = {"data", "augment", "net", "optim", "mesh"}
INHERITED = {field.name for field in dataclasses.fields(Net)}


@pytest.mark.parametrize("part", [Data, Augment, Optim, Mesh, Run, *NETS])
def test_every_option_says_what_it_is(part):
    """By the comment on its line, or above it, which is its help."""
    source = inspect.getsource(part)
    for option in dataclasses.fields(part):
        if option.name not in PARTS | INHERITED:
            line = rf"^    # \S.*\n    {option.name}: |^    {option.name}: .*  # \S"
            assert re.search(line, source, re.M), option.name


def test_a_recipe_shows_the_fields_of_its_net():
    """With their defaults: VGG's recipes start from Glorot's weights."""
    printed = " ".join(run("train", "vgg-a", "--help")[1].split())
    assert "--net.head {fc,dense,gap}" in printed
    assert "default: glorot" in printed
    assert "--net.classes" not in printed  # the data decides
    mirror = "--augment.mirror, --augment.no-mirror flip half of the images"
    assert mirror in printed.replace("│ ", "")  # it is on


@pytest.mark.parametrize("command", [("train", "vgg-a"), ("summary", "vgg-d")])
def test_no_option_has_two_defaults(command, capfd):
    with pytest.raises(SystemExit, match="0"):
        __main__.parse((*command, "--help"))
    printed = " ".join(capfd.readouterr().out.replace("│", "").split())
    assert "(default: " in printed
    assert not re.search(r"\(default: [^()]*\) \(default", printed)


def test_a_field_of_a_net_is_replaced():
    train: Any = __main__.parse(["train", "alexnet-small", "--net.after-conv1", "act"])
    assert train.recipe.net == replace(ALEXNET_SMALL.net, after_conv1=("act",))
