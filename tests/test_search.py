"""The search for better settings, its trials being records."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import _session
import alexnet_search
import pytest
from _session import Options, run
from alexnet_search import BEST, HELD_OUT, PAPER, PAPERS, TRIALS

from alexvgg_jax import results
from alexvgg_jax.errors import Diverged
from alexvgg_jax.loop import Epoch


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """A search of a few trials, where a net's error is the rate's distance from 0.02;
    the runs that it asked for; and how some of them end."""
    asked, ends = [], {}

    def train(directory, run_):
        asked.append((directory.name, run_))
        if end := ends.pop((directory.name, run_.epochs), None):
            raise end
        error = 1000 * abs(run_.optim.rate - 0.02)
        epoch = Epoch(1, 1, 0.1, 0.0, error, 0.0, error, 0.0, 1.0)
        return SimpleNamespace(history=[epoch] * run_.epochs, params={}, work=None)

    def errors(trained, _):
        test = trained.history[-1].test_error
        return {results.TEST: test, results.TRAINING: test}

    def search(trials):
        experiment = alexnet_search.EXPERIMENT
        chosen = Options(seeds=2, epochs=1, out=tmp_path)
        return run(
            replace(experiment, train=partial(alexnet_search.search, trials=trials)),
            chosen,
        )

    monkeypatch.setattr(_session, "train_in", train)
    monkeypatch.setattr(_session, "errors", errors)
    return search, asked, ends


def test_search(searched, tmp_path):
    """The paper's settings first; the best of the complete trials is trained again."""
    search, asked, ends = searched
    ends["trial_3-seed0", 4] = Diverged("the loss is nan", 1)
    result = search(8)
    first = [run_ for name, run_ in asked if name == "trial_0-seed0"]
    assert [run_.epochs for run_ in first] == [2, 4, 9]
    assert all(run_.data.held_out == 143 for run_ in first)  # a tenth of the digits
    trials = result.arms[TRIALS]
    assert trials[0].extra["point"] == PAPER
    assert [trial.seed for trial in trials] == list(range(8))
    assert len({trial.extra["point"]["rate"] for trial in trials}) == 8
    assert trials[3].diverged and not trials[3].extra["complete"]
    complete = [trial for trial in trials if trial.extra["complete"]]
    best = min(complete, key=lambda trial: trial.figures[HELD_OUT])
    for record in result.arms[BEST]:
        assert record.settings["optim"]["rate"] == best.extra["point"]["rate"]
        assert record.settings["data"]["held_out"] == 0
    assert [len(result.arms[arm]) for arm in (PAPERS, BEST)] == [2, 2]
    assert (tmp_path / "alexnet_search.png").exists()


def test_an_interrupted_search_continues_with_the_same_points(searched, tmp_path):
    search, asked, ends = searched
    complete = search(5).arms[TRIALS]
    (tmp_path / "alexnet_search.jsonl").unlink()
    ends["trial_3-seed0", 2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        search(5)
    asked.clear()
    again = search(5).arms[TRIALS]
    assert [t.extra["point"] for t in again] == [t.extra["point"] for t in complete]
    assert asked[0][0] == "trial_3-seed0"
    asked.clear()
    assert len(search(6).arms[TRIALS]) == 6
    assert {name for name, _ in asked} >= {"trial_5-seed0"}
    assert not any("trial_4" in name for name, _ in asked)
