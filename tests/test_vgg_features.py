"""VGG Appendix B: linear SVMs on features of trained weights."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import _session
import chex
import cv2
import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
import vgg_features
from _ablation import result_of
from nets import random_params
from vgg_features import AT, SCRATCH, STACKED, SVM, TUNED, UNTRAINED, FeatureOptions

from alexvgg_jax import results, weights
from alexvgg_jax.config import Data
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.models.vgg import VGG
from alexvgg_jax.optim import learning_rate
from alexvgg_jax.results import TEST
from alexvgg_jax.weights.provenance import Provenance

NET = VGG(column="A", head="gap", width=1 / 32, image_size=32)
COLOUR = np.array([120, 110, 100], np.float32)
SMALL = FeatureOptions(seeds=2, size=32)


@pytest.fixture
def photographs(tmp_path):
    """A folder of two classes, bright and dark, of another size."""
    rng, folder = np.random.default_rng(0), tmp_path / "photographs"
    for split, count in (("train", 8), ("test", 3)):
        for name, most in (("bright", 256), ("dark", 64)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, most, (40, 50, 3), np.uint8)
                cv2.imwrite(str(folder / split / name / f"{i}.png"), image)
    return str(folder)


@pytest.fixture
def trained(tmp_path):
    """A file of the weights of NET's convolutions."""
    return save(NET, tmp_path / "trained.safetensors")


def save(net, file):
    params = {k: v for k, v in random_params(net).items() if k.startswith("conv")}
    weights.save(params, file, net, Provenance(format="ours", mean=COLOUR))
    return str(file)


@pytest.fixture
def untrained(monkeypatch):
    """Runs that are not trained: the list of those asked for."""
    asked = []

    def train(_, run):
        asked.append(run)
        return SimpleNamespace(history=[])

    monkeypatch.setattr(_session, "train_in", train)
    monkeypatch.setattr(_session, "errors", lambda *_: {TEST: 50.0})
    return asked


def test_maps_are_averaged_over_positions_and_the_mirror_image(trained):
    """VGG Appendix B: of any size. A mirror image has the features of its image."""
    start = vgg_features.load(trained)
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    both = jnp.asarray(np.concatenate([image, image[:, :, ::-1]]))
    compute = jax.jit(partial(vgg_features.describe, start.net))
    described = compute(start.params, both, start.colour)

    @jax.jit
    def maps(images):
        seen = images.astype(jnp.float32) - COLOUR[None, None, None]
        return NET.apply(start.params, seen, train=False, until="pool5")[0]

    expected = np.mean(maps(both), axis=(0, 1, 2))
    assert expected.shape == (16,) and expected.std() > 1
    np.testing.assert_allclose(described, [expected] * 2, 1e-4, 1e-4)


def test_each_scale_alone_averaged_and_stacked(monkeypatch):
    """VGG Appendix B: classes that only the last scale tells. An image's vectors can
    have any length. The seed chooses the training images."""
    monkeypatch.setattr(vgg_features, "COSTS", (1.0,))
    rng = np.random.default_rng(0)
    learnt, tested = np.repeat([0, 1], 20), np.repeat([0, 1], 20)

    def noise(labels):
        return rng.normal(size=(len(labels), 4))

    def told(labels):
        return np.eye(4)[labels]

    scales = [(noise(learnt), noise(tested)) for _ in range(2)]
    scales.append((told(learnt), told(tested)))
    found = vgg_features.svm_errors(scales, learnt, tested, seed=0)
    assert list(found) == [TEST, STACKED, *AT.values()]
    assert found[AT[2.0]] == 0
    assert found[STACKED] < found[TEST] < min(found[AT[1.0]], found[AT[1.5]])
    lengths = rng.uniform(0.01, 100, (40, 1))
    scaled = [(train * lengths, test * lengths) for train, test in scales]
    assert found == vgg_features.svm_errors(scaled, learnt, tested, seed=0)
    assert found != vgg_features.svm_errors(scales, learnt, tested, seed=1)


def test_every_arm_is_recorded_once(
    untrained, photographs, trained, tmp_path, monkeypatch
):
    """VGG Appendix B: SVMs on trained and untrained weights, whose features are
    computed once for all seeds; nets that start from the same weights, and from none.
    """
    described, features = [], vgg_features.features
    opened, open_source = [], vgg_features.open_source

    def describe(start, data):
        described.append(start.params)
        return features(start, data)

    def open_at(data, split):
        opened.append((data.size, split))
        return open_source(data, split)

    monkeypatch.setattr(vgg_features, "features", describe)
    monkeypatch.setattr(vgg_features, "open_source", open_at)
    monkeypatch.setattr(_session, "draw", lambda *_: [])
    chosen = replace(SMALL, data=photographs, weights=trained, out=tmp_path / "out")
    vgg_features.main(chosen)
    theirs, drawn = described
    chex.assert_trees_all_equal(theirs, vgg_features.load(trained).params)
    chex.assert_trees_all_equal(drawn, NET.init(jax.random.key(0)))
    records = results.read(tmp_path / "out" / "vgg_features.jsonl")
    arms = [SVM, SVM, UNTRAINED, UNTRAINED, TUNED, SCRATCH, TUNED, SCRATCH]
    assert [record.arm for record in records] == arms
    assert [r.seed for r in records] == [40, 41, 40, 41, 40, 40, 41, 41]
    assert [run.init_from for run in untrained] == [trained, ""] * 2
    assert len({record.extra["weights"] for record in records}) == 1
    paths = [(r.settings["data"]["name"], r.settings["init_from"]) for r in records]
    assert not any(Path(part).is_absolute() for pair in paths for part in pair)
    sides = [(side, split) for side in (32, 48, 64) for split in ("train", "test")]
    assert opened == 2 * sides
    assert records[0].figures[TEST] == 0  # bright and dark are easily told
    for record in records[:4]:
        assert set(record.figures) == {TEST, STACKED, *AT.values()}
        assert record.seconds > 0
    own = vgg_features.experiment(replace(NET, image_size=32), SMALL.size)
    assert set(result_of(own, records).arms) == set(own.arms)
    vgg_features.main(chosen)
    assert len(results.read(tmp_path / "out" / "vgg_features.jsonl")) == 8
    other = save(replace(NET, column="B"), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="vgg_features.jsonl: has records of other w"):
        vgg_features.main(replace(chosen, weights=other))


def test_weights_of_the_same_classes_are_refused(photographs, trained, monkeypatch):
    """ImageNet's names, and those of its folders; a class in common is allowed."""
    start = vgg_features.load(trained)
    assert start.classes == weights.class_names(1000)
    vgg_features.check_classes(start, photographs)
    for names, learnt in (
        (("tench", "great_white_shark"), start.classes),
        (("n01440764", "Tench"), start.classes),
        (("dark", "bright"), ("bright", "dark", "red")),
    ):
        source = SimpleNamespace(classes=names)
        monkeypatch.setattr(vgg_features, "find_source", lambda *_, s=source: s)
        with pytest.raises(InputError, match="trained on all classes of --data photo"):
            vgg_features.check_classes(start._replace(classes=learnt), "photographs")
        source.classes += ("accordion player",)
        vgg_features.check_classes(start._replace(classes=learnt), "photographs")
        source.classes = ("n01440764",)
        vgg_features.check_classes(start._replace(classes=("bright",)), "photographs")


def test_wrong_options_are_one_line(photographs, trained, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--data cifar10: --weights must name"):
        vgg_features.main(replace(SMALL, data="cifar10"))
    alexnet = save(build("alexnet-small"), tmp_path / "alexnet.safetensors")
    with pytest.raises(InputError, match="--weights .*: of AlexNet, not of VGG"):
        vgg_features.main(replace(SMALL, weights=alexnet))
    same = Provenance(format="ours", mean=COLOUR, classes=("bright", "dark"))
    few = random_params(two := replace(NET, classes=2))
    weights.save(few, tmp_path / "same.safetensors", two, same)
    chosen = replace(SMALL, weights=str(tmp_path / "same.safetensors"))
    with pytest.raises(InputError, match="same.safetensors: trained on all classes of"):
        vgg_features.main(replace(chosen, data=photographs))
    monkeypatch.setattr(vgg_features, "FEWEST", 9)
    chosen = replace(SMALL, data=photographs, weights=trained, out=tmp_path / "out")
    with pytest.raises(InputError, match="photographs: a class has fewer than 9 im"):
        vgg_features.main(chosen)


def test_all_layers_are_tuned_at_a_hundredth_of_the_rate():
    """The recipe's tenth is too much for the trained convolutions."""
    optim = vgg_features.EXPERIMENT.arms[TUNED].optim
    rates = [learning_rate(optim, epoch, []) for epoch in (4, 5, 9)]
    assert rates == pytest.approx([1e-3, 1e-5, 1e-5])
    assert optim.frozen_epochs == 5


def test_digits_are_halved_by_class(tmp_path, monkeypatch):
    """A net learns the digits 0 to 4, and the arms learn 5 to 9."""
    asked = []
    monkeypatch.setattr(vgg_features, "train_in", lambda *run: asked.append(run))
    monkeypatch.setattr(vgg_features, "share_compiled", lambda _: None)
    chosen = vgg_features.rehearse(FeatureOptions(out=tmp_path, devices=2))
    ((folder, run),) = asked
    assert chosen.weights == str(folder) and run.mesh.devices == 2
    for split in ("train", "test"):
        digits = vgg_features.find_source(Data(), split)
        for name, least in ((run.data.name, 0), (chosen.data, 5)):
            half = vgg_features.find_source(Data(name), split)
            assert half.classes == tuple(map(str, range(least, least + 5)))
            kept = (digits.labels() >= least) & (digits.labels() < least + 5)
            assert half.count == kept.sum()
            same = np.flatnonzero(digits.labels() == least)
            images, _ = half.fetch(np.flatnonzero(half.labels() == 0))
            assert sorted(map(bytes, images)) == sorted(
                map(bytes, digits.fetch(same)[0])
            )


@pytest.mark.parametrize(
    ("gain", "scales", "verdict"),
    [
        (20.0, 2.0, "agrees: {}; undecided at scale 1; also with three scales"),
        (
            20.0,
            -2.0,
            "agrees: {}; undecided at scale 1; contradicts here with three scales",
        ),
        (
            0.0,
            2.0,
            "undecided: {}; contradicts here at scale 1; agrees with three scales",
        ),
    ],
)
def test_features_are_compared_with_training_from_scratch(gain, scales, verdict):
    """VGG Appendix B: the other arms do not decide."""

    def errors(arm, seed):
        noise = 0.1 * (seed % 2)
        if arm == SVM:
            alone = {AT[1.0]: 60 + 4 * noise, AT[1.5]: 40 + 2 * noise + scales}
            return {TEST: 40 + noise} | alone
        return {TEST: 40 + gain + 2 * noise if arm == SCRATCH else 50.0}

    expected = verdict.format("net D, 64 pixels")
    assert str(judged(vgg_features.EXPERIMENT, errors).verdict) == expected


def judged(experiment, errors):
    """The finding where a function of arm and seed gives a record's errors."""
    made_of = records(experiment, errors)
    (finding,) = result_of(experiment, made_of).findings.values()
    return finding


def records(experiment, errors):
    svms = dict.fromkeys((STACKED, *AT.values()), 40.0)
    return [
        made.record(experiment, arm, seed, **svms | errors(arm, seed))
        for arm in experiment.arms
        for seed in range(3)
    ]


def test_the_page_shows_the_newest_complete_net_and_size():
    def of(column, size, error):
        own = vgg_features.experiment(VGG(column=column, head="gap"), size)
        return records(own, lambda arm, seed: {TEST: error + seed})

    def shown(every):
        (finding,) = result_of(vgg_features.EXPERIMENT, every).findings.values()
        return str(finding.verdict), finding.figures[f"{TEST}, {SVM}"].value

    small, large = of("D", 64, 40.0), of("E", 96, 30.0)
    assert shown(small + large) == (shown(large)[0], 31.0)
    assert shown(large + small)[1] == 41.0
    assert "net E, 96 pixels" in shown(large)[0]
    begun = [record for record in large if record.arm == SVM]
    assert shown(small + begun)[1] == 41.0
    net = begun[0].settings["net"] | {"option of another version": 1}
    other = replace(begun[0], settings=begun[0].settings | {"net": net})
    assert shown([*small, other])[1] == 41.0


def test_other_nets_than_d_and_e_test_nothing():
    """VGG Appendix B: "D and E". The default is such a rehearsal."""
    for width in (1 / 32, 1.0):
        other = vgg_features.experiment(replace(NET, width=width), 32)
        found = judged(other, lambda arm, seed: {TEST: seed + 20.0 * (arm == SCRATCH)})
        verdict = f"not tested: weights of net A, width {width:g}"
        assert str(found.verdict) == verdict
    assert str(found.figures["from scratch minus SVM"]) == "20.00 ± 0.00 points"
