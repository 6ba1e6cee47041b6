import contextlib
import functools
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from alexvgg_jax import evaluate, loop, ready
from alexvgg_jax import run as run_folder
from alexvgg_jax.augment import Statistics, centre_crop
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import (
    Augment,
    Data,
    Mesh,
    Optim,
    Run,
    from_settings,
    to_settings,
)
from alexvgg_jax.data.decode import BadImages
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.errors import Diverged, InputError, Stopped
from alexvgg_jax.files import write_text
from alexvgg_jax.hosts import catch_signals, join_hosts
from alexvgg_jax.log import Log
from alexvgg_jax.models import build
from alexvgg_jax.run import locked, read_images, read_statistics
from alexvgg_jax.run import settings as settings_in
from alexvgg_jax.sharding import everywhere

# Some of the digits at 14 pixels, as 12 steps an epoch: a fifth of a second.
RUN = Run(
    name="small",
    data=Data("digits", size=14, count=360),
    batch=32,
    augment=Augment(crop=12, mirror=True, colour=0.1),
    net=build("cifar-80sec"),
    optim=Optim(rate=0.002, drop_epochs=(2.0,)),
    epochs=3,
    mesh=Mesh(devices=1),
)


pytestmark = pytest.mark.usefixtures("optimized")
STEPS: dict[str, tuple] = {}
compile_run = ready.compile_run


def compile_once(run: Run, *arguments) -> tuple:
    """Most tests train the same net: it is traced once. Rates are its inputs."""
    optim = replace(run.optim, rate=0.0, drop_epochs=())
    augment = replace(run.augment, colour_epochs=0.0)
    data = Data(size=run.data.size)
    settings = to_settings(replace(run, data=data, augment=augment, optim=optim))
    parts = ("data", "augment", "net", "optim", "accumulate", "mesh")
    key = json.dumps([*(settings[part] for part in parts), str(arguments)])
    if key not in STEPS:
        STEPS[key] = compile_run(run, *arguments)
    return STEPS[key]


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(ready, "compile_run", compile_once)


def untimed(history: list[loop.Epoch]) -> list[loop.Epoch]:
    return [epoch._replace(seconds=0.0) for epoch in history]


def interrupt_at(step: int, number: int, monkeypatch) -> None:
    """Send the program a signal once `step` steps are done."""
    step_of_log = Log.step

    def step_and_signal(self, done, *figures):
        step_of_log(self, done, *figures)
        if done == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Log, "step", step_and_signal)


def lines(folder) -> list[dict]:
    return [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> loop.Trained:
    return loop.train(RUN, tmp_path_factory.mktemp("runs") / "straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_resumes_to_the_same_bits(
    straight, tmp_path, monkeypatch, number
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(17, number, patch)  # in the middle of the second epoch
        with pytest.raises(Stopped, match="is saved") as stopped:
            loop.train(RUN, folder)
    assert stopped.value.exit_code == 128 + number
    resumed = loop.train(RUN, folder, resume=True)
    chex.assert_trees_all_equal(resumed.params, straight.params)
    assert untimed(resumed.history) == untimed(straight.history)


def test_a_signal_while_testing_stops_the_run_too(straight, tmp_path, monkeypatch):
    """The epoch, which has ended, is in the metrics."""
    test = evaluate.test

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return test(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "test", interrupted)
        with pytest.raises(Stopped, match="step 12"):
            loop.train(RUN, tmp_path / "run")
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1]
    resumed = loop.train(RUN, tmp_path / "run", resume=True)
    assert untimed(resumed.history) == untimed(straight.history)


def test_signals_that_are_ignored_stay_ignored():
    """As nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_a_sigterm_on_several_hosts(monkeypatch):
    """Which jax passes on to the others."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    try:
        with catch_signals() as received:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hang_up)
    assert (seen, received) == ([signal.SIGTERM], [])


WHILE_IMPORTING = """
import runpy, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "jax":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("alexvgg_jax", run_name="__main__")
"""


def test_ctrl_c_while_the_program_is_imported_is_one_line():
    command = [sys.executable, "-c", WHILE_IMPORTING, "summary", "vgg-a"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_a_run_in_a_thread(straight, tmp_path):
    """As in a server of notebooks. Only the main thread can handle signals."""
    with ThreadPoolExecutor() as pool:
        run = replace(RUN, epochs=1)
        history = pool.submit(loop.train, run, tmp_path / "run").result().history
    assert untimed(history) == untimed(straight.history[:1])


def test_metrics_have_each_epoch_of_the_history(tmp_path):
    """Whatever a crash left of the file; and nothing of later steps."""
    history = [{"epoch": n, "step": 100 * n, "loss": 1.0} for n in (1, 2)]
    steps = [{"step": n, "loss_so_far": 2.0} for n in (50, 100, 150, 250)]
    left = [*steps[:2], history[1], *steps[2:], {"epoch": 3, "step": 300}]
    text = "".join(json.dumps(line) + "\n" for line in left)
    (tmp_path / "metrics.jsonl").write_bytes(text.encode() + b'\xff\n{"step": 20')
    with Log(Console(quiet=True), tmp_path, "net", 3, 300, 200, history):
        pass
    kept = [*steps[:2], history[0], steps[2], history[1]]
    assert lines(tmp_path) == kept


def test_one_process_trains_a_run(straight, tmp_path):
    """The second one changes nothing; its turn comes when the first has ended."""
    folder = tmp_path / "run"
    with locked(folder):
        for resume in (False, True):
            with pytest.raises(InputError, match="run: another process is training"):
                loop.train(RUN, folder, resume=resume)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert loop.train(replace(RUN, epochs=1), folder).history


def test_a_run_that_cannot_start_leaves_nothing(tmp_path):
    """No new folder, and in a folder no lock."""
    (tmp_path / "old").mkdir()
    run = replace(RUN, init_from=str(tmp_path / "none"))
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(InputError, match="none: "):
            loop.train(run, folder)
    with pytest.raises(InputError, match="--change: only with --resume"):
        loop.train(RUN, tmp_path / "new", change=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.parametrize("name", [b"\xff", b"a\\b", b"gs://bucket/a"])
def test_a_name_that_cannot_hold_checkpoints_is_one_line(tmp_path, monkeypatch, name):
    """It is not in UTF-8, or has a backslash, or is the name of a bucket."""
    monkeypatch.chdir(tmp_path)
    folder = Path(os.fsdecode(name))
    for use in (settings_in, lambda folder: loop.train(RUN, folder)):
        with pytest.raises(InputError, match="UTF-8|backslash|not a folder") as error:
            use(folder)
        str(error.value).encode()
    assert not folder.exists()


def test_the_first_host_listens_on_its_address_only(monkeypatch):
    seen: dict = {}
    known = inspect.signature(jax.distributed.initialize).parameters
    monkeypatch.setattr(jax.distributed, "initialize", seen.update)
    join_hosts("there:1", 2, 0)
    assert seen["coordinator_bind_address"] == seen["coordinator_address"] == "there:1"
    assert seen.keys() <= known.keys()


def test_a_file_is_not_written_through_a_link(tmp_path):
    """Nor what a crash left of it."""
    other, file = tmp_path / "other", tmp_path / "file"
    other.write_text("theirs")
    (tmp_path / "file.part").symlink_to(other)
    for text in ("first", "second"):
        write_text(text, file)
        assert file.read_text() == text
        (tmp_path / "file.part").write_text("half")
    assert other.read_text() == "theirs"


def test_colour_noise_ends(tmp_path):
    """As in the log of net 145: what follows is the run that never had the noise."""
    ending = replace(RUN, augment=replace(RUN.augment, colour_epochs=1.0), epochs=2)
    ended = loop.train(ending, tmp_path / "ending")
    loop.train(replace(RUN, epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    settings = json.loads(path.read_text().replace('"colour": 0.1', '"colour": 0.0'))
    path.write_text(json.dumps(settings | {"checksum": None}))
    without = replace(RUN, augment=replace(RUN.augment, colour=0.0), epochs=2)
    resumed = loop.train(without, tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(ended.params, resumed.params)


def test_more_epochs_of_a_finished_run_are_those_of_the_longer_run(straight, tmp_path):
    loop.train(replace(RUN, epochs=1), tmp_path / "run")
    longer = loop.train(RUN, tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(longer.params, straight.params)
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    shorter = loop.train(replace(RUN, epochs=1), tmp_path / "run", resume=True)
    assert len(shorter.history) == 3
    assert settings_in(tmp_path / "run").epochs == 3
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_new_rates_on_purpose(straight, tmp_path):
    """One epoch, and then the others at a tenth of the rate, is a drop of the rate."""
    folder, epochs = tmp_path / "run", 2
    dropped = replace(RUN, epochs=epochs, optim=replace(RUN.optim, drop_epochs=(1.0,)))
    expected = loop.train(dropped, tmp_path / "dropped")
    loop.train(replace(RUN, epochs=1), folder)
    changed = replace(RUN, epochs=epochs, optim=replace(RUN.optim, rate=0.0002))
    with pytest.raises(InputError, match="optim.rate is 0.002.*unless --change"):
        loop.train(changed, folder, resume=True)
    with pytest.raises(InputError, match="--change: only with --resume"):
        loop.train(changed, tmp_path / "other", change=True)
    resumed = loop.train(changed, folder, resume=True, change=True)
    chex.assert_trees_all_equal(resumed.params, expected.params)
    assert settings_in(folder) == changed
    (line,) = (folder / "earlier.jsonl").read_text().splitlines()
    earlier = json.loads(line)
    assert from_settings(earlier["settings"]) == replace(RUN, epochs=1)
    assert earlier["until_step"] == 12
    net = replace(changed, net=replace(RUN.net, classes=7))
    with pytest.raises(InputError, match="net.classes is 10, not 7; a resumed run"):
        loop.train(net, folder, resume=True, change=True)


@pytest.mark.parametrize("head", ["fc", "gap"])
def test_a_crop_on_purpose_keeps_the_shapes_of_layers(head):
    """A head of averages takes crops of any size."""
    net = build("vgg-a", head=head, width=0.05)
    old, new = (
        replace(RUN, net=net, data=Data(size=64), augment=Augment(crop=crop))
        for crop in (32, 64)
    )
    with pytest.raises(InputError, match="is 32, not 64; .* keeps it .unless"):
        run_folder._check_same(old, new, Path("run.json"), change=False)
    if head == "gap":
        run_folder._check_same(old, new, Path("run.json"), change=True)
        return
    message = "run.json: augment.crop is 32, not 64; .* keeps it even with --change"
    with pytest.raises(InputError, match=message):
        run_folder._check_same(old, new, Path("run.json"), change=True)


def test_a_net_that_only_guesses_is_named(tmp_path, monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(loop, "console", Console(file=printed, width=100))
    monkeypatch.setattr(loop, "GUESS_STEPS", 30)
    still = replace(RUN, optim=replace(RUN.optim, rate=0.0))
    history = loop.train(still, tmp_path / "still").history
    assert not loop._guesses([*history, history[-1]], 10)  # it is said once
    assert printed.getvalue().count("the net still guesses") == 1
    printed.truncate(0)
    loop.train(replace(RUN, optim=Optim(rate=0.01)), tmp_path / "learns")
    assert "guesses" not in printed.getvalue()


def test_images_that_are_held_out_are_no_test_set(tmp_path, monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(loop, "console", Console(file=printed, width=100))
    data = replace(RUN.data, held_out=100)
    loop.train(replace(RUN, data=data, epochs=1), tmp_path / "run")
    assert "held-out error" in printed.getvalue()
    assert "test error" not in printed.getvalue()


def test_a_step_fetches_nothing_by_accident_and_a_save_may(tmp_path, monkeypatch):
    """On TPUs orbax fetches as NumPy does. On CPUs, only types that NumPy lacks are
    guarded."""
    save, seen = Checkpoints.save, []

    def fetch() -> None:
        np.asarray(jax.numpy.zeros(8, jax.numpy.int4))

    def in_a_step(*_) -> None:
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed"):
            fetch()
        seen.append("step")

    def in_a_save(*arguments) -> None:
        fetch()
        save(*arguments)
        seen.append("save")

    monkeypatch.setattr(Log, "step", in_a_step)
    monkeypatch.setattr(Checkpoints, "save", in_a_save)
    loop.train(replace(RUN, epochs=1), tmp_path / "run")
    assert seen == ["step"] * 12 + ["save"]


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes of 20 pictures."""
    pixels = np.random.default_rng(0).integers(256, size=(2, 20, 9, 9, 3))
    for name, images in zip("ab", pixels, strict=True):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, image in enumerate(images):
            path = tmp_path / "set" / name / f"{i:02}.png"
            cv2.imwrite(str(path), image.astype(np.uint8))
    return tmp_path / "set"


def test_a_run_resumes_with_its_own_images_only(photos, tmp_path, monkeypatch):
    """From any working directory, but not with changed or missing files."""
    folder, changed = tmp_path / "run", photos / "a" / "00.png"
    run = replace(RUN, data=Data("set", size=14), batch=32, epochs=1)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        loop.train(run, folder)
        loop.train(run, folder, resume=True)
    run = replace(run, data=replace(run.data, name=str(photos)), epochs=2)
    for change in (lambda: cv2.imwrite(str(changed), np.ones((9, 9))), changed.unlink):
        change()
        with pytest.raises(InputError, match="run was trained on other images: folder"):
            loop.train(run, folder, resume=True)


def test_images_may_move(photos, tmp_path):
    """Their digest decides, at --resume and in eval, and not the folder's name."""
    folder = tmp_path / "run"
    run = replace(RUN, data=Data(str(photos), size=14), batch=32, epochs=1)
    loop.train(run, folder)
    moved = photos.rename(tmp_path / "moved")
    run = replace(run, data=Data(str(moved), size=14), epochs=2)
    loop.train(run, folder, resume=True)
    assert run_folder.settings(folder).data.name == str(moved)
    link = tmp_path / "link"
    moved.rename(tmp_path / "again").joinpath("notes.txt").touch()
    link.symlink_to(tmp_path / "again")
    with pytest.raises(InputError, match="no such folder; if the images moved"):
        ready.find_test_images(folder, "")
    source, called = ready.find_test_images(folder, str(link))
    assert (source.count, called, source.note) == (4, "test", "")
    cv2.imwrite(str(link / "a" / "00.png"), np.ones((9, 9)))
    source, _ = ready.find_test_images(folder, str(link))
    assert source.count == 40  # other images: all of them
    (tmp_path / "again").rename(moved)
    source, _ = ready.find_test_images(folder, "")
    assert (source.count, source.note) == (
        4,
        "folder moved: the run was trained on other images",
    )


def test_what_nothing_can_be_learnt_from(photos):
    """Damaged pictures of both parts are listed together; no class is left empty."""
    run = replace(RUN, data=Data(str(photos), size=14))
    for place in ("a/00.png", "b/19.png"):
        (photos / place).write_bytes(b"no image")
    with pytest.raises(BadImages, match=r"a/00.png: .*; .*b/19.png"):
        run_folder.open_images(run)
    for path in (photos / "b").glob("*"):
        path.write_bytes(b"no image")
    run = replace(run, data=replace(run.data, skip_bad=True), batch=8)
    with pytest.raises(InputError, match="folder set: no training images of b"):
        run_folder.open_images(run)
    first = replace(run.data, count=10, first=True)
    with pytest.raises(InputError, match="first 10 of 36: no training images of b"):
        run_folder.open_images(replace(run, data=first))


def test_statistics_of_another_size_are_refused(photos, tmp_path):
    run = replace(RUN, data=Data(str(photos), size=14), batch=32, epochs=1)
    loop.train(run, tmp_path / "run")
    path = tmp_path / "run" / "statistics.npz"
    np.savez(path, mean=np.zeros((9, 9, 3)), components=np.zeros((3, 3)))
    with pytest.raises(InputError, match="not a run's statistics: .*of 14 pixels"):
        read_statistics(tmp_path / "run")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_image_costs_no_step(photos, tmp_path, monkeypatch, part):
    """In a set that is not held in memory: a checkpoint is saved, and the run continues
    without the image."""
    monkeypatch.setattr("alexvgg_jax.data.sources.IN_MEMORY_BYTES", 0)
    none = Statistics(jnp.zeros((14, 14, 3)), jnp.zeros((3, 3)))
    monkeypatch.setattr(run_folder, "training_statistics", lambda _: none)
    run = replace(RUN, data=Data(str(photos), size=14), batch=12, epochs=1)
    files = [file for i, file in enumerate(sorted(photos.glob("*/*"))) if i % 10 != 9]
    second_batch = files[np.random.default_rng((run.seed, 0)).permutation(36)[12]]
    bad = second_batch if part == "train" else photos / "b" / "19.png"
    bad.write_bytes(b"no image")
    with pytest.raises(Stopped, match=f"{bad.name}: .*; a checkpoint of") as stopped:
        loop.train(run, tmp_path / "run")
    assert stopped.value.exit_code == 1
    steps = 1 if part == "train" else 3
    assert (tmp_path / "run" / "checkpoints" / str(steps)).is_dir()
    run = replace(run, data=replace(run.data, skip_bad=True))
    resumed = loop.train(run, tmp_path / "run", resume=True)
    straight = loop.train(run, tmp_path / "straight")
    chex.assert_trees_all_equal(resumed.params, straight.params)
    assert untimed(resumed.history) == untimed(straight.history)


def test_a_run_needs_no_images_once_it_is_trained(photos, tmp_path):
    """Its statistics, classes and settings are in its folder; pictures that cannot be
    read do not stop the others."""
    folder = tmp_path / "run"
    run = replace(RUN, data=Data(str(photos), size=14), batch=32, epochs=1)
    trained = loop.train(run, folder)
    chex.assert_trees_all_equal(read_statistics(folder), trained.work.stats)
    assert read_images(folder).classes == ("a", "b")
    expected, _ = evaluate.predict(
        trained.work, trained.params, open_source(run.data, "test")
    )
    photos.rename(tmp_path / "moved")
    setup, params = ready.load(folder)
    files = [tmp_path / "moved" / name for name in ("a/09.png", "b/xx.png", "a/19.png")]
    files[1].write_bytes(b"no picture")
    files += [tmp_path / "none.png"]
    outputs = dict(evaluate.classify(setup, params, files))
    np.testing.assert_allclose(outputs[files[0]], expected[0], rtol=1e-4)
    np.testing.assert_allclose(outputs[files[2]], expected[1], rtol=1e-4)
    assert str(outputs[files[1]]) == f"{files[1]}: not an image that can be decoded"
    assert str(outputs[files[3]]) == f"{files[3]}: No such file or directory"


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [("run.json", '"crop": 12', '"crop": 11'), ("data.json", '"ant"', '"aunt"')],
)
def test_damage_that_is_still_json_is_found(tmp_path, file, before, after):
    """Unless somebody meant it, and deleted the checksum."""
    images = run_folder.Images("ants", ("ant", "bee"), 2, 2, "c1fa")
    none = Statistics(jnp.zeros((16, 16, 3)), jnp.zeros((3, 3)))
    run_folder.write(tmp_path, RUN, images, none, 0)
    assert (settings_in(tmp_path), read_images(tmp_path)) == (RUN, images)
    path = tmp_path / file
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError, match=f"{file}: damaged; .* delete its checksum"):
        settings_in(tmp_path)
        read_images(tmp_path)
    edited = json.loads(path.read_text())
    path.write_text("5")
    with pytest.raises(InputError, match=f"{file}: .*not a dictionary"):
        settings_in(tmp_path)
        read_images(tmp_path)
    del edited["checksum"]
    path.write_text(json.dumps(edited))
    assert (settings_in(tmp_path), read_images(tmp_path)) != (RUN, images)


def test_settings_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(InputError, match="run.json: not a regular file"):
        settings_in(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(InputError, match="run.json: not a regular file"):
        settings_in(tmp_path)
    os.mkfifo(tmp_path / "statistics.npz")
    with pytest.raises(InputError, match="statistics.npz: not a regular file"):
        loop.run_folder.read_statistics(tmp_path)


def test_other_things_in_the_places_of_a_runs_files(tmp_path):
    """They are named before anything is written. A pipe would be waited for."""
    for name in ("run.json", "earlier.jsonl", "data.json", "metrics.jsonl", ".lock"):
        for make in (os.mkfifo, os.mkdir):
            make(tmp_path / name)
            with pytest.raises(InputError, match=f"{name}: not a regular file"):
                with locked(tmp_path):
                    raise AssertionError
            (tmp_path / name).rename(tmp_path / f"{name} {make.__name__}")
    for name in ("checkpoints", "tensorboard"):
        for make in (os.mkfifo, Path.touch):
            make(tmp_path / name)
            with pytest.raises(InputError, match=f"{name}: not a folder"):
                with locked(tmp_path):
                    raise AssertionError
            (tmp_path / name).unlink()
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()


def test_resuming_does_not_compute_the_statistics_again(tmp_path, monkeypatch):
    loop.train(replace(RUN, epochs=1), tmp_path / "run")
    monkeypatch.setattr(loop.run_folder, "training_statistics", lambda _: 1 / 0)
    loop.train(replace(RUN, epochs=2), tmp_path / "run", resume=True)


def test_a_run_that_failed_at_once_can_be_corrected(tmp_path, monkeypatch):
    """It has a folder, and nothing in it that another run would go on with."""
    folder, large = tmp_path / "run", replace(RUN, epochs=1, batch=64)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_compile", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.train(large, folder)
    with pytest.raises(InputError, match="holds a run already: --resume"):
        loop.train(replace(large, batch=32), folder)
    trained = loop.train(replace(large, batch=32), folder, resume=True)
    assert trained.history[-1].step == 12
    with pytest.raises(InputError, match="batch is 32, not 64"):
        loop.train(large, folder, resume=True)


def test_a_set_of_one_class_cannot_be_learnt(tmp_path):
    """A folder one level too deep looks so."""
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for i in range(60):
            cv2.imwrite(str(tmp_path / split / "cat" / f"{i}.png"), np.zeros((9, 9, 3)))
    run = replace(RUN, data=Data(str(tmp_path), size=14), batch=32)
    with pytest.raises(InputError, match="folder .*: only one class, cat"):
        loop.train(run, tmp_path / "run")


def test_what_is_left_out_is_said_once(photos, tmp_path, monkeypatch):
    """Of each set, and of the folder that both are in."""
    printed = io.StringIO()
    monkeypatch.setattr(ready, "console", Console(file=printed, width=100))
    (photos / "a" / "notes.txt").write_text("about")
    for name in ("a/00.png", "b/19.png"):
        (photos / name).write_bytes(b"no image")
    data = Data(str(photos), size=14, skip_bad=True)
    run = replace(RUN, data=data, batch=12)
    with contextlib.ExitStack() as stack:
        ready.prepare(run, tmp_path / "run", False, False, stack)
    skipped, *left_out = printed.getvalue().strip().split("; ")
    assert skipped == f"{photos}: skipped 1 .txt"
    assert left_out == [
        f"folder {photos.name}: left out 1 of {count} {part} images"
        for count, part in ((36, "train"), (4, "test"))
    ]


def test_a_full_disk_ends_the_curves_too(largest_file, tmp_path):
    """Without waiting for a writer that has died of it."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/null")
    largest_file(1000)
    with pytest.raises(OSError, match=f"{tmp_path}: File too large"):
        with Log(Console(quiet=True), tmp_path, "net", 1, 1000, 0) as log:
            for step in range(50, 20_000, 50):
                log.step(step, 1.0, 50.0, 0.01, 100.0)


def test_the_run_learns_and_its_rate_drops(straight):
    errors = [epoch.train_error for epoch in straight.history]
    assert errors[-1] < errors[0]
    rates = [epoch.rate for epoch in straight.history]
    assert rates == pytest.approx([0.002, 0.002, 0.0002])
    assert straight.history[-1].step == -(-3 * 360 // 32)


def test_another_seed_gives_another_run(straight, tmp_path):
    other = loop.train(replace(RUN, seed=1, epochs=1), tmp_path / "run")
    assert other.history[0].train_loss != straight.history[0].train_loss


def test_a_run_stops_once_its_training_error_is_reached(tmp_path):
    history = loop.train(replace(RUN, until_error=86.0), tmp_path / "run").history
    assert len(history) < 3
    assert history[-1].train_error < 86.0


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "run"
    good = loop.train(replace(RUN, epochs=1), folder)
    bad = replace(RUN, optim=replace(RUN.optim, rate=1e30))
    settings = json.loads((folder / "run.json").read_text())
    settings["optim"]["rate"] = 1e30
    del settings["checksum"]
    (folder / "run.json").write_text(json.dumps(settings))
    with pytest.raises(Diverged, match="earlier checkpoints are kept"):
        loop.train(bad, folder, resume=True)
    params = everywhere(ready.load_params(folder), good.work.mesh)
    kept = evaluate.test(good.work, params, good.work.test_source)
    assert kept.top1 == pytest.approx(good.history[-1].test_error)


def test_a_first_loss_that_is_no_number_promises_no_checkpoint(tmp_path):
    bad = replace(RUN, epochs=1, optim=replace(RUN.optim, rate=1e30))
    with pytest.raises(Diverged, match="rate 1e.30: stopped$"):
        loop.train(bad, tmp_path / "run")


def test_a_folder_that_holds_a_run_is_not_overwritten(straight, tmp_path):
    folder = tmp_path / "run"
    loop.train(replace(RUN, epochs=1), folder)
    with pytest.raises(InputError, match="holds a run already"):
        loop.train(RUN, folder)
    with pytest.raises(InputError, match="batch is 32, not 64"):
        loop.train(replace(RUN, batch=64), folder, resume=True)
    other = replace(RUN, optim=replace(RUN.optim, rate=0.5))
    with pytest.raises(InputError, match=r"json: optim.rate is 0.\d+, not 0.5; a"):
        loop.train(other, folder, resume=True)
    (folder / "run.json").unlink()
    with pytest.raises(InputError, match="holds a run already"):
        loop.train(RUN, folder)
    with pytest.raises(InputError, match="no run there"):
        loop.train(RUN, folder, resume=True)


def test_a_run_without_a_checkpoint_starts_anew_and_says_so(tmp_path, capfd):
    """So that one command starts and restarts it."""
    folder, short = tmp_path / "run", replace(RUN, epochs=1)
    anew = f"{folder} has no checkpoint: the run starts anew\n"
    first = loop.train(short, folder, resume=True)
    assert anew in capfd.readouterr().err
    loop.train(short, folder, resume=True)
    assert anew not in capfd.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    again = loop.train(replace(short, seed=1), folder, resume=True)
    assert anew in capfd.readouterr().err
    assert again.history[0].train_loss != first.history[0].train_loss
    assert settings_in(folder).seed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4096}, "--batch 4096: at most 360, the number of"),
        ({"batch": 100, "mesh": Mesh(devices=8)}, "96 and 104"),
        ({"data": Data("no/such/folder")}, "no/such/folder"),
        ({"optim": Optim(layer_decay={"fc9": 0.1})}, "'fc9'"),
        ({"augment": Augment(crop=4), "net": build("alexnet-small")}, "too small"),
    ],
)
def test_an_impossible_run_writes_nothing(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        loop.train(replace(RUN, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out .*file: File exists"):
        loop.train(replace(RUN, epochs=1), tmp_path / "file")


def test_predictions_have_the_score_of_the_test(straight):
    work, history, params = straight
    predicted, labels = evaluate.predict(work, params, work.test_source)
    assert predicted.shape == (work.test_source.count, 10)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-5)
    score = evaluate.score_predictions(predicted, labels)
    assert score.top1 == history[-1].test_error  # exactly
    assert score.top5 == history[-1].test_top5
    assert score.top5 < score.top1
    assert score.loss == pytest.approx(history[-1].test_loss, rel=1e-4)


def test_ten_views_are_averaged_as_probabilities(straight):
    """AlexNet §6 ten crops: the softmax of each view, then the mean."""
    work, _, params = straight
    images, _ = work.test_source.fetch(np.arange(work.run.batch))
    apply = jax.jit(functools.partial(work.net.apply, train=False))
    mean, softmax = centre_crop(work.stats.mean, 12), []
    for flipped in (images, images[:, :, ::-1]):
        for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
            crop = flipped[:, top : top + 12, left : left + 12]
            logits, _ = apply(params, crop - np.asarray(mean))
            softmax.append(jax.nn.softmax(logits))
    predicted, _ = evaluate.predict(work, params, work.test_source, 10)
    expected = np.mean(softmax, axis=0)
    np.testing.assert_allclose(predicted[: len(images)], expected, rtol=1e-4, atol=1e-6)


def test_the_errors_of_averaged_predictions():
    """AlexNet §6 five nets: two nets, wrong on one image each, agree on neither."""
    first = np.float32([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]])
    other = np.float32([[0.4, 0.6, 0.0], [0.1, 0.9, 0.0]])
    labels = np.int32([0, 1])
    assert evaluate.score_predictions(first, labels).top1 == 50.0
    assert evaluate.score_predictions(other, labels).top1 == 50.0
    both = evaluate.score_predictions((first + other) / 2, labels)
    assert both.top1 == 0.0
    assert both.loss == pytest.approx(-np.log(0.65))
    assert np.isfinite(
        evaluate.score_predictions(first, np.int32([2, 2])).loss
    )  # probability 0


def test_views_of_a_net_without_crops_are_refused(straight):
    """AlexNet §6 ten crops: without crops all views would be the same."""
    work, _, params = straight
    uncropped = replace(work, run=replace(work.run, augment=Augment()))
    with pytest.raises(InputError, match="--views 10: .* without --augment.crop"):
        evaluate.predict(uncropped, params, work.test_source, 10)
