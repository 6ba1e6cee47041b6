"""Records in files; statistics and verdicts against values computed by hand."""

import json
import math
from dataclasses import replace

import alexnet_pool
import made
import pytest

from alexvgg_jax import results
from alexvgg_jax.errors import InputError
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import GAP, TEST, Verdict

POOL = alexnet_pool.EXPERIMENT
PAPER, OTHER = alexnet_pool.PAPER, alexnet_pool.OTHER


def arms(**errors):
    """arm -> records with these test errors; None diverged."""
    return {
        arm: [
            made.record(POOL, PAPER, seed, error=90.0, diverged=True)
            if error is None
            else made.record(POOL, PAPER, seed, error=error)
            for seed, error in enumerate(values)
        ]
        for arm, values in errors.items()
    }


def test_records_come_back_from_their_file(tmp_path):
    path = tmp_path / "new" / "pool.jsonl"
    records = [made.record(POOL, arm, seed) for arm in POOL.arms for seed in (0, 1)]
    for record in records:
        results.append(record, path)
    assert results.read(path) == records
    assert len(path.read_text(encoding="utf8").splitlines()) == 4
    assert results.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    "line",
    [b'{"arm": "2/2"}', b"[]", b'{"arm": "2', b"null", b"\xff"],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "pool.jsonl"
    results.append(made.record(POOL, PAPER), path)
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(InputError, match=r"pool\.jsonl, line 2: not a record"):
        results.read(path)


def test_a_record_after_half_a_line_has_a_line_of_its_own(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"arm"', encoding="utf8")
    results.append(made.record(POOL, PAPER), path)
    assert json.loads(path.read_text().splitlines()[1])["arm"] == PAPER


def test_estimates():
    assert results.estimate([3.0]) == Figure(3.0, "%")
    assert results.estimate([1.0, 3.0], "points") == Figure(2.0, "points", 1.0)


def test_a_difference_pools_the_variance_of_all_arms():
    """Squares of 2, 2 and 8 over three degrees of freedom: a variance of 4."""
    three = arms(a=[1.0, 3.0], b=[5.0, 7.0], c=[0.0, 4.0])
    assert results.difference(three, "b", "a") == Figure(4.0, "points", 2.0)
    both = results.difference(three, ("b", "c"), "a")
    assert both.value == 2.0
    assert both.error == pytest.approx(math.sqrt(4 * (1 / 4 + 1 / 2)))


def test_a_difference_without_an_error():
    """Of one seed each, and where only some seeds diverged."""
    assert results.difference(arms(a=[1.0], b=[3.0]), "b", "a").error is None
    mixed = arms(a=[1.0, 2.0], b=[3.0, None])
    assert results.difference(mixed, "b", "a").error is None
    wild = arms(a=[1.0, 3.0], b=[None, None])  # guessing has no variance of its own
    assert results.difference(wild, "b", "a") == Figure(88.0, "points", math.sqrt(2))


def test_a_gap_needs_nets_that_did_not_diverge():
    sound = arms(a=[1.0, 3.0], b=[5.0, 7.0])
    assert results.overfitting(sound, "b", "a") == results.difference(
        sound, "b", "a", GAP
    )
    wild = arms(a=[1.0, 3.0], b=[None, None])
    assert results.overfitting(wild, "b", "a").error is None


@pytest.mark.parametrize(
    ("effect", "above", "word"),
    [
        (Figure(2.1, "", 1.0), 0.0, "reproduced"),
        (Figure(1.9, "", 1.0), 0.0, "undecided"),
        (Figure(-2.1, "", 1.0), 0.0, "not reproduced"),
        (Figure(2.1, "", 1.0), 1.5, "undecided"),
        (Figure(9.0), 0.0, "undecided"),
    ],
)
def test_verdicts(effect, above, word):
    assert results.verdict(effect, above).word == word


def test_counting_images_is_the_error_of_one_seed():
    """20% of 10,000 images: 0.4 points."""
    assert results.counted(20.0, 10_000) == pytest.approx(0.4)
    assert results.at_most(21.0, [20.0], 10_000) == Verdict("reproduced", "one seed")
    assert results.at_most(20.5, [20.0], 10_000) == Verdict("undecided", "one seed")
    assert results.at_most(21.5, [20.0, 21.0], 10_000) == Verdict("undecided")


def test_the_weakest_part_of_a_claim():
    strong, weak = Verdict("reproduced", "why not"), Verdict("undecided", "one seed")
    assert results.worst(strong, weak, weak) == weak
    assert results.worst(strong, strong) == strong
    assert str(weak.because("late")) == "undecided: one seed; late"


def test_each_arm_has_its_mean():
    shown = results.each(arms(a=[1.0, 3.0]), TEST)
    assert shown == {"test error, a": Figure(2.0, "%", 1.0)}


def test_the_commit_and_the_machine():
    commit, clean = results.commit()
    assert commit == "unknown" or len(commit) == 40
    assert clean in (True, False, None)
    assert results.machine()["cores"] >= 1
    assert replace(made.record(POOL, PAPER), commit=commit).epochs == 18
