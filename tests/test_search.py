import fcntl
import runpy
import shutil
import sys

import alexnet_search
import pytest
from _arms import SMALL, Experiment, switched
from _figures import TEST

from alexvgg_jax import loop, report
from alexvgg_jax.errors import Diverged, InputError, Stopped


@pytest.fixture
def searched(run, monkeypatch, tmp_path):
    """A search of so many trials, where a trial's error is the rate's distance from
    0.02; the arms it began to train, with the rates; and how arms are cut short."""
    tried, cut_short = [], {}

    def history(self, arm, run_):
        assert run_.data.held_out == 143  # a tenth of the digits, and no test image
        lock = self.given.out / "runs" / "alexnet_search" / "lock"
        with lock.open() as file, pytest.raises(BlockingIOError):  # no other meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if arm in cut_short:
            raise cut_short.pop(arm)
        report.write_json({}, self._folder(run_) / "run.json")
        rate, epochs = run_.optim.rate, range(1, run_.epochs + 1)
        tried.append((arm, rate))
        epoch = loop.Epoch(1, 1, rate, 0, 0, 0, 100 * abs(rate - 0.02), 0, 1.0)
        return [epoch._replace(epoch=number) for number in epochs]

    monkeypatch.setattr(Experiment, "history", history)
    monkeypatch.setattr(
        Experiment, "arms", lambda self, runs: {arm: [{TEST: 1.0}] for arm in runs}
    )

    def search(trials: int, *more: str, out: str = "out") -> report.Result:
        arguments = ("--trials", str(trials), *more)
        return run("alexnet_search", *arguments, out=tmp_path / out)

    return search, tried, cut_short


def test_search(searched, tmp_path):
    """The paper's settings first; the best of the completed trials is retrained."""
    search, tried, cut_short = searched
    cut_short["trial 3, 4 epochs"] = Diverged("the loss is nan", 1)
    result = search(8)
    assert tried[:3] == [(f"trial 0, {n} epochs", SMALL.optim.rate) for n in (2, 4, 9)]
    first, *others = result.arms["trials"]
    assert {name: first[name] for name in alexnet_search.PAPER} == alexnet_search.PAPER
    assert len({trial["rate"] for trial in [first, *others]}) == 8  # none twice
    assert result.arms["trials"][3]["state"] == "PRUNED"
    whole = [t["error, %"] for t in result.arms["trials"] if t["state"] == "COMPLETE"]
    best = result.arms["settings"][1]
    assert 100 * abs(best["rate"] - 0.02) == pytest.approx(min(whole))
    assert {"the paper's settings", "best found"} < result.arms.keys()
    assert result.arms["importance"][0]
    assert (tmp_path / "out" / "alexnet_search.png").exists()
    with pytest.raises(InputError, match="--trials 7: the study has 8"):
        search(7, "--resume")
    shutil.rmtree(tmp_path / "out" / "runs")
    with pytest.raises(InputError, match="search.json is a result whose runs are not"):
        search(9, "--resume")


def test_a_search_that_was_cut_short_is_that_which_was_not(searched):
    """In the paper's point, in a random one, and where the estimator chooses."""
    search, tried, cut_short = searched
    for trial in (0, 6, 9):
        cut_short[f"trial {trial}, 2 epochs"] = Stopped("", 130)
    while cut_short:
        with pytest.raises(Stopped):
            search(10)
    search(10)
    result = search(11, "--resume")
    counted = [arm for arm, _ in tried if arm.startswith("trial 1")]
    assert "trial 1" in counted  # again, for its seconds
    assert result.arms["trials"] == search(11, out="straight").arms["trials"]


def test_a_search_that_was_killed_is_that_which_was_not(searched, tmp_path):
    """Before a trial had its point, or in the middle of it."""
    search, *_ = searched
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "alexnet_search.db"
    for trials in (2, 4):
        with alexnet_search.opened(path, "scikit-learn's digits") as study:
            trial = study.ask()
            if trials > 2:
                trial.suggest_float("rate", 0.002, 0.05, log=True)
        search(trials, *["--resume"] * (trials > 2))
    result = search(5, "--resume")
    assert result.arms["trials"] == search(5, out="straight").arms["trials"]


def test_a_study_that_is_none_is_named(run, tmp_path):
    (tmp_path / "alexnet_search.db").write_text("not a data base" * 100)
    with pytest.raises(InputError, match="alexnet_search.db: .*not a database"):
        run("alexnet_search", out=tmp_path)


def test_a_disk_that_fills_during_a_search_is_named(
    searched, largest_file, monkeypatch, tmp_path
):
    """And the search goes on when there is room."""
    search, *_ = searched

    def objective(trial, *_):
        size = (tmp_path / "out" / "alexnet_search.db").stat().st_size
        largest_file(size)
        trial.set_user_attr("filler", "x" * size)

    with monkeypatch.context() as patched:
        patched.setattr(alexnet_search, "objective", objective)
        with pytest.raises(InputError, match="alexnet_search.db: .*disk"):
            search(2)
    largest_file(None)
    assert search(3).arms["trials"] == search(3, out="straight").arms["trials"]


def test_a_search_without_optuna_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"error: .*pip install -e '.\[search\]'"):
        runpy.run_path("experiments/alexnet_search.py")


def test_the_papers_point_of_the_search_is_the_papers_net():
    assert alexnet_search.run_of(alexnet_search.PAPER) == switched(
        SMALL, dropout=0.5, classifier=1.0, lrn_alpha=1e-4
    )
