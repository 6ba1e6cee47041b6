"""Experiments as data, and the session that trains what their records lack."""

import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import _runs
import _session
import alexnet_augment
import alexnet_batch
import alexnet_decay
import alexnet_depth
import alexnet_dropout
import alexnet_ensemble
import alexnet_imagenet
import alexnet_init
import alexnet_lrn
import alexnet_pool
import alexnet_relu
import alexnet_retrieval
import alexnet_towers
import made
import numpy as np
import pytest
import report
import vgg_depth
import vgg_head
import vgg_init
import vgg_small_filters
import vgg_testing
from _ablation import CHOOSES, Experiment, ablation, result_of
from _runs import SMALL, recipe, same_run, settings_of, small_vgg, train_in, with_net
from _session import Options, run

from alexvgg_jax import results
from alexvgg_jax.config import Data, to_settings
from alexvgg_jax.data.decode import fit
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.errors import Diverged, InputError
from alexvgg_jax.files import write_json
from alexvgg_jax.loop import Epoch
from alexvgg_jax.models import build
from alexvgg_jax.results import GAP, TEST, TRAINING
from alexvgg_jax.run import net_of

TINY = recipe("cifar-80sec")
TINY = replace(TINY, data=replace(TINY.data, size=12))
TWO = ablation(
    "two",
    "Two rates of a small net: one compiled program.",
    tag="AlexNet §3.4",
    arms={"paper": TINY, "1/10": replace(TINY, optim=replace(TINY.optim, rate=1e-4))},
    better="paper",
    worse="1/10",
)
EPOCH = Epoch(1, 11, 0.01, 2.0, 70.0, 2.0, 60.0, 10.0, 1.5)


@pytest.fixture
def untrained(monkeypatch):
    """Runs that are not trained: the list of those asked for."""
    asked = []

    def train(directory, run_):
        asked.append((directory.name, run_))
        history = [EPOCH._replace(epoch=i + 1) for i in range(run_.epochs)]
        return SimpleNamespace(history=history, work=None, params={})

    def errors(trained, views=()):
        figures = {TEST: 60.0, TRAINING: 50.0, GAP: 10.0}
        return figures | {results.TOP5: 10.0}

    monkeypatch.setattr(_session, "train_in", train)
    monkeypatch.setattr(_session, "errors", errors)
    return asked


def changed(run_, base):
    """The settings that differ from the base's, by name."""

    def flat(settings, prefix=""):
        for key, value in settings.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    default = dict(flat(asdict(base)))
    return {k.split(".")[-1] for k, v in flat(asdict(run_)) if default.get(k) != v}


SHORTER = {"epochs", "drop_epochs"}
OF_VGG = changed(small_vgg("vgg-a"), SMALL)  # twelve epochs, and the net
OF_PHOTOGRAPHS = {"size", "crop", "jitter_from", "mean", "batch", "dropout"}
OF_SUBSET = {"count", "colour_epochs"} | SHORTER


@pytest.mark.parametrize(
    ("module", "papers", "protocol", "most"),
    [
        (alexnet_lrn, alexnet_lrn.PAPER, set(), 2),
        (alexnet_pool, alexnet_pool.PAPER, OF_SUBSET | {"conv1"}, 1),
        (alexnet_augment, alexnet_augment.PAPER, OF_SUBSET, 4),
        (alexnet_towers, alexnet_towers.JOINED, set(), 1),
        (alexnet_decay, alexnet_decay.PAPER, OF_SUBSET, 1),
        (alexnet_init, alexnet_init.PAPER, SHORTER, 1),
        (alexnet_depth, alexnet_depth.WHOLE, SHORTER | {"conv1"}, 1),
        (alexnet_batch, "128, rate 0.01", SHORTER, 3),
        (vgg_depth, "A", OF_VGG, 2),  # the name changes too
        (vgg_small_filters, "B", OF_VGG, 2),
        (vgg_init, "A, glorot", OF_VGG | SHORTER, 5),
        (vgg_head, "fully connected (paper)", OF_VGG, 1),
        (vgg_testing, vgg_testing.D, OF_VGG | OF_PHOTOGRAPHS, 2),
    ],
)
def test_the_papers_arm_is_the_small_net_and_others_differ_in_little(
    module, papers, protocol, most
):
    """The paper's arm differs from the recipe in what the protocol says. The others
    differ from that arm in what their names say."""
    arms = dict(module.EXPERIMENT.arms)
    base = arms.pop(papers)
    assert changed(base, SMALL) == protocol
    differences = [changed(run_, base) for run_ in arms.values()]
    assert 1 <= min(map(len, differences)) <= max(map(len, differences)) <= most


def test_no_two_ablations_train_the_same_net():
    """A lucky control would count twice. The runs that choose a rate decide nothing."""
    modules = (alexnet_lrn, alexnet_pool, alexnet_augment, alexnet_towers)
    modules += (alexnet_decay, alexnet_init, alexnet_depth, alexnet_batch)
    modules += (alexnet_dropout, vgg_depth, vgg_small_filters, vgg_init, vgg_head)
    modules += (vgg_testing,)
    trained = [
        {str(settings_of(replace(run_, seed=seed)))}
        for experiment in (module.EXPERIMENT for module in modules)
        for arm in experiment.arms
        for run_ in experiment.tried(arm, experiment.first(arm).epochs)
        for seed in range(
            experiment.first_seed, experiment.first_seed + experiment.seeds
        )
    ]
    assert len(set.union(*trained)) == len(trained)


def test_nets_of_a_table_differ_in_depth_alone():
    """VGG Table 3: one width, data and schedule, and Glorot's weights."""
    runs = vgg_depth.EXPERIMENT.arms
    same = replace(runs["A"].net, column="A")
    for name, run_ in runs.items():
        assert replace(run_, name="", net=same) == replace(runs["A"], name="")
        assert replace(run_.net, column="A", lrn=False) == same
        assert run_.net.lrn == (name == "A-LRN")
    assert same.weight_init == "glorot"
    layers = {name: len(net_of(run_).param_shapes()) for name, run_ in runs.items()}
    assert layers == {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}


def test_pooled_maps_are_as_large_with_either_pooling():
    """AlexNet §3.4: after a 5x5/1 conv1."""
    layers = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "pool5")
    for run_ in alexnet_pool.EXPERIMENT.arms.values():
        shapes = net_of(run_).shapes()
        assert [shapes[layer][0] for layer in layers] == [28, 14, 14, 7, 7, 7, 3]


@pytest.mark.parametrize("experiment", report.EXPERIMENTS, ids=lambda e: e.name)
def test_every_arm_is_a_net_that_can_be_built(experiment):
    for run_ in experiment.arms.values():
        net_of(run_)
    assert experiment.about and experiment.seeds >= 1
    assert set(experiment.few_seeds) <= set(experiment.arms)


@pytest.mark.usefixtures("optimized")
def test_an_experiment_from_end_to_end(tmp_path, capsys):
    """AlexNet §3.4: two arms are trained once, and shown from their file."""
    chosen = Options(seeds=1, epochs=1, devices=1, out=tmp_path)
    result = run(TWO, chosen)
    records = results.read(tmp_path / "two.jsonl")
    assert [(r.arm, r.seed, r.epochs) for r in records] == [
        ("paper", 0, 1),
        ("1/10", 0, 1),
    ]
    for record in records:
        assert 0 < record.figures[TEST] <= 100
        gap = record.figures[TEST] - record.figures[TRAINING]
        assert record.figures[GAP] == pytest.approx(gap, abs=1e-5)
        assert record.curves[TEST] == [round(record.figures[TEST], 4)]
        assert record.data["grey"] and record.data["train"] == 1437
        assert record.seconds > 0 and record.jax and record.machine["cores"]
        assert record.commit == results.commit()[0]
    verdict = result.findings["AlexNet §3.4"].verdict
    assert str(verdict) == "not tested: 1 of 60 epochs"
    assert (tmp_path / "two.png").read_bytes()[:4] == b"\x89PNG"
    assert "not tested: 1 of 60" in capsys.readouterr().out
    assert result_of(TWO, records) == result


def test_a_run_continues_in_its_folder_or_replaces_it(monkeypatch, tmp_path):
    """Which of them depends on the settings in the folder; epochs may change."""
    calls = []

    def train(run_, directory, *, resume=False):
        calls.append((resume, directory.exists()))
        write_json(to_settings(run_), directory / "run.json")
        return SimpleNamespace(history=[EPOCH] * max(run_.epochs, 2 * resume))

    monkeypatch.setattr(_runs.loop, "train", train)
    train_in(tmp_path / "run", TINY)
    train_in(tmp_path / "run", replace(TINY, epochs=20))
    train_in(tmp_path / "run", replace(TINY, epochs=20, batch=64))
    assert calls == [(False, False), (True, True), (False, False)]
    train_in(tmp_path / "run", replace(TINY, epochs=1, batch=64))  # it went further
    assert calls[3:] == [(True, True), (False, False)]


def test_only_missing_seeds_are_trained(untrained, tmp_path):
    run(TWO, Options(seeds=1, epochs=1, out=tmp_path))
    assert [name for name, _ in untrained] == ["paper-seed0", "1_10-seed0"]
    result = run(TWO, Options(seeds=2, epochs=1, out=tmp_path))
    assert [name for name, _ in untrained[2:]] == ["paper-seed1", "1_10-seed1"]
    assert [len(seeds) for seeds in result.arms.values()] == [2, 2]
    run(TWO, Options(seeds=1, epochs=1, arms=("1/10",), out=tmp_path))
    assert len(untrained) == 4
    run(TWO, Options(seeds=1, epochs=2, out=tmp_path))
    assert [run_.epochs for _, run_ in untrained[4:]] == [2, 2]


def test_each_arm_is_trained_at_its_best_rate(untrained, monkeypatch, tmp_path):
    """A seed of its own chooses the rate, and is not shown."""

    def errors(trained, views=()):
        run_ = untrained[-1][1]
        best = 0.02 if run_.batch == 64 else 0.01
        error = 30.0 + 1000 * abs(run_.optim.rate - best) + run_.seed % 7
        return {TEST: error, TRAINING: 1.0, GAP: 1.0, results.TOP5: 1.0}

    monkeypatch.setattr(_session, "errors", errors)
    arms = {"a": TINY, "b": replace(TINY, batch=64)}
    two = replace(TWO, arms=arms, rates=(0.01, 0.02), judge=lambda _: {})
    result = run(two, Options(seeds=2, epochs=1, out=tmp_path))
    trained = [(r.batch, r.optim.rate, r.seed) for _, r in untrained]
    assert trained[:4] == [
        (batch, rate, CHOOSES) for batch in (128, 64) for rate in two.rates
    ]
    assert trained[4:] == [
        (batch, rate, seed)
        for seed in range(2)
        for batch, rate in ((128, 0.01), (64, 0.02))
    ]
    shown = {a: [r.settings["optim"]["rate"] for r in result.arms[a]] for a in arms}
    assert shown == {"a": [0.01] * 2, "b": [0.02] * 2}
    lines = results.read(tmp_path / "two.jsonl")
    without = [r for r in lines if (r.arm, r.settings["optim"]["rate"]) != ("b", 0.01)]
    assert not result_of(two, without).arms  # a rate has not been tried


def test_rates_are_tried_from_end_to_end(tmp_path):
    """On digits: an arm is trained at each rate, and again at its best."""
    one = replace(TWO, arms={"a": TINY}, rates=(1e-3, 1e-4), judge=lambda _: {})
    result = run(one, Options(seeds=1, epochs=1, devices=1, out=tmp_path))
    *tried, shown = results.read(tmp_path / "two.jsonl")
    best = min(tried, key=lambda record: record.figures[TEST])
    assert [r.seed for r in (*tried, shown)] == [CHOOSES, CHOOSES, 0]
    assert [r.settings["optim"]["rate"] for r in tried] == [1e-3, 1e-4]
    assert shown.settings["optim"] == best.settings["optim"]
    assert result.arms == {"a": [shown]} and (tmp_path / "two.png").exists()


def test_a_choice_of_images_is_tested_on_the_others(tmp_path):
    """Their number, and their digest, are in the record."""
    some = replace(TINY, data=replace(TINY.data, count=500))
    two = replace(TWO, arms={"all": TINY, "some": some}, judge=lambda _: {})
    run(two, Options(seeds=1, epochs=1, devices=1, out=tmp_path))
    every, few = results.read(tmp_path / "two.jsonl")
    assert (every.data["train"], every.data["test"]) == (1437, 360)
    assert (few.data["train"], few.data["test"]) == (500, 360 + 937)
    assert every.data["digest"] != few.data["digest"]
    wrong = few.figures[TEST] * (360 + 937) / 100
    assert wrong == pytest.approx(round(wrong), abs=1e-3)
    assert few.figures[TEST] != pytest.approx(few.curves[TEST][-1], abs=1e-3)


def test_the_newest_complete_group_is_shown():
    old = [made.record(TWO, arm, seed, 18) for arm in TWO.arms for seed in range(3)]
    new = [made.record(TWO, arm, seed, 9) for arm in TWO.arms for seed in range(2)]
    assert [r.epochs for r in result_of(TWO, [*old, *new]).records] == [9] * 4
    assert result_of(TWO, [*old, new[0]]).records == old  # the other arm lacks
    assert result_of(TWO, [*new, *old[:4]]).records == [old[0], old[3]]
    other = [replace(r, data=made.CIFAR10 | {"digest": "beef"}) for r in old[:3]]
    assert result_of(TWO, [*old, *other]).records == old
    stale = replace(old[0], settings=old[0].settings | {"batch": 1})
    assert result_of(TWO, [*old, stale]).records == old
    again = replace(old[0], commit="1" * 40)
    assert result_of(TWO, [*old, again]).records == [again, *old[1:]]
    assert not result_of(TWO, []).findings


def test_an_experiment_trains_its_own_nets(untrained, tmp_path):
    """Another's file in the same folder is not read; the seeds are its own."""
    run(TWO, Options(seeds=1, epochs=1, out=tmp_path))
    other = replace(TWO, name="other", first_seed=10, judge=lambda _: {})
    result = run(other, Options(seeds=2, epochs=1, out=tmp_path))
    assert [run_.seed for _, run_ in untrained] == [0, 0, 10, 10, 11, 11]
    assert [r.seed for r in result.arms["paper"]] == [10, 11]
    run(replace(TWO, name="same"), Options(seeds=1, epochs=1, out=tmp_path))
    assert len(untrained) == 8


def test_a_record_that_lacks_a_figure_is_trained_again(untrained, tmp_path):
    run(TWO, Options(seeds=1, epochs=1, out=tmp_path))
    more = replace(TWO, measures=("colours",), measure=lambda _: ({}, {}))
    run(more, Options(seeds=1, epochs=1, out=tmp_path))
    assert len(untrained) == 4


def test_a_net_that_diverges_is_a_record(monkeypatch, tmp_path):
    def train(directory, run_):
        raise Diverged("the loss is nan", 1)

    monkeypatch.setattr(_session, "train_in", train)
    result = run(TWO, Options(seeds=2, epochs=2, out=tmp_path))
    record = result.arms["1/10"][1]
    assert record.diverged and record.seconds == 0
    assert record.figures == {TEST: 90.0, TRAINING: 90.0, GAP: 0.0, results.TOP5: 50.0}
    assert record.curves[TEST] == [90.0, 90.0]


def test_settings_are_equal_wherever_the_images_lie():
    settings = settings_of(SMALL)
    assert same_run(settings, SMALL)
    elsewhere = replace(SMALL, data=replace(SMALL.data, name="/data/cifar10"))
    assert same_run(settings, replace(elsewhere, checkpoint_every=9))
    assert not same_run(settings, replace(SMALL, seed=1))
    assert not same_run(settings, with_net(SMALL, lrn_k=1.0))
    assert not same_run({"batch": 128}, SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": -1}, "--seeds -1: at least 0"),
        ({"epochs": -1}, "--epochs -1: at least 0"),
        ({"devices": 9}, "--devices 9: from 0 to 8"),
        ({"arms": ("4/2",)}, "--arms 4/2: choose from paper, 1/10"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        run(TWO, Options(out=tmp_path, **wrong))


def test_a_set_smaller_than_a_batch(tmp_path):
    """One weird trick batch: digits have no batch of 4096."""
    large = replace(TWO, arms={arm: replace(TINY, batch=4096) for arm in TWO.arms})
    with pytest.raises(InputError, match="--data digits: 1437 images, .* 4096"):
        run(large, Options(seeds=1, out=tmp_path))


def test_the_command_line(untrained, monkeypatch, tmp_path, capsys):
    argv = ["two.py", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    _session.main(TWO)
    assert f"wrote {tmp_path / 'two.jsonl'}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*argv, "--data", "/none"])
    with pytest.raises(SystemExit):
        _session.main(TWO)
    assert "error: --data" in capsys.readouterr().err


def test_relu_chooses_a_rate_and_trains_all_seeds(untrained, tmp_path):
    """AlexNet §3.1: every rate for a few epochs, the two best, then the best."""
    run(alexnet_relu.EXPERIMENT, Options(seeds=2, epochs=12, out=tmp_path))
    relu = [(run_.epochs, run_.seed) for name, run_ in untrained if "relu" in name]
    assert relu == [(1, 0), (1, 0), (1, 0), (12, 0), (12, 0), (12, 1)]
    assert all(run_.until_error == 25.0 for _, run_ in untrained)


def test_deep_nets_start_from_the_layers_of_net_a(untrained, tmp_path):
    """VGG §3.1: of the same seed, which is trained first."""
    chosen = Options(seeds=1, epochs=1, arms=("B, from A",), out=tmp_path)
    run(vgg_init.EXPERIMENT, chosen)
    assert [name for name, _ in untrained] == ["A_glorot-seed20", "B_from_A-seed20"]
    run_ = untrained[1][1]
    assert run_.init_from == str(tmp_path / "runs" / "vgg_init" / "A_glorot-seed20")
    convolutions = [name for name in run_.init_layers if "conv" in name]
    shapes = {column: build(f"vgg-{column}").param_shapes() for column in "ab"}
    assert convolutions == list(shapes["a"])[:4]
    copied = {layer: shapes["a"][layer] for layer in run_.init_layers}
    assert copied == {layer: shapes["b"][layer] for layer in run_.init_layers}
    run(vgg_init.EXPERIMENT, chosen)  # known, wherever the weights of net A were
    assert len(untrained) == 2
    records = results.read(tmp_path / "vgg_init.jsonl")
    assert records[0].figures[vgg_init.LOSS] == EPOCH.train_loss
    other = replace(run_, init_from="elsewhere")
    assert same_run(records[0].settings, other)
    assert not same_run(records[0].settings, replace(other, init_layers=()))


def test_an_ensemble_averages_each_choice_of_nets(untrained, monkeypatch, tmp_path):
    """AlexNet §6 five nets: seven nets are trained, and not again for their records."""
    truth = np.arange(10)
    draws = iter(np.random.default_rng(0).dirichlet(np.ones(10), (7, 10)))
    monkeypatch.setattr(alexnet_ensemble, "predict", lambda _: (next(draws), truth))
    chosen = Options(epochs=1, out=tmp_path)
    result = run(alexnet_ensemble.EXPERIMENT, chosen)
    assert [run_.seed for _, run_ in untrained] == list(range(7))
    assert len(result.arms) == 7 + 21 + 1 and len(result.findings) == 1
    assert run(alexnet_ensemble.EXPERIMENT, chosen) == result
    assert len(untrained) == 7
    with pytest.raises(InputError, match="--seeds 3: always 7 nets"):
        run(alexnet_ensemble.EXPERIMENT, Options(seeds=3, epochs=1, out=tmp_path))


def test_a_net_is_tested_at_scales_near_its_own(monkeypatch):
    """VGG Table 4, VGG Table 5: three scales are averaged, dense and crops too."""

    def predict(trained, source, protocol, scale):
        return np.full((2, 3), scale + (0.5 if protocol == "multi-crop" else 0.0))

    monkeypatch.setattr(vgg_testing, "predict_scale", predict)
    monkeypatch.setattr(vgg_testing, "some_tests", lambda *_: None)
    for arm, near in {"D, S 72": (64, 72, 80), vgg_testing.E: (72, 100, 128)}.items():
        work = SimpleNamespace(run=vgg_testing.ARMS[arm])
        seen = vgg_testing.look(SimpleNamespace(work=work))
        expected = {}
        for way, more in {"dense": 0.0, "multi-crop": 0.5, "both": 0.25}.items():
            expected |= {f"{way}, Q {q}": q + more for q in {*near, 128}}
            expected[f"{way}, one scale"] = near[1] + more
            expected[f"{way}, three scales"] = np.mean(near) + more
        assert {name: found.mean() for name, found in seen.items()} == expected


def test_some_images_are_spread_over_the_test_set():
    """In whole batches, so that each program is compiled for one shape."""
    test = open_source(Data("digits", size=8), "test")
    run_ = SimpleNamespace(batch=32)
    trained = SimpleNamespace(work=SimpleNamespace(test_source=test, run=run_))
    some, every = _runs.some_tests(trained, 0.25), test.labels()
    assert some.count == 64 and some.labels()[[0, -1]].tolist() == [every[0], every[-1]]
    chosen = [
        int(picture.name[7:-1]) for picture in some.pictures(np.arange(64), (8,), fit)
    ]
    assert set(np.diff(chosen)) == {5, 6}


def test_two_nets_are_averaged_image_by_image(untrained, monkeypatch, tmp_path):
    """VGG Table 6: D and E of a seed, which are not trained again for their record."""
    sure = np.array([[0.9], [0.9], [0.9], [1.1]])
    d, e = np.eye(3)[[0, 1, 1, 0]], sure * np.eye(3)[[0, 2, 1, 2]]
    truth = SimpleNamespace(labels=lambda: np.array([0, 1, 2, 2]))

    names, nets = vgg_testing.EXPERIMENT.measures, [d, e]

    def look(_):
        return dict.fromkeys(names, nets.pop(0))

    monkeypatch.setattr(vgg_testing, "look", look)
    monkeypatch.setattr(vgg_testing, "errors", lambda _: {TEST: 1.0})
    monkeypatch.setattr(vgg_testing, "some_tests", lambda *_: truth)
    experiment = replace(vgg_testing.EXPERIMENT, measure=None, judge=lambda _: {})
    experiment = replace(experiment, draw=lambda *_: None)
    chosen = Options(seeds=1, epochs=1, arms=(vgg_testing.FUSED,), out=tmp_path)
    run(experiment, chosen)
    assert [name for name, _ in untrained] == ["D_S_72_128_-seed0", "E_S_72_128_-seed0"]
    (record,) = results.read(tmp_path / "vgg_testing.jsonl")
    # Each net is wrong about two images. Together they are wrong about the third.
    assert record.figures["dense, one scale"] == 25.0
    run(experiment, chosen)
    assert len(untrained) == 2


def test_a_net_that_diverges_ends_no_seed(untrained, monkeypatch, tmp_path):
    """VGG Table 6: E counts as chance, and so does its average with D."""
    train, looked = _session.train_in, []

    def diverge(folder, run_):
        if run_.net.column == "E":
            raise Diverged("loss is nan", 1)
        return train(folder, run_)

    def look(net):
        looked.append(net)
        return {}

    monkeypatch.setattr(_session, "train_in", diverge)
    monkeypatch.setattr(vgg_testing, "look", look)
    monkeypatch.setattr(vgg_testing, "errors", lambda _: {TEST: 60.0})
    monkeypatch.setattr(
        vgg_testing, "some_tests", lambda *_: SimpleNamespace(labels=lambda: None)
    )
    experiment = replace(vgg_testing.EXPERIMENT, judge=lambda _: {})
    experiment = replace(experiment, draw=lambda *_: None)
    arms = (vgg_testing.D, vgg_testing.E, vgg_testing.FUSED)
    run(experiment, Options(seeds=1, epochs=1, arms=arms, out=tmp_path))
    records = results.read(tmp_path / "vgg_testing.jsonl")
    assert [(r.arm, r.diverged) for r in records] == list(
        zip(arms, (False, True, True), strict=True)
    )
    assert len(looked) == 1 and records[0].figures[TEST] == 60.0
    assert records[2].figures["multi-crop, three scales"] == 90.0


def test_imagenet_averages_its_nets(untrained, monkeypatch, tmp_path):
    """AlexNet Table 1, AlexNet Table 2: one schedule's nets, and all together."""
    predicted = np.eye(10)[[0, 1, 1]], np.array([0, 1, 2])
    monkeypatch.setattr(alexnet_imagenet, "predict", lambda *_: predicted)
    experiment = alexnet_imagenet.experiment("2012")
    result = run(experiment, Options(seeds=2, epochs=1, out=tmp_path))
    assert {arm: len(seeds) for arm, seeds in result.arms.items()} == {
        "paper": 2,
        "paper, averaged": 1,
    }
    figures = result.findings["AlexNet Table 2"].figures
    assert figures["2 CNNs, top-1 val"].value == pytest.approx(100 / 3)
    assert {e.name for e in alexnet_imagenet.EXPERIMENTS} == {
        "alexnet_imagenet_2010",
        "alexnet_imagenet_2012",
    }


def test_figure_4_is_drawn_from_its_record(tmp_path):
    """AlexNet Figure 4: test images, their labels, their neighbours, one PNG."""
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3)).astype(np.uint8)
    names, labels = tuple("abcdefghij"), np.arange(20) % 10

    def fetch(numbers):
        return images[numbers], labels[numbers]

    source = SimpleNamespace(fetch=fetch, classes=names, count=20)
    work = SimpleNamespace(test_source=source, source=source)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(10), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alexnet_retrieval, "predict", lambda _: (probabilities, labels))
        close = np.arange(120).reshape(20, 6) % 20
        trained = SimpleNamespace(work=work)
        extra = alexnet_retrieval.figure4(trained, close)
    assert extra["labels"] == list("abcdefgh")
    assert [len(line) for line in extra["guesses"]] == [5] * 8
    assert extra["neighbours"][1] == [names[label] for label in labels[close[1]]]
    experiment: Experiment = alexnet_retrieval.EXPERIMENT
    record = made.record(experiment, alexnet_retrieval.ARM, extra=extra)
    experiment.draw(result_of(experiment, [record]), tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"
