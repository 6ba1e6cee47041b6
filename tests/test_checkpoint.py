import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.errors import InputError


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


def test_nothing_is_there_before_the_first_save(tmp_path):
    assert restored(tmp_path) is None


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / "state" / "d")
    (tmp_path / "2" / "state" / "manifest.ocdbt").write_bytes(b"")
    with opened(tmp_path) as checkpoints:
        _, progress = checkpoints.restore(state(0.0))
        assert progress["step"] == 1
        assert (tmp_path / "2").exists()  # who reads deletes nothing
        checkpoints.save(2, state(2.5), {"step": 2})  # comes again, and is kept
    newest, _ = restored(tmp_path)
    np.testing.assert_array_equal(newest["kernel"], state(2.5)["kernel"])
    assert "2 is damaged: using step 1" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_gone_once_there_is_another(tmp_path):
    """Orbax saves nothing before the newest one."""
    save(tmp_path, 1, 3)
    shutil.rmtree(tmp_path / "3" / "state" / "d")
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(state(0.0))
        checkpoints.save(2, state(2.0), {"step": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b"#" + b[1:]])
def test_every_damaged_file_is_noticed(tmp_path, capfd, spoil):
    """Before orbax reads it, which would print tracebacks, or not notice."""
    save(tmp_path, 1, 2)
    files = [f for f in (tmp_path / "2").rglob("*") if f.is_file()]
    files = [f for f in files if f.stat().st_size and f.name != "digests.json"]
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        file.write_bytes(spoil(content))
        _, progress = restored(tmp_path)
        assert progress["step"] == 1, file
        assert capfd.readouterr().err == f"{tmp_path / '2'} is damaged: using step 1\n"
        file.write_bytes(content)
    assert restored(tmp_path)[1]["step"] == 2


def test_a_program_killed_before_it_wrote_digests_resumes(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "1" / "digests.json").unlink()
    assert restored(tmp_path)[1]["step"] == 1


def test_several_hosts_use_the_newest_checkpoint_or_none(tmp_path, monkeypatch):
    """A file that this host cannot read may be readable on another."""
    save(tmp_path, 1, 2)
    (tmp_path / "2" / "digests.json").write_text("{}")
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
            (tmp_path / "2.orbax-checkpoint-tmp-7").mkdir()
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

        monkeypatch.setattr(checkpoints._manager, "save", full)
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
