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
    two = results.estimate([1.0, 3.0], "points")
    assert two == Figure(2.0, "points", pytest.approx(12.706, abs=1e-3))


def test_a_difference_is_taken_seed_by_seed():
    """Leads of 4, 5 and 6: a deviation of 1, and Student's 4.303 for 2 degrees."""
    three = arms(a=[1.0, 20.0, 3.0], b=[5.0, 25.0, 9.0], c=[0.0, 4.0, 90.0])
    lead = results.difference(three, "b", "a")
    assert lead[:2] == (5.0, "points")
    assert lead.margin == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


def test_a_difference_without_an_interval():
    """Of one seed each, and where only some seeds diverged."""
    assert results.difference(arms(a=[1.0], b=[3.0]), "b", "a").margin is None
    mixed = arms(a=[1.0, 2.0], b=[3.0, None])
    assert results.difference(mixed, "b", "a").margin is None
    wild = arms(a=[1.0, 3.0], b=[None, None])  # guessing has no variance of its own
    assert results.difference(wild, "b", "a").value == 88.0


def test_a_gap_needs_nets_that_did_not_diverge():
    sound = arms(a=[1.0, 3.0], b=[5.0, 7.0])
    assert results.overfitting(sound, "b", "a") == results.difference(
        sound, "b", "a", GAP
    )
    wild = arms(a=[1.0, 3.0], b=[None, None])
    assert results.overfitting(wild, "b", "a").margin is None


@pytest.mark.parametrize(
    ("effect", "published", "null", "word"),
    [
        (Figure(1.5, "", 1.0), 3.0, 0.0, "agrees"),  # half of the published
        (Figure(1.4, "", 1.0), 3.0, 0.0, "sign only"),
        (Figure(1.4, "", 1.0), 2.4, 0.0, "agrees"),
        (Figure(1.4, "", 1.3), 2.7, 0.0, "agrees"),  # in the interval
        (Figure(9.0, "", 1.0), 3.0, 0.0, "agrees"),  # more than the published
        (Figure(0.1, "", 0.05), None, 0.0, "agrees"),  # no figure is published
        (Figure(0.9, "", 1.0), 0.9, 0.0, "undecided"),
        (Figure(-0.9, "", 1.0), 0.9, 0.0, "undecided"),
        (Figure(-1.1, "", 1.0), 0.9, 0.0, "contradicts here"),
        (Figure(1.5, "", 0.2), 2.0, 1.0, "agrees"),
        (Figure(1.4, "", 0.2), 2.0, 1.0, "sign only"),
        (Figure(0.8, "", 0.1), 2.0, 1.0, "contradicts here"),
        (Figure(9.0), 1.0, 0.0, "undecided"),  # one seed
    ],
)
def test_verdicts(effect, published, null, word):
    assert results.verdict(effect, published, null).word == word


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([20.5, 20.4], "agrees"),
        ([20.6, 20.5], "undecided"),
        ([20.6, 20.61], "contradicts here"),
        ([15.0], "agrees: one seed"),
        ([21.2], "undecided: one seed"),  # 1.96 standard errors of 0.41 points
        ([21.4], "contradicts here: one seed"),
    ],
)
def test_a_published_test_error_is_reached_up_to_half_a_point(errors, verdict):
    """20%, on 10,000 images: their counting is the interval of one seed."""
    assert results.counted(20.0, 10_000) == pytest.approx(0.4)
    assert str(results.reaches(20.0, errors, 10_000)) == verdict


def test_the_weakest_part_of_a_claim():
    strong, weak = Verdict("agrees", "why not"), Verdict("undecided", "one seed")
    assert results.worst(strong, weak, weak) == weak
    assert results.worst(strong, strong) == strong
    assert results.worst(strong, Verdict("sign only")).word == "sign only"
    assert str(weak.because("late")) == "undecided: one seed; late"


def test_each_arm_has_its_mean():
    shown = results.each(arms(a=[1.0, 3.0]), TEST)
    assert shown == {"test error, a": results.estimate([1.0, 3.0])}


def test_the_commit_and_the_machine():
    commit, clean = results.commit()
    assert commit == "unknown" or len(commit) == 40
    assert clean in (True, False, None)
    assert results.machine()["cores"] >= 1
    assert replace(made.record(POOL, PAPER), commit=commit).epochs == 45
