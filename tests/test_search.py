import fcntl
import resource

import alexnet_search
import pytest
from _arms import (
    SMALL,
    TEST,
    Experiment,
    switched,
)

from alexvgg_jax import loop, report
from alexvgg_jax.errors import InputError, Stopped


@pytest.fixture
def searched(run, monkeypatch, tmp_path):
    """A search of so many trials, where a trial's error is the rate's distance from
    0.02; the arms it began to train, with the rates; and arms that are cut short."""
    tried, cut_short = [], set()

    def history(self, arm, run_):
        assert run_.data.held_out == 143  # a tenth of the digits, and no test image
        lock = self.given.out / "runs" / "alexnet_search" / "lock"
        with lock.open() as file, pytest.raises(BlockingIOError):  # no other meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if arm in cut_short:
            cut_short.remove(arm)
            raise Stopped("", 130)
        rate, epochs = run_.optim.rate, range(1, run_.epochs + 1)
        tried.append((arm, rate))
        epoch = loop.Epoch(1, 1, rate, 0, 0, 0, 100 * abs(rate - 0.02), 0, 1.0)
        return [epoch._replace(epoch=number) for number in epochs]

    monkeypatch.setattr(Experiment, "history", history)
    monkeypatch.setattr(
        Experiment, "arms", lambda self, runs: {arm: [{TEST: 1.0}] for arm in runs}
    )

    def search(trials: int, out: str = "out") -> report.Result:
        arguments = ("--trials", str(trials), "--resume")
        return run("alexnet_search", *arguments, out=tmp_path / out)

    return search, tried, cut_short


def test_search(searched, tmp_path):
    """The paper's settings first; the best of the whole trials is retrained."""
    search, tried, _ = searched
    result = search(8)
    assert tried[:3] == [(f"trial 0, {n} epochs", SMALL.optim.rate) for n in (2, 4, 9)]
    first, *others = result.arms["trials"]
    assert {name: first[name] for name in alexnet_search.PAPER} == alexnet_search.PAPER
    assert len({trial["rate"] for trial in [first, *others]}) == 8  # none twice
    whole = [t["error, %"] for t in result.arms["trials"] if t["state"] == "COMPLETE"]
    best = result.arms["settings"][1]
    assert 100 * abs(best["rate"] - 0.02) == pytest.approx(min(whole))
    assert {"the paper's settings", "best found"} < result.arms.keys()
    assert result.arms["importance"][0]
    assert (tmp_path / "out" / "alexnet_search.png").exists()
    with pytest.raises(InputError, match="--trials 7: the study has 8"):
        search(7)


def test_a_search_that_was_cut_short_is_that_which_was_not(searched):
    search, tried, cut_short = searched
    cut_short |= {"trial 0, 2 epochs", "trial 6, 2 epochs"}
    for trials in (3, 8):
        with pytest.raises(Stopped):
            search(trials)
        search(trials)
    result = search(8)
    counted = [arm for arm, _ in tried if arm.startswith("trial 1")]
    assert counted[-3:] == ["trial 1"] * 3  # by all that went on, for their seconds
    assert result.arms["trials"] == search(8, out="straight").arms["trials"]


def test_a_study_that_is_none_is_named(run, tmp_path):
    (tmp_path / "alexnet_search.db").write_text("not a data base" * 100)
    with pytest.raises(InputError, match="alexnet_search.db: .*not a database"):
        run("alexnet_search", out=tmp_path)


def test_a_disk_that_fills_during_a_search_is_named(searched, monkeypatch, tmp_path):
    search, *_ = searched
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def objective(trial, *_):
        size = (tmp_path / "out" / "alexnet_search.db").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))  # bytes a file
        trial.set_user_attr("filler", "x" * size)

    monkeypatch.setattr(alexnet_search, "objective", objective)
    try:
        with pytest.raises(InputError, match="alexnet_search.db: .*disk"):
            search(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))


def test_the_papers_point_of_the_search_is_the_papers_net():
    assert alexnet_search.run_of(alexnet_search.PAPER) == switched(
        SMALL, dropout=0.5, classifier=1.0, lrn_alpha=1e-4
    )
