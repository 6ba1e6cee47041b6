"""A little of each kind of trouble that the benchmark tries thousands of times.

Kills, signals and full disks need processes of their own: `test_loop.py` and
`test_checkpoint.py` raise them inside this one.
"""

import numpy as np
import pytest
import reliability
from _damaged_runs import damaged_files, file_limits
from _hostile_inputs import command_lines, pictures, record_files, records, settings
from _hostile_weights import damaged, stored_weights
from _trouble import attempt, printed, spoilt

from alexvgg_jax.errors import InputError


@pytest.mark.parametrize(
    ("trouble", "count"),
    [
        (damaged_files, 12),
        (file_limits, 20),
        (pictures, 500),
        (stored_weights, 88),
        (settings, 50),
        (command_lines, 4),
        (records, 100),
        (record_files, 30),
    ],
)
@pytest.mark.usefixtures("optimized")
def test_nothing_is_lost_or_wrong(trouble, count, tmp_path, unchecked):
    with printed():
        trials = [*trouble(count, np.random.default_rng(1), tmp_path)]
    assert len(trials) == count
    assert [trial for trial in trials if trial.outcome != "handled"] == []


def fails(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("use", "outcome"),
    [
        (lambda: None, "handled"),
        (lambda: fails(InputError("one line")), "handled"),
        (lambda: "other numbers", "wrong"),
        (lambda: fails(OSError("two\nlines")), "traceback"),
        (lambda: fails(OSError()), "traceback"),
        (lambda: fails(KeyError("name")), "traceback"),
    ],
)
def test_what_counts_as_handled(use, outcome):
    assert attempt("input", use).outcome == outcome


def test_damage_changes_the_content():
    content, random = np.arange(100, dtype=np.uint8).tobytes(), np.random.default_rng(0)
    damages = dict(spoilt(content, random) for _ in range(200))
    assert {name.partition(" at ")[0] for name in damages} == {
        "a bit",
        "a byte",
        "4 KB of zeros",
        "two words swapped",
        "cut short",
        "emptied",
        "garbage appended",
    }
    assert sum(spoils == content for spoils in damages.values()) < 10
    assert spoilt(b"", random)
    assert sum(damaged(content, random) == content for _ in range(200)) < 10
    assert isinstance(damaged(b"", random), bytes)


def test_the_table_adds_up(tmp_path):
    options = reliability.Options(times=0.01, seed=3)
    with printed():
        kinds = {
            kind: reliability.tried(kind, options, tmp_path)
            for kind in ("damaged pictures", "records")
        }
    assert {kind: found["tried"] for kind, found in kinds.items()} == {
        "damaged pictures": 50,
        "records": 25,
    }
    *_, last = reliability.page({"kinds": kinds}).splitlines()
    assert last.split() == ["all", "75", "75", "0", "0", "0"]
