import contextlib
import itertools
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alexvgg_jax import progress
from alexvgg_jax.checkpoint import Checkpoints, _own_sum
from alexvgg_jax.config import Mesh
from alexvgg_jax.errors import InputError
from alexvgg_jax.sharding import everywhere, make_mesh, place
from alexvgg_jax.step import State


def state(value: float, width: int = 4) -> dict[str, jax.Array]:
    return {"step": jnp.int32(value), "kernel": jnp.full((3, width), value)}


def opened(folder: Path):
    return contextlib.closing(Checkpoints(folder))


def restored(folder: Path, like=None):
    with opened(folder) as checkpoints:
        return checkpoints.restore(state(0.0) if like is None else like)


def save(folder: Path, *steps: int) -> None:
    with opened(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(float(step)), {"step": step, "half": 0.1})


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, 1, 2, 3)
    newest, progress = restored(tmp_path)
    np.testing.assert_array_equal(newest["kernel"], state(3.0)["kernel"])
    assert progress == {"step": 3, "half": 0.1}
    kept = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == ["2", "3"]


def test_checkpoints_that_changed_places_are_damaged(tmp_path, capfd):
    save(tmp_path, 1, 2)
    (tmp_path / "1").rename(tmp_path / "3")
    _, progress = restored(tmp_path)
    assert progress["step"] == 2
    assert f"{tmp_path / '3'} is damaged: using step 2" in capfd.readouterr().err


def test_nothing_is_there_before_the_first_save(tmp_path):
    assert restored(tmp_path) is None


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / "state" / "kernel")
    with opened(tmp_path) as checkpoints:
        _, progress = checkpoints.restore(state(0.0))
        assert progress["step"] == 1
        assert (tmp_path / "2").exists()  # who reads deletes nothing
        checkpoints.save(2, state(2.5), {"step": 2})  # comes again, and is kept
    newest, _ = restored(tmp_path)
    np.testing.assert_array_equal(newest["kernel"], state(2.5)["kernel"])
    assert "2 is damaged: using step 1" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_gone_once_there_is_another(tmp_path):
    """Even if it is older than the new one: it is not kept in place of a good one."""
    save(tmp_path, 1, 3)
    shutil.rmtree(tmp_path / "3" / "state" / "kernel")
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(state(0.0))
        checkpoints.save(4, state(4.0), {"step": 4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]


def spoilt(content: bytes, random: np.random.Generator) -> bytes:
    """The content with a bit flipped, cut short, or with zeros."""
    at = int(random.integers(len(content)))
    flipped = content[at] ^ (1 << int(random.integers(8)))
    return [
        content[:at] + bytes([flipped]) + content[at + 1 :],
        content[:at],
        bytes(len(content)),
    ][random.choice(3, p=(0.8, 0.1, 0.1))]


def test_every_damaged_file_is_noticed_or_does_not_matter(tmp_path, capfd):
    """Orbax restores most of them as other numbers."""
    save(tmp_path, 1, 2)
    random, noticed = np.random.default_rng(0), 0
    files = [file for file in (tmp_path / "2").rglob("*") if file.is_file()]
    files = [file for file in files if file.stat().st_size]
    for file in files * 6:
        content = file.read_bytes()
        file.write_bytes(spoilt(content, random))
        found, figures = restored(tmp_path)
        chex.assert_trees_all_equal(found, state(float(figures["step"])))
        printed = capfd.readouterr().err
        if figures["step"] == 1:
            assert printed == f"{tmp_path / '2'} is damaged: using step 1\n"
            noticed += 1
        else:
            assert printed == "" and figures == {"step": 2, "half": 0.1}
        file.write_bytes(content)
    assert noticed > 3 * len(files)


@pytest.mark.parametrize("like", [None, state(0.0, width=6000)])
def test_damage_inside_a_large_file_is_noticed(tmp_path, like):
    """Which orbax restores as other numbers, and only the arrays' sums tell."""
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(float(step), width=6000), {"step": step})
        (file,) = (tmp_path / "2" / "state" / "kernel").glob("0*")
        content = file.read_bytes()
        flipped = content[:50_000] + b"\x01" + content[50_001:]
        for spoilt in (flipped, content[:4096] + bytes(4096) + content[8192:]):
            file.write_bytes(spoilt)
            assert checkpoints.restore(like)[1]["step"] == 1
        file.write_bytes(content)
        assert checkpoints.restore(like)[1]["step"] == 2


@pytest.mark.parametrize("name", ["kernel", "step"])
def test_every_bit_of_an_array_is_in_its_sum(name):
    array = np.atleast_1d(jax.device_get(state(3.0))[name])
    words = array.view(np.uint32)
    before = _own_sum(array)
    for index in np.ndindex(words.shape):
        for bit in range(32):
            changed = words.copy()
            changed[index] ^= np.uint32(1 << bit)
            assert _own_sum(changed.view(array.dtype)) != before


@pytest.mark.parametrize("shape", [(7,), (8,), (3, 5), (4, 4), (2, 3, 1, 6)])
def test_words_that_are_swapped_change_the_sum(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    before = _own_sum(array)
    for a, b in itertools.combinations(range(array.size), 2):
        swapped = array.ravel().copy()
        swapped[[a, b]] = swapped[[b, a]]
        assert _own_sum(swapped.reshape(shape)) != before


@pytest.mark.parametrize("shape", [(8, 3), (8, 4), (8,)])
def test_sums_do_not_depend_on_the_devices(shape):
    """So that a run can be resumed on others."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mesh = make_mesh(Mesh(devices=4))
    assert (
        _own_sum(place(array, mesh))
        == _own_sum(everywhere(array, mesh))
        == _own_sum(array)
    )


@pytest.mark.parametrize("width", [4, 8, 12])
def test_sums_do_not_depend_on_how_columns_are_split(width):
    """Over four devices, each has 1, 2 or 3 of them."""
    array = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    mesh = make_mesh(Mesh(devices=4))
    split = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names[0]))
    assert _own_sum(jax.device_put(array, split)) == _own_sum(array)


@pytest.mark.parametrize("name", ["run[lr=0.01]", "[2024] thesis/a", "what?*"])
def test_any_name_of_a_folder(tmp_path, name):
    save(tmp_path / name, 1)
    assert restored(tmp_path / name)[1]["step"] == 1


def test_a_folder_that_keeps_nothing_readable_fails_at_the_first_save(
    tmp_path, monkeypatch
):
    with opened(tmp_path) as checkpoints:
        write = checkpoints._orbax.save

        def lossy(path, *arguments, **keywords):
            write(path, *arguments, **keywords)
            (file,) = (path / "kernel").glob("0*")
            file.write_bytes(bytes(file.stat().st_size))

        monkeypatch.setattr(checkpoints._orbax, "save", lossy)
        with pytest.raises(OSError, match="1: cannot be read back"):
            checkpoints.save(1, state(1.0), {})


def test_a_file_in_place_of_a_checkpoint_is_damage(tmp_path, capfd):
    save(tmp_path, 1)
    (tmp_path / "2").write_text("")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(state(0.0))[1]["step"] == 1
        checkpoints.save(2, state(2.0), {"step": 2})
    assert capfd.readouterr().err == f"{tmp_path / '2'} is damaged: using step 1\n"
    assert restored(tmp_path)[1]["step"] == 2


def test_what_a_killed_save_leaves_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "2.unfinished").mkdir()
    assert restored(tmp_path)[1]["step"] == 1
    save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_progress_of_another_version_is_one_line(tmp_path):
    start = State(jnp.int32(1), {"fc": {"kernel": jnp.ones((2, 2))}}, {})
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, start, {"step": 1, "history": [{"epoch": 1}]})
        with pytest.raises(InputError, match="not the progress of a run"):
            progress.restore(checkpoints, start)


def test_several_hosts_use_the_newest_checkpoint_or_none(tmp_path, monkeypatch):
    """A file that this host cannot read may be readable on another."""
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / "state" / "kernel")
    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(InputError, match="2 is damaged: delete it"):
            checkpoints.restore(state(0.0))
        monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_the_same_step_can_be_saved_with_more_progress(tmp_path):
    save(tmp_path, 1)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1.0), {"step": 1, "epochs": 2})
    assert restored(tmp_path)[1]["epochs"] == 2


def test_a_disk_that_is_full_is_one_line_and_keeps_what_was_there(
    tmp_path, monkeypatch
):
    save(tmp_path, 1)
    with opened(tmp_path) as checkpoints:

        def full(*_, **__):
            (tmp_path / "2.unfinished").mkdir()
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

        monkeypatch.setattr(checkpoints._orbax, "save", full)
        with pytest.raises(OSError, match="No space left on device$"):
            checkpoints.save(2, state(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with opened(tmp_path) as checkpoints:
        size = sum(leaf.nbytes for leaf in state(2.0).values())
        usage = shutil.disk_usage(tmp_path)._replace(free=size - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(OSError, match="No space left on device$"):
            checkpoints.save(2, state(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_another_shape_is_one_line_that_names_the_folder(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(InputError) as error:
        restored(tmp_path, state(0.0, width=5))
    assert "kernel has shape (3, 4), but this net has (3, 5)" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_readable_checkpoint_is_an_error(tmp_path):
    save(tmp_path, 1)
    shutil.rmtree(tmp_path / "1" / "state")
    with pytest.raises(InputError, match="all of its checkpoints are damaged"):
        restored(tmp_path)


def test_another_net_is_an_error_too(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(InputError):
        restored(tmp_path, {"step": jnp.int32(0), "weights": jnp.zeros(3)})
