import sys

import alexnet_relu
import cifar_80sec
import pytest

from alexvgg_jax import paper, report
from alexvgg_jax.errors import InputError


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Run an experiment's main with options, and read what it wrote."""

    def run(experiment, *arguments: str) -> report.Result:
        script = f"experiments/{experiment.__name__}.py"
        out = ("--out", str(tmp_path))
        monkeypatch.setattr(sys, "argv", [script, *arguments, *out])
        experiment.main()
        return report.read(tmp_path / f"{experiment.__name__}.json")

    return run


def test_relu_against_tanh(command_line, monkeypatch, tmp_path, capsys):
    """AlexNet §3.1: both arms run, and the files say what was measured."""
    monkeypatch.setattr(alexnet_relu, "RATES", dict.fromkeys(("relu", "tanh"), (0.01,)))
    result = command_line(alexnet_relu, "--seeds", "1", "--epochs", "1")
    assert result.claim == "AlexNet §3.1"
    assert result.published == dict(paper.claim("AlexNet §3.1").published)
    assert result.seeds == [0]
    assert {"relu", "tanh"} < set(result.arms)
    assert result.arms["relu"][0]["curve"][0] == [0.0, 90.0]
    assert result.command.startswith("python experiments/alexnet_relu.py --seeds 1")
    assert (tmp_path / "alexnet_relu.png").exists()
    assert "published" in capsys.readouterr().out
    again = command_line(alexnet_relu, "--seeds", "1", "--epochs", "1", "--resume")
    assert again.arms == result.arms
    assert again.seconds == result.seconds  # nothing was trained twice


def test_epochs_to_the_target_are_interpolated():
    """AlexNet §3.1: the epochs until 25% training error."""
    points = [(0.0, 90.0), (0.5, 50.0), (1.5, 30.0), (2.5, 20.0), (3.5, 30.0)]
    assert alexnet_relu.epochs_to_target(points) == pytest.approx(2.0)
    assert alexnet_relu.epochs_to_target(points[:3]) is None


def test_the_verdict_follows_the_rule_of_the_docstring():
    """AlexNet §3.1: several times faster, by more than two standard errors."""
    verdict = alexnet_relu.verdict
    assert verdict({"mean": 6.0, "deviation": 1.0}, 3, False) == "reproduced"
    assert verdict({"mean": 2.5, "deviation": 1.0}, 3, False) == "undecided"
    assert verdict({"mean": 1.0, "deviation": 0.1}, 3, False) == "not reproduced"
    assert "lower bound" in verdict({"mean": 6.0, "deviation": 1.0}, 3, True)
    assert verdict({"mean": 1.0, "deviation": 0.1}, 3, True).startswith("undecided")
    assert verdict({"mean": 6.0}, 1, False).startswith("undecided")
    assert verdict(None, 3, False).startswith("undecided")


def test_an_arm_that_never_reaches_the_target_is_a_lower_bound():
    """AlexNet §3.1: tanh counts for all its epochs, a ReLU that fails for nothing."""
    arms = {"relu": [{"epochs": 5.0}], "tanh": [{"epochs": None}]}
    assert alexnet_relu.compare(arms, 30)[alexnet_relu.FIGURE] == {"mean": 5.9}
    arms = {"relu": [{"epochs": None}], "tanh": [{"epochs": 5.0}]}
    assert alexnet_relu.compare(arms, 30) == {}


def test_the_80_second_net(command_line, tmp_path):
    """cuda-convnet 80sec: the error stands beside the published 26%."""
    result = command_line(cifar_80sec, "--seeds", "1", "--epochs", "1")
    assert result.published == {"test error, %": 26.0}
    assert 0 < result.ours["test error, %"]["mean"] < 95
    assert result.ours["seconds of training"]["mean"] == pytest.approx(
        result.seconds, abs=0.1
    )
    assert (tmp_path / "cifar_80sec.png").exists()


def test_an_earlier_experiment_is_not_overwritten(command_line):
    short = ("--seeds", "1", "--epochs", "1")
    first = command_line(cifar_80sec, *short)
    with pytest.raises(InputError, match="--resume"):
        command_line(cifar_80sec, *short)
    assert command_line(cifar_80sec, *short, "--resume").arms == first.arms


def test_no_seeds_is_an_error(command_line):
    with pytest.raises(InputError, match="--seeds 0"):
        command_line(cifar_80sec, "--seeds", "0")


def test_other_data_cannot_test_the_80_second_claim():
    """cuda-convnet 80sec: 26%, and up to two points more, on CIFAR-10."""
    assert cifar_80sec.verdict("digits", 5.0, 26.0).startswith("not tested")
    assert cifar_80sec.verdict("cifar10", 27.9, 26.0) == "reproduced"
    assert cifar_80sec.verdict("cifar10", 28.1, 26.0) == "not reproduced"
