import importlib
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import alexnet_ensemble
import alexnet_relu
import alexnet_retrieval
import numpy as np
import pytest
from _arms import Experiment
from _figures import GAP, MORE_VIEWS, TEST, TOP5, TRAINING, worst

from alexvgg_jax import loop, report
from alexvgg_jax.errors import Diverged

# experiment, claim, the arm that the claim says is worse, the paper's, by which figure
DECIDED = [
    ("lrn", "AlexNet §3.3", "without", "after the ReLU (paper)", TEST),
    ("pool", "AlexNet §3.4", "2/2", "3/2 (paper)", TEST),
    ("towers", "AlexNet §3.2", "one GPU, half the kernels", "joined (paper)", TEST),
    ("augment", "AlexNet §4.1 crops", "centre crops", "crops, mirrored", GAP),
    ("augment", "AlexNet §4.1 colour", "crops, mirrored", "+ colour (paper)", TEST),
    ("decay", "AlexNet §5 decay", "no decay", "0.0005 (paper)", TRAINING),
    ("batch", "One weird trick batch", "1024, root", "1024, linear", TEST),
]
COMMITTED = Path(__file__).parents[1] / "experiments" / "results"
NEED_RUNS = {"alexnet_relu", "alexnet_ensemble", "alexnet_retrieval", "alexnet_search"}
KEPT = {path.stem for path in COMMITTED.glob("*.json")} - NEED_RUNS
KEPT = sorted(name for name in KEPT if name.startswith(("alexnet", "cifar")))
PUBLISHED = ("top-1 error points", "top-1 error points, or lower")


@pytest.mark.usefixtures("cifar10")
@pytest.mark.parametrize("name", KEPT)
def test_committed_verdicts_are_those_of_this_code(name, monkeypatch, tmp_path):
    """Of its settings too: its command, again, trains nothing and finds the same."""
    committed = report.read(COMMITTED / f"{name}.json")
    assert committed.findings
    shutil.copy(COMMITTED / f"{name}.json", tmp_path)
    _, script, *options = shlex.split(committed.command)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options, "--out", ".", "--resume"])
    monkeypatch.setattr(Experiment, "_train", lambda _, arm, run: pytest.fail(arm))
    importlib.import_module(Path(script).stem).main()
    again = report.read(tmp_path / f"{name}.json")
    assert again.arms == committed.arms
    assert again.findings == committed.findings
    assert again.seconds == committed.seconds


def test_committed_verdicts_of_nets_that_are_gone():
    """From the figures that were kept of them."""

    def found(name: str) -> tuple[dict, str]:
        result = report.read(COMMITTED / f"{name}.json")
        (finding,) = result.findings.values()
        return result.arms, finding.verdict

    arms, verdict = found("alexnet_relu")
    ratio = alexnet_relu.compare(arms, alexnet_relu.EPOCHS)[alexnet_relu.FIGURE]
    bound = alexnet_relu.is_lower_bound(arms["tanh"])
    assert alexnet_relu.judge(ratio, bound) == verdict
    arms, verdict = found("alexnet_ensemble")
    gain = alexnet_ensemble.gain(arms["1 net"], arms["5 nets"], 5, TEST)
    assert report.verdict(gain) == verdict
    arms, verdict = found("alexnet_retrieval")
    assert alexnet_retrieval.judge(arms["alexnet-small"]) == verdict


@pytest.fixture
def measured(run, cifar10, monkeypatch, tmp_path):
    """An experiment's result on CIFAR-10, its arms' figures being a function of arm and
    seed."""

    def result(name: str, figures) -> report.Result:
        def arms(self, runs, views=()):
            return {
                arm: [{"seed": seed} | figures(arm, seed) for seed in range(3)]
                for arm in runs
            }

        kernel = np.random.default_rng(0).normal(size=(5, 5, 3, 24))
        params = {"conv1": {"kernel": kernel}}
        monkeypatch.setattr(Experiment, "arms", arms)
        monkeypatch.setattr(
            Experiment, "train", lambda *_: SimpleNamespace(params=params)
        )
        return run(name, "--data", "cifar10", "--resume", out=tmp_path)

    return result


def alike(seed: int) -> dict:
    """Figures that say nothing; five points of any are far beyond their noise."""
    noise = 0.1 * seed
    curve = [[float(epoch), 60.0 / epoch + noise] for epoch in (1, 2, 3, 4)]
    return {
        **dict.fromkeys((TEST, TOP5, TRAINING, GAP), 40 + noise),
        **dict.fromkeys(MORE_VIEWS.values(), 40 + 1.5 * noise),
        "seconds": 1.0,
        "curve": curve,
        "training curve": curve,
    }


@pytest.mark.parametrize(("name", "tag", "worse", "papers", "figure"), DECIDED)
@pytest.mark.parametrize(
    ("points", "verdict"),
    [(5.0, "reproduced"), (0.0, "undecided"), (-5.0, "not reproduced")],
)
def test_what_decides_a_claim(
    measured, name, tag, worse, papers, figure, points, verdict
):
    """Its own figure of its own two arms, and nothing else."""

    def figures(arm: str, seed: int) -> dict:
        found = alike(seed)
        if arm not in (worse, papers):  # which decide nothing
            return {key: v if isinstance(v, list) else 90.0 for key, v in found.items()}
        others = {k: 70.0 for k in (TEST, TOP5, TRAINING, GAP) if k != figure}
        if arm == worse:
            return found | {figure: found[figure] + points}
        return found | others

    finding = measured(f"alexnet_{name}", figures).findings[tag]
    assert finding.verdict == verdict + "; time not compared" * (name == "towers")
    for effect in PUBLISHED:
        if effect in finding.ours:
            assert finding.ours[effect]["mean"] == pytest.approx(-points)


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (5.0, "reproduced"),
        (0.0, "reproduced; not found better than its constant alone"),
    ],
)
def test_normalisation_is_compared_with_its_constant(measured, points, verdict):
    """AlexNet §3.3: k^-beta scales what alpha = 0 lets pass."""

    def figures(arm: str, seed: int) -> dict:
        found = alike(seed)
        more = {"without": 5.0, "alpha = 0": points}.get(arm, 0.0)
        return found | {TEST: found[TEST] + more}

    (finding,) = measured("alexnet_lrn", figures).findings.values()
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("ten", "verdict"), [(35.0, "reproduced"), (45.0, "not reproduced")]
)
def test_ten_views_are_compared_with_the_centre(measured, ten, verdict):
    """AlexNet §6 ten crops: of the paper's nets."""

    def figures(arm: str, seed: int) -> dict:
        papers = arm == "+ colour (paper)"
        return alike(seed) | {MORE_VIEWS["ten"]: ten if papers else 80 - ten}

    finding = measured("alexnet_augment", figures).findings["AlexNet §6 ten crops"]
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("gap", "epochs", "verdict"),
    [
        (5.0, 3, "reproduced"),
        (-5.0, 3, "not reproduced"),
        (5.0, 1, "not reproduced"),
        (0.0, 3, "undecided"),
        (5.0, 4, "undecided: 3 of 6 nets have not converged"),
        (-5.0, 4, "not reproduced"),
    ],
)
def test_dropout_is_decided_by_the_gap_and_the_time(measured, gap, epochs, verdict):
    """AlexNet §4.2: both of them."""

    def figures(arm: str, seed: int) -> dict:
        slow = [[float(e), 50.0 if e < epochs else 20.0] for e in (1, 2, 3, 4)]
        fast = [[float(e), 20.0] for e in (1, 2, 3, 4)]
        found = alike(seed)
        curve = slow if arm == "dropout, constant rate" else fast
        worse = gap if arm == "no dropout" else 0.0
        return found | {"curve": curve, GAP: found[GAP] + worse}

    (finding,) = measured("alexnet_dropout", figures).findings.values()
    assert finding.verdict == verdict


def test_a_net_that_diverges_has_not_converged(measured):
    """AlexNet §4.2: it says nothing of the time that dropout takes."""

    def figures(arm: str, seed: int) -> dict:
        wild = arm == "no dropout, constant rate" and seed == 1
        found = alike(seed) | {"diverged": wild, "curve": [[1.0, 90.0], [2.0, 90.0]]}
        return found | {GAP: found[GAP] + 5.0 * (arm == "no dropout")}

    (finding,) = measured("alexnet_dropout", figures).findings.values()
    assert finding.verdict.startswith("undecided: 1 of 6 nets have not converged")


@pytest.mark.parametrize("points", [5.0, -5.0])
def test_biases_are_decided_early(measured, points):
    """AlexNet §5 biases: by the second epoch, and not by the last."""

    def figures(arm: str, seed: int) -> dict:
        worse = points if arm == "biases of 0" else 0.0
        early = [[0.5, 80.0], [1.5, 60.0 + 0.1 * seed + worse], [2.5, 50.0 - 3 * worse]]
        return alike(seed) | {"training curve": early}

    (finding,) = measured("alexnet_init", figures).findings.values()
    assert finding.verdict == ("reproduced" if points > 0 else "not reproduced")
    shown = (f"training error during epoch {n}, points" for n in (1, 2, 3))
    found = [finding.ours[name]["mean"] for name in shown]
    assert found == pytest.approx([0.0, -points, 3 * points])


@pytest.mark.parametrize(
    ("conv5", "verdict"),
    [
        (5.0, "reproduced: without conv2, conv3, conv4, conv5"),
        (0.0, "undecided: without conv5"),
        (-5.0, "not reproduced: without conv5"),
    ],
)
def test_every_middle_convolution_must_count(measured, conv5, verdict):
    """AlexNet §7: one that does not decides, and fc6 and fc7 decide nothing."""

    def figures(arm: str, seed: int) -> dict:
        points = {"whole": 0.0, "without conv5": conv5, "without fc6": -9.0}.get(
            arm, 5.0
        )
        found = alike(seed)
        return found | {TEST: found[TEST] + points}

    (finding,) = measured("alexnet_depth", figures).findings.values()
    assert finding.verdict == verdict
    mean = finding.ours["top-1 error points, one middle layer removed"]["mean"]
    assert mean == pytest.approx((3 * 5 + conv5) / 4)


def test_a_gap_of_nets_that_diverge_decides_nothing(measured):
    """AlexNet §4.1 crops: at chance on both sets there is none."""

    def figures(arm: str, seed: int) -> dict:
        if arm == "crops, mirrored":
            return alike(seed) | {GAP: 0.0, "diverged": True}
        return alike(seed)

    finding = measured("alexnet_augment", figures).findings["AlexNet §4.1 crops"]
    assert finding.verdict.startswith("undecided: no standard error")


@pytest.mark.parametrize(
    ("features", "pixels", "verdict"),
    [(60.0, 30.0, "reproduced"), (30.0, 60.0, "not reproduced")],
)
def test_features_are_compared_with_pixels(
    run, monkeypatch, tmp_path, features, pixels, verdict
):
    """AlexNet Figure 4: the nearest in one must be more alike than in the other."""
    figures = {
        alexnet_retrieval.SAME: features,
        alexnet_retrieval.SAME_UNTRAINED: 99.0,
        alexnet_retrieval.SAME_PIXELS: pixels,
        alexnet_retrieval.CLOSER: 50.0,
    }
    monkeypatch.setattr(alexnet_retrieval, "neighbours", lambda trained: None)
    monkeypatch.setattr(alexnet_retrieval, "measure", lambda trained, found: figures)
    monkeypatch.setattr(alexnet_retrieval, "rows", lambda trained, found: [])
    monkeypatch.setattr(alexnet_retrieval, "draw", lambda *_, **__: None)
    monkeypatch.setattr(Experiment, "train", lambda *_: None)
    result = run("alexnet_retrieval", out=tmp_path)
    judged = result.findings["AlexNet Figure 4"].verdict
    assert judged == f"{verdict}; labels not judged"


@pytest.mark.usefixtures("cifar10")
def test_towers_that_diverge_draw_no_filters(run, monkeypatch, tmp_path):
    """AlexNet Figure 3: and leave it undecided."""

    def arms(self, runs, views=()):
        return {arm: [alike(0) | {"seed": 0, "diverged": True}] for arm in runs}

    monkeypatch.setattr(Experiment, "arms", arms)
    result = run("alexnet_towers", "--data", "cifar10", out=tmp_path)
    finding = result.findings["AlexNet Figure 3"]
    assert finding.verdict.startswith("undecided") and not finding.ours
    assert not (tmp_path / "alexnet_towers_filters.png").exists()


@pytest.mark.usefixtures("cifar10")
def test_a_net_that_diverges_reaches_no_target(run, monkeypatch, tmp_path):
    """AlexNet §3.1: it is named, and says nothing of how slow tanh is; of the rates the
    second after five epochs can be the best one."""

    def history(self, arm, run_):
        relu, rate = run_.model.switches["activation"] == "relu", run_.optim.rate
        if not relu and run_.seed == 1:
            raise Diverged("the loss is nan", 1)
        last = 4 if relu else 36 if rate == 0.01 else 38
        errors = [60 - rate] * (last - 1) + [20.0]
        zeros = dict.fromkeys(loop.Epoch._fields, 0)
        epochs = [
            loop.Epoch(**zeros | {"epoch": epoch, "train_error": error})
            for epoch, error in enumerate(errors, 1)
        ]
        return epochs[: run_.epochs]

    def train(self, arm, run_):
        return SimpleNamespace(history=history(self, arm, run_))

    monkeypatch.setattr(Experiment, "history", history)
    monkeypatch.setattr(Experiment, "train", train)
    result = run("alexnet_relu", "--data", "cifar10", out=tmp_path)
    (finding,) = result.findings.values()
    assert [seed["rate"] for seed in result.arms["tanh"]] == [0.01] * 3
    assert finding.verdict.startswith("undecided")
    assert finding.verdict.endswith("; diverged: tanh") and not finding.ours


def test_the_weakest_verdict_counts():
    assert worst("reproduced", "undecided", "reproduced") == "undecided"
    assert worst("undecided", "not reproduced") == "not reproduced"
    reasons = "undecided", "reproduced: but", "undecided: a", "undecided: b"
    assert worst(*reasons, "undecided: a") == "undecided: a; b"
