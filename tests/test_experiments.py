import dataclasses
import importlib
import itertools
import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import _arms
import alexnet_dropout
import alexnet_ensemble
import alexnet_imagenet
import alexnet_relu
import alexnet_retrieval
import alexnet_towers
import cv2
import numpy as np
import pytest
from _arms import SMALL, Experiment, Options, alone, scaled, switched
from _figures import GAP, TEST, TRAINING, chance

from alexvgg_jax import loop, paper, report
from alexvgg_jax.config import RECIPES
from alexvgg_jax.errors import Diverged, InputError

ABLATIONS = ("lrn", "pool", "augment", "dropout", "decay", "depth", "init", "batch")
BRIEF = ("--seeds", "1", "--epochs", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where experiments write; those that share an arm train it once."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", [f"alexnet_{name}" for name in ABLATIONS])
@pytest.mark.usefixtures("untrained")
def test_ablations(name, run, tmp_path, capsys):
    """Every arm of every ablation is a net, and the files say what was measured."""
    result = run(name, out=tmp_path)
    assert set(result.findings) == {
        row.tag for row in paper.CLAIMS if row.experiment.startswith(f"{name}.py ")
    }
    for tag, finding in result.findings.items():
        assert finding.published == dict(paper.claim(tag).published)
        head, _, why = finding.verdict.partition(":")
        assert head in ("reproduced", "not reproduced", "undecided", "not tested")
        assert (head == "not tested") == (tag == "AlexNet §4.1 colour")
        assert (head == "not tested") == (why == " the images are grey")
        assert all("mean" in value for value in finding.ours.values())
    assert len(result.arms) >= 2
    assert result.command == f"python experiments/{name}.py --out {tmp_path}"
    assert (tmp_path / f"{name}.png").exists()
    assert "published" in capsys.readouterr().out


def changed(run_) -> dict:
    """What a run has other than `alexnet-small`: switches, and fields of all parts."""

    def flat(run_) -> dict:
        parts = dataclasses.asdict(run_)
        switches = parts["model"].pop("switches")
        fields = {
            f: v for p in parts.values() if isinstance(p, dict) for f, v in p.items()
        }
        return {"batch": run_.batch, "epochs": run_.epochs} | fields | switches

    ours, small = flat(run_), flat(SMALL)
    return {name: value for name, value in ours.items() if value != small.get(name)}


LINEAR = {f"{128 * k}, linear": {"batch": 128 * k, "rate": 0.01 * k} for k in (4, 8)}
ROOT = {
    f"{128 * k}, root": {
        "batch": 128 * k,
        "rate": 0.01 * k**0.5,
        "weight_decay": 0.0005 * k**0.5,
    }
    for k in (4, 8)
}
ARMS = {
    "alexnet_lrn": {
        "after the ReLU (paper)": {},
        "without": {"layer1": "act pool", "layer2": "act pool"},
        "before the ReLU": {"layer1": "norm act pool", "layer2": "norm act pool"},
        "alpha / n": {"lrn_alpha": 1e-4 / 5},
        "k = 1": {"lrn_k": 1.0},
        "alpha = 0": {"lrn_alpha": 0.0},
    },
    "alexnet_pool": {"3/2 (paper)": {}, "2/2": {"pooling": "2/2"}},
    "alexnet_augment": {
        "centre crops": {"shift": False, "mirror": False, "colour": 0.0},
        "random crops": {"mirror": False, "colour": 0.0},
        "crops, mirrored": {"colour": 0.0},
        "+ colour (paper)": {},
    },
    "alexnet_dropout": {
        "dropout (paper)": {},
        "no dropout": {"dropout": 0.0},
        "dropout, constant rate": {"drop_epochs": (), "epochs": 54},
        "no dropout, constant rate": {"drop_epochs": (), "epochs": 54, "dropout": 0.0},
    },
    "alexnet_towers": {
        "joined (paper)": {},
        "apart until fc8": {"towers": "apart"},
        "one GPU, half the kernels": {"towers": "half"},
        "one tower": {"towers": "one"},
    },
    "alexnet_decay": {"0.0005 (paper)": {}, "no decay": {"weight_decay": 0.0}},
    "alexnet_init": {"biases of 1 (paper)": {}, "biases of 0": {"one": 0.0}},
    "alexnet_depth": {"whole": {}}
    | {
        f"without {layer}": {"without": layer}
        for layer in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    },
    "alexnet_batch": {"128": {}} | LINEAR | ROOT,
}


@pytest.mark.parametrize("name", ARMS)
def test_arms_differ_in_one_switch(name):
    """And in what else their names say."""
    arms = importlib.import_module(name).ARMS
    found = {arm: changed(run_) for arm, run_ in arms.items()}
    assert found.keys() == ARMS[name].keys()
    for arm, switches in ARMS[name].items():
        assert found[arm] == switches, arm


def test_an_ablation_from_end_to_end(run, folder):
    """AlexNet §3.4: two arms of two seeds."""
    two = ("--seeds", "2", "--epochs", "1")
    result = run("alexnet_pool", *two, out=folder)
    assert [len(seeds) for seeds in result.arms.values()] == [2, 2]
    for figures in result.arms["2/2"]:
        assert 0 < figures[TEST] < 100
        assert figures[GAP] == figures[TEST] - figures[TRAINING]
        assert figures["curve"] == [[1.0, figures[TEST]]]
        assert figures["training curve"][0][1] != figures[TRAINING]  # with noise
    first, second = (figures["training curve"] for figures in result.arms["2/2"])
    assert first != second
    assert result.commit == report.commit()
    seconds = [figures["seconds"] for arm in result.arms.values() for figures in arm]
    assert result.seconds == round(sum(seconds), 1)
    with pytest.raises(InputError, match="--seeds 1: .* has 2"):
        run("alexnet_pool", *BRIEF, "--resume", out=folder)


def test_a_result_of_other_data_is_not_replaced(run, tmp_path):
    there = tmp_path / "alexnet_lrn.json"
    result = RESULT_OF_CIFAR | {"name": "alexnet_lrn"}
    there.write_text(json.dumps(result))
    with pytest.raises(InputError, match="a result of CIFAR-10, not of scikit-learn"):
        run("alexnet_lrn", "--resume", out=tmp_path)
    assert json.loads(there.read_text()) == result


def images(folder: Path, level: int) -> None:
    """Two classes of ten images, of which nine train."""
    rng = np.random.default_rng(0)
    for i, name in itertools.product(range(10), ("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(level, size=(8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / name / f"{i}.png"), pixels)


def test_a_folder_of_the_same_name_is_another_set(monkeypatch, tmp_path):
    """Although its images have the same names; and so is one whose images change."""

    def experiment(place: str, out: str) -> Experiment:
        monkeypatch.chdir(tmp_path / place)
        options = Options("images", seeds=1, out=tmp_path / out, resume=True)
        return Experiment("x", options)

    for place, level in (("here", 9), ("there", 99)):
        images(tmp_path / place / "images", level)
    first = experiment("here", "out")
    first.finish({}, {"paper": [{TEST: 1.0}]}, lambda *_: None)
    assert experiment("here", "out")._folder(SMALL) == first._folder(SMALL)
    with pytest.raises(
        InputError, match=r"of folder images \(.*, not of folder images"
    ):
        experiment("there", "out")
    other = experiment("there", "other")
    assert other.set != first.set
    assert other._folder(SMALL).parent.name != first._folder(SMALL).parent.name
    images(tmp_path / "here" / "images", 99)
    assert experiment("here", "other").set == other.set


RESULT_OF_CIFAR = {
    "command": "",
    "commit": "",
    "machine": report.machine(),
    "data": {"set": "CIFAR-10", "epochs": 0},
    "seeds": [0],
    "seconds": 1.0,
    "findings": {},
    "arms": {},
}


def test_one_program_at_a_run(tmp_path):
    """A second one waits for the first."""
    order = []

    def second():
        with alone(tmp_path / "run"):
            order.append("second")

    with alone(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_fewer_epochs_of_a_run_are_another_run(monkeypatch, tmp_path):
    """Whose parameters are not there any more; its history is."""
    epoch = loop.Epoch(1, 1, 0.1, 0, 0, 0, 0, 0, 1.0)
    trained = loop.Trained(None, [epoch, epoch], {})  # pyright: ignore
    monkeypatch.setattr(loop, "train", lambda *_, **__: trained)
    experiment = Experiment("x", Options(out=tmp_path))
    shorter = dataclasses.replace(SMALL, epochs=1)
    assert experiment.history("arm", shorter) == [epoch]
    with pytest.raises(InputError, match="has 2 epochs, not 1"):
        experiment.train("arm", shorter)


def test_every_commit_that_trained_is_kept(tmp_path):
    experiment = Experiment("x", Options(out=tmp_path))
    experiment._commits = set()
    for commit, checkpoint, kept in (
        ("a", "", ""),  # nothing was saved
        ("b", "11", "b"),
        ("c", "22", "b c"),
        ("c", "33", "b c"),
        ("d", "33", "b c"),  # nothing was left to train
    ):
        experiment._commit = commit
        with experiment._signed(tmp_path):
            assert commit in (tmp_path / "commit").read_text().split()
            saved = tmp_path / "checkpoints" / checkpoint
            saved.mkdir(parents=True, exist_ok=True)
        assert (tmp_path / "commit").read_text().split() == kept.split()
    assert experiment._commits == {"b", "c"}


def test_a_result_is_not_replaced_by_a_lesser_one(run, tmp_path):
    """Of other epochs, or without an arm that it has."""
    experiment = Experiment("alexnet_lrn", Options(seeds=1, epochs=2, out=tmp_path))
    experiment.finish({}, {"paper": [{TEST: 1.0}], "other": []}, lambda *_: None)
    with pytest.raises(InputError, match="--epochs 1: .*alexnet_lrn.json has 2"):
        run("alexnet_lrn", *BRIEF, "--resume", out=tmp_path)
    with pytest.raises(InputError, match="alexnet_lrn.json holds an earlier result"):
        experiment.finish({}, {}, lambda *_: None)  # of a program that began before
    again = Options(seeds=1, epochs=2, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="alexnet_lrn.json has an arm, other, that"):
        Experiment("alexnet_lrn", again).finish(
            {}, {"paper": [{TEST: 2.0}]}, lambda *_: None
        )
    assert report.read(experiment.path).arms["paper"] == [{TEST: 1.0}]


@pytest.fixture
def begun(monkeypatch):
    """Which arms and seeds an experiment trains; here all that they leave is a run's
    folder."""
    trained = []

    def train(self, arm, run_) -> None:
        report.write_json({}, self._folder(run_) / "run.json")
        trained.append((arm, run_.seed))

    figures = chance(1, 1, ()) | {"seconds": 5.0, "diverged": False}
    monkeypatch.setattr(Experiment, "train", train)
    monkeypatch.setattr(_arms, "measure", lambda *_: dict(figures))
    return trained


def resumed(runs: dict, seeds: int, out: Path) -> report.Result:
    experiment = Experiment("x", Options(seeds=seeds, out=out, resume=True))
    experiment._commits = {f"commit{seeds}"}
    experiment.finish({}, experiment.arms(runs), lambda *_: None)
    return report.read(experiment.path)


SPLIT = switched(SMALL, towers=1)


def test_what_a_result_has_is_not_trained_again(begun, tmp_path):
    """By the same settings; although its runs are gone."""
    resumed({"a": SMALL}, 1, tmp_path)
    assert begun == [("a", 0)]
    shutil.rmtree(tmp_path / "runs")
    begun.clear()
    both = {"a": SMALL, "b": SPLIT}
    found = resumed(both, 2, tmp_path)
    assert begun == [("b", 0), ("a", 1), ("b", 1)]
    assert found.commit == "commit1, commit2"
    assert found.seconds == 5.0  # of what was kept; the others were not trained
    begun.clear()
    assert resumed(both, 2, tmp_path).arms == found.arms
    assert not begun


def test_a_result_without_its_runs_is_not_replaced(begun, tmp_path):
    """By other settings, be it by the second of two starts, or by nets that are needed
    themselves."""
    resumed({"a": SMALL}, 1, tmp_path)
    other = {"new": switched(SMALL, pooling="2/2"), "a": SPLIT}
    shutil.rmtree(tmp_path / "runs")
    begun.clear()
    for _ in range(2):
        with pytest.raises(InputError, match="x.json is a result whose runs are not"):
            resumed(other, 1, tmp_path)
        experiment = Experiment("x", Options(seeds=1, out=tmp_path, resume=True))
        with pytest.raises(InputError, match="x.json is a result whose runs are not"):
            next(experiment.seeds("a", SMALL))
    assert not begun
    experiment.train("a", scaled(SMALL, 60))
    assert len(list(experiment.seeds("a", SMALL))) == 1
    resumed(other, 1, tmp_path)
    assert begun[-2:] == [("new", 0), ("a", 0)]


def test_a_verdict_names_the_arms_that_diverged(tmp_path):
    """AlexNet §3.4: chance is no error of a net."""
    experiment = Experiment("x", Options(seeds=1, out=tmp_path))
    arms = {"3/2": [{TEST: 1.0}], "2/2": [{TEST: 90.0, "diverged": True}]}
    found = {"AlexNet §3.4": ({}, "reproduced")}
    experiment.finish(found, arms, lambda *_: None)
    (finding,) = report.read(experiment.path).findings.values()
    assert finding.verdict == "reproduced; diverged: 2/2"


def test_towers_and_their_filters(run, monkeypatch, folder):
    """AlexNet §3.2, AlexNet Figure 3: two of its arms, and two panels of one net."""
    two = dict(list(alexnet_towers.ARMS.items())[::2])  # joined and half
    monkeypatch.setattr(alexnet_towers, "ARMS", two)
    result = run("alexnet_towers", *BRIEF, out=folder)
    assert set(result.findings) == {"AlexNet §3.2", "AlexNet Figure 3"}
    grey = "not tested: the images are grey"
    assert result.findings["AlexNet Figure 3"].verdict == grey
    assert (folder / "alexnet_towers_filters.png").exists()


def test_the_colour_of_towers():
    """AlexNet Figure 3: a grey half and a coloured one are a rare chance."""
    kernel = np.random.default_rng(0).normal(size=(5, 5, 3, 24))
    kernel[..., :12] = kernel[..., :12].mean(axis=2, keepdims=True)
    np.testing.assert_allclose(alexnet_towers.colours(kernel)[:12], 0, atol=1e-12)
    apart, share = alexnet_towers.specialised(kernel)
    assert apart > 50
    assert share > 99
    mixed = kernel[..., np.random.default_rng(1).permutation(24)]
    assert alexnet_towers.specialised(mixed)[1] < 95
    assert alexnet_towers.judge([99.0, 96.0]) == "reproduced"
    assert alexnet_towers.judge([99.0, 50.0]) == "undecided"
    assert alexnet_towers.judge([10.0, 50.0]) == "not reproduced"
    assert alexnet_towers.judge([99.0]) == "undecided: one seed"
    assert alexnet_towers.judge([]) == "undecided: every joined net diverged"


def test_the_average_of_nets(run, folder):
    """AlexNet §6 five nets: each choice of five of seven counts once."""
    result = run("alexnet_ensemble", "--epochs", "1", out=folder)
    assert [len(seeds) for seeds in result.arms.values()] == [7, 21, 1]
    one, five = (
        np.mean([seed[TEST] for seed in result.arms[name]])
        for name in ("1 net", "5 nets")
    )
    (finding,) = result.findings.values()
    gained = finding.ours["top-1 error points, five nets"]["mean"]
    assert gained == pytest.approx(five - one)
    with pytest.raises(InputError, match="from 7 to 10"):
        run("alexnet_ensemble", "--seeds", "2", out=folder / "few")


def test_what_an_ensemble_gains():
    """Of nets that each take their own share away, as sure as the mean of the shares:
    an independent estimate of its error."""
    shares = [1.0, 2.0, 4.0, 7.0, 1.0, 3.0, 3.0]
    one = [{"e": 30.0 + number} for number in range(7)]
    many = [
        {"e": np.mean([one[i]["e"] - shares[i] for i in nets])}
        for nets in itertools.combinations(range(7), 5)
    ]
    gain = alexnet_ensemble.gain(one, many, 5, "e")
    assert gain == pytest.approx(report.estimate(shares))


def test_retrieval(run, folder):
    """AlexNet Figure 4: eight test images, five labels, six neighbours of each."""
    result = run("alexnet_retrieval", *BRIEF, out=folder)
    rows = result.arms["figure 4"]
    assert len(rows) == 8
    assert all(len(row["guesses"]) == 5 for row in rows)
    assert all(len(row["neighbours"]) == 6 for row in rows)
    seed = result.arms["alexnet-small"][0]
    for similar in (alexnet_retrieval.SAME_PIXELS, alexnet_retrieval.SAME_UNTRAINED):
        assert seed[similar] > 80  # digits of a class are alike
    same = seed[alexnet_retrieval.SAME]
    assert same > 80 and same != seed[alexnet_retrieval.SAME_UNTRAINED]
    assert 0 < seed[alexnet_retrieval.CLOSER] < 50


def test_the_nearest_are_those_at_the_least_distance():
    """AlexNet Figure 4: against all distances, one by one."""
    rng = np.random.default_rng(0)
    queries, stored = (rng.normal(size=(n, 7)).astype(np.float32) for n in (5, 40))
    expected = [
        np.argsort([np.linalg.norm(q - s) for s in stored])[:6] for q in queries
    ]
    np.testing.assert_array_equal(alexnet_retrieval.nearest(queries, stored), expected)
    # Before the nearest there are none, before the next one, and so on to five of 40.
    share = alexnet_retrieval.closer(queries, stored, np.int32(expected))
    assert share == pytest.approx(100 * np.mean(np.arange(6)) / 40)


def test_imagenet_on_a_small_folder(monkeypatch, tmp_path):
    """AlexNet Table 2, AlexNet Table 1: the whole recipe, end to end."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            image = rng.integers(0, 256, (260, 280, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "images" / name / f"{i}.jpg"), image)
    quick = ("--data", str(tmp_path / "images"), "--epochs", "1", "--batch", "8")
    quick += ("--width", "0.05", "--schedule", "source", "--year", "2010")
    script = ["experiments/alexnet_imagenet.py", *quick, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", script)
    alexnet_imagenet.main()
    result = report.read(tmp_path / "alexnet_imagenet_2010.json")
    finding = result.findings["AlexNet Table 1"]
    assert finding.verdict == (
        "not tested: 2 classes, 18 training images, width 0.05, batch 8"
    )
    assert 0 <= finding.ours["CNN, top-1"]["mean"] <= 100
    assert list(result.arms) == ["source, width 0.05, batch 8"]
    monkeypatch.setattr(sys, "argv", [*script, "--width", "0.1", "--resume"])
    with pytest.raises(
        InputError, match="has an arm, source, width 0.05, batch 8, that"
    ):
        alexnet_imagenet.main()


@pytest.mark.parametrize(
    ("classes", "images", "width", "batch", "top1", "verdict"),
    [
        (1000, 1_200_000, 1.0, 128, 41.0, "reproduced; one seed"),
        (1000, 1_200_000, 1.0, 128, 41.5, "undecided; one seed"),  # s.e. 0.22
        (1000, 1_200_000, 1.0, 128, 42.2, "not reproduced; one seed"),
        (10, 1_200_000, 1.0, 128, 41.0, "not tested"),
        (1000, 50_000, 1.0, 128, 41.0, "not tested"),
        (1000, 1_200_000, 0.5, 128, 41.0, "not tested"),
        (1000, 1_200_000, 1.0, 8, 41.0, "not tested"),
    ],
)
def test_what_can_test_imagenet(classes, images, width, batch, top1, verdict):
    """AlexNet Table 2: the whole set, the whole net, the paper's batches."""
    model = SimpleNamespace(switches={"width": width})
    work = SimpleNamespace(
        source=SimpleNamespace(classes=range(classes), count=images),
        test_source=SimpleNamespace(count=50_000),
        run=SimpleNamespace(model=model, batch=batch),
    )
    judged = alexnet_imagenet.judge(work, [top1], 40.7)
    assert judged.split(":")[0] == verdict


def test_the_figures_of_more_nets():
    """AlexNet Table 2: one net is their mean, the last error that of all together."""
    ours = alexnet_imagenet.figures("2012", [41.0, 43.0, 38.0], [18.0, 20.0, 16.0])
    assert ours["1 CNN, top-1 val"]["mean"] == 42.0
    assert ours["2 CNNs, top-5 val"] == {"mean": 16.0}


def test_relu_against_tanh(run, monkeypatch, tmp_path):
    """AlexNet §3.1: both arms run, and the files say what was measured."""
    monkeypatch.setattr(alexnet_relu, "RATES", dict.fromkeys(("relu", "tanh"), (0.01,)))
    result = run("alexnet_relu", *BRIEF, out=tmp_path)
    assert set(result.findings) == {"AlexNet §3.1"}
    assert result.findings["AlexNet §3.1"].verdict.startswith("not tested: the pub")
    assert {"relu", "tanh"} < set(result.arms)
    assert result.arms["relu"][0]["curve"][0] == [0.0, 90.0]
    assert (tmp_path / "alexnet_relu.png").exists()
    with pytest.raises(InputError, match="--resume"):
        run("alexnet_relu", *BRIEF, out=tmp_path)
    again = run("alexnet_relu", *BRIEF, "--resume", out=tmp_path)
    assert again.arms == result.arms
    assert again.seconds == result.seconds  # nothing was trained twice


@pytest.mark.parametrize(("epochs", "short"), [(4, True), (5, False)])
@pytest.mark.usefixtures("cifar10")
def test_the_epochs_of_relu_are_the_most(run, monkeypatch, tmp_path, epochs, short):
    """AlexNet §3.1: nets stop at 25%, so that fewer can test it."""
    monkeypatch.setattr(Experiment, "history", lambda *_: [])
    monkeypatch.setattr(Experiment, "train", lambda *_: SimpleNamespace(history=[]))
    few = ("--data", "cifar10", "--epochs", str(epochs))
    (finding,) = run("alexnet_relu", *few, out=tmp_path).findings.values()
    assert finding.verdict.startswith("not tested: 4 of 5" if short else "undecided")


def test_epochs_to_the_target_are_interpolated():
    """AlexNet §3.1: the epochs until 25% training error."""
    points = [(0.0, 90.0), (0.5, 50.0), (1.5, 30.0), (2.5, 20.0), (3.5, 30.0)]
    assert alexnet_relu.epochs_to_target(points) == pytest.approx(2.0)
    assert alexnet_relu.epochs_to_target(points[:3]) is None


def test_the_verdict_follows_the_rule_of_the_docstring():
    """AlexNet §3.1: several times faster, by more than two standard errors."""
    judge = alexnet_relu.judge
    assert judge({"mean": 6.0, "error": 0.6}, False) == "reproduced"
    assert judge({"mean": 2.5, "error": 0.6}, False) == "undecided"
    assert judge({"mean": 1.0, "error": 0.1}, False) == "not reproduced"
    assert "lower bound" in judge({"mean": 6.0, "error": 0.6}, True)
    assert judge({"mean": 1.0, "error": 0.1}, True).startswith("undecided")
    assert judge({"mean": 6.0}, False).startswith("undecided")
    assert judge(None, False).startswith("undecided")


def test_an_arm_that_never_reaches_the_target_is_a_lower_bound():
    """AlexNet §3.1: tanh counts for all its epochs, a ReLU that fails for nothing."""
    arms = {"relu": [{"epochs": 5.0}], "tanh": [{"epochs": None}]}
    assert alexnet_relu.compare(arms, 30)[alexnet_relu.FIGURE] == {"mean": 5.9}
    arms = {"relu": [{"epochs": None}], "tanh": [{"epochs": 5.0}]}
    assert alexnet_relu.compare(arms, 30) == {}


def test_a_net_has_converged():
    """AlexNet §4.2: whose error falls no more but for its noise."""
    noise = np.random.default_rng(0).uniform(0.1, 0.5, 54)
    noise[-1] = 0.0  # the lowest of all comes last
    assert alexnet_dropout.has_converged([[i, 20 + x] for i, x in enumerate(noise)])
    assert not alexnet_dropout.has_converged([[i, 60 - i] for i in range(54)])


def test_an_arm_of_more_epochs_keeps_its_share(monkeypatch, tmp_path):
    """AlexNet §4.2: three times as long, whatever --epochs."""
    trained = {}

    def train(self, arm, run_):
        trained[arm] = run_.epochs
        raise Diverged("the loss is nan", 1)

    monkeypatch.setattr(Experiment, "train", train)
    options = Options(seeds=1, epochs=6, out=tmp_path)
    Experiment("alexnet_dropout", options).arms(alexnet_dropout.ARMS)
    assert list(trained.values()) == [6, 6, 18, 18]


def test_iterations_to_converge():
    """AlexNet §4.2: to the higher of the lowest errors, and a point more."""
    slow = [[1.0, 60.0], [2.0, 50.0], [3.0, 40.0], [4.0, 30.0]]
    fast = [[1.0, 50.0], [2.0, 30.5], [3.0, 32.0], [4.0, 31.0]]
    assert alexnet_dropout.ratio(slow, fast) == 2.0
    assert alexnet_dropout.ratio(fast, slow) == 0.5


@pytest.mark.parametrize(("epochs", "tested"), [(0, True), (60, True), (59, False)])
def test_fewer_epochs_test_no_claim(tmp_path, epochs, tested):
    """AlexNet §3.4: not by the digits' own number of them."""
    experiment = Experiment("x", Options(seeds=1, epochs=epochs, out=tmp_path))
    found = {"AlexNet §3.4": ({}, "reproduced")}
    experiment.finish(found, {"3/2": [{TEST: 1.0}]}, lambda *_: None)
    (finding,) = report.read(experiment.path).findings.values()
    assert finding.verdict == (
        "reproduced" if tested else "not tested: 59 of 60 epochs"
    )


@pytest.mark.parametrize(
    ("command", "epochs"),
    [
        ("alexnet_pool", 18),
        ("cifar_lrn", 140),
        ("cifar_ladder --nets cifar-80sec", 10),
        ("cifar_ladder --nets cifar-13pct", 140),
        ("cifar_ladder --nets cifar-11pct", 135),
    ],
)
@pytest.mark.usefixtures("cifar10", "untrained")
def test_fewer_epochs_than_its_own_test_no_net(command, epochs, monkeypatch, tmp_path):
    """AlexNet §3.4, cuda-convnet 13pct: on CIFAR-10 each has a schedule."""
    name, *options = command.split()
    for given in (epochs - 1, epochs, 0):
        out = tmp_path / str(given)
        argv = [*options, "--data", "cifar10", "--epochs", str(given)]
        argv += ["--out", str(out)]
        monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py", *argv])
        importlib.import_module(name).main()
        (result,) = report.read_all(out).values()
        for finding in result.findings.values():
            short = finding.verdict == f"not tested: {given} of {epochs} epochs"
            assert short == (given == epochs - 1)


def test_a_set_smaller_than_a_batch_is_told_before_training(monkeypatch, tmp_path):
    """One weird trick batch: of which the first would train."""
    monkeypatch.setattr(Experiment, "train", lambda *_: pytest.fail("trained"))
    experiment = Experiment("x", Options(seeds=1, out=tmp_path))
    runs = {"128": SMALL, "4096": dataclasses.replace(SMALL, batch=4096)}
    with pytest.raises(InputError, match="--data digits: 1437 images, .* 4096"):
        experiment.arms(runs)


def test_schedules_are_scaled_as_a_whole():
    longer = scaled(SMALL, 2 * SMALL.epochs)
    drops = [2 * drop for drop in SMALL.optim.drop_epochs]
    assert list(longer.optim.drop_epochs) == drops
    assert scaled(SMALL, 0) == SMALL
    _, papers = RECIPES["alexnet-paper"]
    patience = [scaled(papers, epochs).optim.plateau for epochs in (9, 90, 180)]
    assert patience == [1, 5, 10]


def test_a_net_that_diverges_counts_as_chance(tmp_path):
    wild = switched(SMALL, one=1e30)
    experiment = Experiment("x", Options(seeds=1, epochs=1, out=tmp_path))
    (figures,) = experiment.arms({"wild": wild}, views=("ten",))["wild"]
    assert figures["diverged"]
    assert figures["test error, %"] == figures["test error of ten views, %"] == 90.0
    assert figures["curve"] == [[1.0, 90.0]]
    assert alexnet_dropout.ratio(figures["curve"], figures["curve"]) == 1.0


def test_runs_in_common_are_trained_once(tmp_path):
    """And a run's folder depends on what it is, not on the experiment."""
    one, other = (
        Experiment(name, Options(seeds=1, epochs=1, out=tmp_path)) for name in "ab"
    )
    first = one.arms({"paper": SMALL})["paper"]
    second = other.arms({"baseline": SMALL})["baseline"]
    assert first == second  # the seconds too
    assert len(list((tmp_path / "runs").glob("alexnet-small-*"))) == 1
    assert one._folder(SMALL) != one._folder(switched(SMALL, lrn_k=1.0))


@pytest.mark.parametrize(
    "wrong", ["--seeds 0", "--devices 9", "--epochs -1", "--epochs 1"]
)
def test_what_no_experiment_can_do(wrong, run, tmp_path):
    """AlexNet §5 biases: nor one epoch, where the second counts."""
    with pytest.raises(InputError, match=f"{wrong}: "):
        run("alexnet_init", *wrong.split(), out=tmp_path)
