"""What decides each claim, from made-up records of its experiment."""

import itertools
from dataclasses import replace

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
import cifar_ladder
import cifar_lrn
import made
import numpy as np
import pytest
import vgg_depth
import vgg_init
import vgg_small_filters
import vgg_testing
from _ablation import result_of
from _runs import TEN, recipe

from alexvgg_jax import paper
from alexvgg_jax.paper import Figure
from alexvgg_jax.results import GAP, TEST, TRAINING, Verdict, estimate

TESTED = dict.fromkeys(vgg_testing.EXPERIMENT.measures, 40.0)
WORDS = [(5.0, "agrees"), (0.0, "undecided"), (-5.0, "contradicts here")]
# experiment, claim, the arm that the claim says is worse, the paper's, by which figure
DECIDED = [
    (alexnet_lrn, "AlexNet §3.3", alexnet_lrn.WITHOUT, alexnet_lrn.PAPER, TEST),
    (alexnet_pool, "AlexNet §3.4", "2/2", "3/2 (paper)", TEST),
    (alexnet_towers, "AlexNet §3.2", alexnet_towers.HALF, alexnet_towers.JOINED, TEST),
    (alexnet_augment, "AlexNet §4.1 crops", "centre crops", "crops, mirrored", GAP),
    (
        alexnet_augment,
        "AlexNet §4.1 colour",
        "crops, mirrored",
        "+ colour (paper)",
        TEST,
    ),
    (alexnet_decay, "AlexNet §5 decay", "no decay", "0.0005 (paper)", TRAINING),
    (vgg_depth, "VGG Table 3", "A", "D", TEST),
    (vgg_small_filters, "VGG §4.1 5x5", "B 5x5", "B", TEST),
]


def judged(experiment, figures, seeds=3, **more):
    """The findings where a function of arm and seed gives a record's figures."""
    records = [
        made.record(experiment, arm, seed, **figures(arm, seed), **more)
        for arm in experiment.arms
        for seed in range(seeds)
    ]
    return result_of(experiment, [*records, *made.tries(experiment)]).findings


def noise(seed):
    return 0.1 * (seed % 2)


@pytest.mark.parametrize(("module", "tag", "worse", "papers", "figure"), DECIDED)
@pytest.mark.parametrize(("points", "word"), WORDS)
def test_what_decides_a_claim(module, tag, worse, papers, figure, points, word):
    """Its own figure of its own two arms, and nothing else."""

    def figures(arm, seed):
        if arm not in (worse, papers):
            return {"error": 90.0 + 0.1 * seed}
        shift = points if arm == worse else 0.0
        return {"error": 70.0 if arm == papers else 40.0} | {
            figure: 40.0 + 0.1 * seed + shift
        }

    finding = judged(module.EXPERIMENT, figures)[tag]
    assert finding.verdict.word == word
    for name in ("top-1 error", "top-1 error, or lower"):
        if name in finding.figures:
            assert finding.figures[name].value == pytest.approx(-points)


@pytest.mark.parametrize("points", [5.0, 0.0])
def test_normalisation_is_compared_with_its_constant(points):
    """AlexNet §3.3: k^-beta scales what alpha = 0 lets pass."""

    def figures(arm, seed):
        more = {alexnet_lrn.WITHOUT: 5.0, alexnet_lrn.CONSTANT: points}.get(arm, 0.0)
        return {"error": 30.0 + 0.1 * seed + more}

    verdict = judged(alexnet_lrn.EXPERIMENT, figures)["AlexNet §3.3"].verdict
    note = "" if points else "not better than its constant alone"
    assert verdict == Verdict("agrees", note)


@pytest.mark.parametrize(
    ("ten", "word"), [(35.0, "agrees"), (45.0, "contradicts here")]
)
def test_ten_views_are_compared_with_the_centre(ten, word):
    """AlexNet §6 ten crops: with the paper's nets."""

    def figures(arm, seed):
        paper_ = arm == alexnet_augment.PAPER
        return {TEN: (ten if paper_ else 80 - ten) + 0.1 * seed}

    findings = judged(alexnet_augment.EXPERIMENT, figures)
    assert findings["AlexNet §6 ten crops"].verdict.word == word


@pytest.mark.parametrize(
    ("gap", "epochs", "word"),
    [
        (5.0, 3, "agrees"),
        (-5.0, 3, "contradicts here"),
        (5.0, 1, "undecided"),
        (0.0, 3, "undecided"),
        (5.0, 4, "undecided: 3 of 6 nets have not converged"),
    ],
)
def test_dropout_is_decided_by_the_gap_and_the_time(gap, epochs, word):
    """AlexNet §4.2: both of them."""

    def figures(arm, seed):
        slow = [50.0 if e < epochs else 20.0 for e in (1, 2, 3, 4)]
        curve = slow if arm == alexnet_dropout.FREE else [20.0] * 4
        wide = gap if arm == alexnet_dropout.WITHOUT else 0.0
        return {"curve": curve, GAP: 1 + wide + 0.1 * seed}

    (finding,) = judged(alexnet_dropout.EXPERIMENT, figures).values()
    assert str(finding.verdict) == word


def test_iterations_to_converge():
    """AlexNet §4.2: to a point above the lowest error."""
    assert alexnet_dropout.epochs_to_converge([60.0, 31.1, 31.0, 30.0]) == 3
    assert alexnet_dropout.epochs_to_converge([30.0, 40.0]) == 1
    noise = np.random.default_rng(0).uniform(0.1, 0.5, 54)
    noise[-1] = 0.0  # the lowest of all comes last
    assert alexnet_dropout.has_converged(list(20 + noise))
    assert not alexnet_dropout.has_converged([60.0 - i for i in range(54)])


@pytest.mark.parametrize(("points", "word"), WORDS)
def test_biases_are_decided_in_the_first_two_epochs(points, word):
    """AlexNet §5 biases: the mean training error over them."""

    def figures(arm, seed):
        shift = points if arm == alexnet_init.ZERO else 0.0
        return {"curve": [90.0, 50.0 + 0.1 * seed + shift, 30.0 - 9 * shift]}

    (finding,) = judged(alexnet_init.EXPERIMENT, figures).values()
    assert finding.verdict.word == word


@pytest.mark.parametrize(
    ("worst", "verdict"),
    [
        (5.0, "agrees: without conv2, conv3, conv4, conv5"),
        (0.0, "undecided: without conv4"),
        (-5.0, "contradicts here: without conv4"),
    ],
)
def test_depth_is_decided_by_each_middle_layer(worst, verdict):
    """AlexNet §7: the weakest of them decides."""

    def figures(arm, seed):
        lost = {"complete": 0.0, "without conv4": worst}
        return {"error": 30.0 + 0.1 * seed + lost.get(arm, 5.0)}

    (finding,) = judged(alexnet_depth.EXPERIMENT, figures).values()
    assert str(finding.verdict) == verdict
    (published,) = paper.claim("AlexNet §7").published
    assert finding.figures[published].value == pytest.approx(worst)
    lost = [finding.figures[alexnet_depth.without(f"conv{i}")].value for i in (2, 4)]
    assert lost == pytest.approx([5.0, worst])


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        ([0.1, -0.1, 0.0], "agrees"),
        ([0.9, -0.9, 0.0], "undecided"),
        ([0.8, 0.9, 1.0], "contradicts here"),
        ([-0.5, -0.6, -0.7], "agrees"),
        ([0.1], "undecided"),
    ],
)
def test_normalisation_that_gains_little_does_not_help(gain, word):
    """VGG §4.1 LRN: less than half of what AlexNet publishes, 0.7 points."""
    experiment = vgg_depth.EXPERIMENT
    records = [
        made.record(experiment, arm, seed, error=30.0 + seed - less)
        for seed, points in enumerate(gain)
        for arm, less in (("A", 0.0), ("A-LRN", points))
    ]
    (finding,) = result_of(experiment, records).findings.values()
    assert finding.verdict.word == word
    lost = finding.figures["top-1 error, A-LRN minus A"].value
    assert lost == pytest.approx(-np.mean(gain))


def test_the_depth_with_the_lowest_error_is_named():
    """VGG Table 3: A has more seeds than D. Only the seeds of both nets count."""
    experiment = vgg_depth.EXPERIMENT
    errors = {"A": 33.0, "B": 32.0, "C": 31.0, "D": 30.0, "E": 30.5}
    records = [
        made.record(experiment, arm, seed, error=error + seed if seed < 3 else 1.0)
        for arm, error in errors.items()
        for seed in range(8 if arm == "A" else 3)
    ]
    (finding,) = result_of(experiment, records).findings.values()
    assert finding.verdict == Verdict("agrees", "lowest: D")
    assert finding.figures["top-1 error, D minus A"].value == pytest.approx(-3.0)
    assert finding.figures["top-1 error, E minus D"].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ({"B": 32.0, "C": 31.0, "D": 30.0}, "agrees"),
        ({"B": 32.0, "C": 32.0, "D": 30.0}, "undecided"),
        ({"B": 32.0, "C": 31.0, "D": 31.5}, "contradicts here"),
        ({"B": 32.0, "C": 31.0, "D": 30.6}, "sign only"),
    ],
)
def test_the_weaker_step_decides(errors, word):
    """VGG §4.1 1x1: from B to C, and from C to D."""
    shaky = {"B": [0.0, 0.1, 0.2], "C": [0.1, 0.0, 0.2], "D": [0.0, 0.1, 0.2]}

    def figures(arm, seed):
        return {"error": errors.get(arm, 90.0) + shaky.get(arm, [0.0] * 3)[seed] / 2}

    findings = judged(vgg_small_filters.EXPERIMENT, figures)
    assert findings["VGG §4.1 1x1"].verdict.word == word


@pytest.mark.parametrize(
    ("tag", "arms", "figure"),
    [
        ("VGG §4.1 jitter", [vgg_testing.D], "multi-crop, one scale"),
        ("VGG Table 4", [vgg_testing.D, vgg_testing.E], "multi-crop, three scales"),
        ("VGG Table 6", [vgg_testing.FUSED], "multi-crop, three scales"),
    ],
)
@pytest.mark.parametrize(("points", "word"), WORDS)
def test_what_decides_how_a_net_is_tested(tag, arms, figure, points, word):
    """VGG §4.1 jitter, VGG Table 4, VGG Table 6: against both fixed scales, one test
    scale, and each of two nets."""

    def figures(arm, seed):
        lower = {figure: 40.0 - points + noise(seed)} if arm in arms else {}
        return TESTED | lower

    finding = judged(vgg_testing.EXPERIMENT, figures)[tag]
    assert finding.verdict.word == word
    assert next(iter(finding.figures.values())).value == pytest.approx(-points, abs=0.1)


@pytest.mark.parametrize(
    ("tag", "arm", "figure"),
    [
        ("VGG §4.1 jitter", vgg_testing.SMALL, "multi-crop, one scale"),
        ("VGG §4.1 jitter", vgg_testing.LARGE, "multi-crop, one scale"),
        ("VGG Table 6", vgg_testing.D, "multi-crop, three scales"),
        ("VGG Table 6", vgg_testing.E, "multi-crop, three scales"),
    ],
)
def test_the_best_of_the_other_nets_decides(tag, arm, figure):
    """VGG §4.1 jitter, VGG Table 6: one net is as good as the claim's."""

    def figures(other, seed):
        better = other in (arm, vgg_testing.D if "jitter" in tag else vgg_testing.FUSED)
        return TESTED | {figure: (40.0 if better else 60.0) + noise(seed)}

    assert judged(vgg_testing.EXPERIMENT, figures)[tag].verdict.word == "undecided"


def test_nets_of_one_seed_count_once():
    """VGG Table 4: D and E share their images and the order of them."""
    gains = [1.5, 0.5, 0.4]

    def figures(arm, seed):
        return TESTED | {"multi-crop, three scales": 40.0 - gains[seed]}

    finding = judged(vgg_testing.EXPERIMENT, figures)["VGG Table 4"]
    assert finding.verdict.word == "undecided"
    effect = finding.figures["top-1 error of D and E, three scales minus one"]
    assert effect[0] == pytest.approx(-0.8)
    assert effect.margin == pytest.approx(estimate(gains).margin)


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ((41.0, 40.5, 40.0), "agrees"),
        ((41.0, 40.0, 40.0), "undecided"),
        ((40.0, 40.5, 39.5), "contradicts here"),
        ((41.0, 40.95, 40.0), "sign only"),
        ((80.0, 40.0, 50.0), "not tested"),
    ],
)
def test_crops_beat_dense_and_both_beat_either(errors, word):
    """VGG Table 5: of the nets with jitter, over three scales."""
    names = [f"{way}, three scales" for way in vgg_testing.WAYS]
    figures = TESTED | dict(zip(names, errors, strict=True))
    finding = judged(vgg_testing.EXPERIMENT, lambda *_: figures)["VGG Table 5"]
    assert finding.verdict.word == word
    assert finding.figures["E, both, top-1"].value == errors[2]


@pytest.mark.parametrize(
    ("stuck", "verdict"),
    [
        ((), "agrees"),
        (("A, variance", "D, deviation", "E, he"), "agrees"),
        (("E, glorot 1",), "undecided: depends on the seed"),
        (("E, glorot", "B, from A"), "contradicts here: E, glorot, B, from A"),
        (
            ("A, deviation", "A, variance 2"),
            "undecided: A needs more steps from the paper's weights",
        ),
    ],
)
def test_which_weights_train_which_net(stuck, verdict):
    """VGG §3.1: a loss near ln(10) is guessing; He's weights do not decide."""

    def figures(arm, seed):
        guesses = arm in stuck or f"{arm} {seed}" in stuck
        return {vgg_init.LOSS: 2.29 if guesses else 2.2}

    (finding,) = judged(vgg_init.EXPERIMENT, figures).values()
    assert str(finding.verdict) == verdict
    assert finding.figures["training loss, A, he"].unit == "nats"


def test_a_net_that_diverged_does_not_train():
    """VGG §3.1: its figures are those of guessing."""
    record = made.record(vgg_init.EXPERIMENT, "A, variance", diverged=True, error=0.0)
    assert not vgg_init.trains(record)


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
    for shares, word in (
        ([99.0, 96.0], "agrees"),
        ([99.0, 50.0], "undecided"),
        ([10.0, 50.0], "contradicts here"),
        ([99.0], "undecided"),
        ([], "undecided"),
    ):
        assert alexnet_towers.specialise(shares).word == word


def test_what_an_ensemble_gains():
    """AlexNet §6 five nets: of nets that each take a share away, the error is as sure
    as the mean of the shares: an independent estimate."""
    shares = [1.0, 2.0, 4.0, 7.0, 1.0, 3.0, 3.0]
    experiment = alexnet_ensemble.EXPERIMENT
    arms = {}
    for nets in alexnet_ensemble.CHOICES:
        alone = np.mean([30.0 + net for net in nets])
        less = np.mean([shares[net] for net in nets]) if len(nets) == 5 else 0.0
        arm = alexnet_ensemble.arm_of(nets)
        arms[arm] = [made.record(experiment, arm, error=float(alone - less))]
    gain = alexnet_ensemble.gain(arms, 5, TEST)
    assert gain == pytest.approx(estimate(shares, "points"))
    (finding,) = experiment.judge(arms).values()
    assert finding.verdict.word == "agrees"
    assert finding.figures["top-1 error, five nets"].value == -gain.value
    assert len(alexnet_ensemble.sized(arms, 5)) == 21


def test_neighbours_are_compared_with_pixels():
    """AlexNet Figure 4: the share of the same class."""
    same, pixels = alexnet_retrieval.SAME, alexnet_retrieval.SAME_PIXELS

    def figures(_, seed):
        return {same: 60.0 + 0.1 * seed, pixels: 30.0}

    (finding,) = judged(alexnet_retrieval.EXPERIMENT, figures).values()
    assert finding.verdict == Verdict("agrees", "labels not judged")


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


def relu_records(relu, tanh):
    experiment = alexnet_relu.EXPERIMENT
    arms = {"relu, rate 0.003": relu, "tanh, rate 0.01": tanh}
    return [
        made.record(experiment, arm, seed, curve=curve)
        for arm, curves in arms.items()
        for seed, curve in enumerate(curves)
    ]


def test_relu_against_tanh():
    """AlexNet §3.1: the ratio of the epochs to 25%, by interpolation."""
    experiment = alexnet_relu.EXPERIMENT
    record = made.record(experiment, "relu, rate 0.003", curve=[50.0, 30.0, 20.0, 30.0])
    assert alexnet_relu.epochs_to_target(record) == pytest.approx(2.0)
    relu = [[50.0, 30.0, 20.0]] * 4
    tanh = [[*[60.0] * n, 30.0, 20.0] for n in (10, 12, 11, 11)]
    slower = made.record(experiment, "relu, rate 0.001", curve=[60.0] * 5)
    records = [slower, *relu_records(relu, tanh)]
    (finding,) = result_of(experiment, records).findings.values()
    assert finding.arms == ("relu, rate 0.003", "tanh, rate 0.01")
    assert finding.verdict == Verdict("agrees")
    assert finding.figures[alexnet_relu.FIGURE] == pytest.approx(
        estimate([5.5, 6.5, 6.0, 6.0], "times")
    )


def test_a_net_that_never_reaches_the_target():
    """AlexNet §3.1: tanh counts with all its epochs; without ReLU there is no ratio."""
    fast, never = [50.0, 30.0, 20.0], [60.0] * 60
    (finding,) = result_of(
        alexnet_relu.EXPERIMENT, relu_records([fast, fast], [never, never])
    ).findings.values()
    assert "lower bound" in finding.verdict.note
    assert finding.figures[alexnet_relu.FIGURE].value == 59.5 / 2
    (finding,) = result_of(
        alexnet_relu.EXPERIMENT, relu_records([never], [fast])
    ).findings.values()
    assert finding.verdict.word == "undecided" and not finding.figures


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([26.3, 26.4, 26.35], "agrees"),
        ([26.3, 26.9, 26.7], "undecided"),
        ([26.6, 26.7, 26.65], "contradicts here"),
        ([26.5], "agrees: one seed"),
    ],
)
def test_what_agrees_on_the_ladder(errors, verdict):
    """cuda-convnet 80sec: 26%, and up to half a point more."""
    records = [
        made.record(cifar_ladder.EXPERIMENT, "cifar-80sec", seed, error=error)
        for seed, error in enumerate(errors)
    ]
    (finding,) = result_of(cifar_ladder.EXPERIMENT, records).findings.values()
    assert str(finding.verdict) == verdict


def test_the_ladder():
    """cuda-convnet 13pct: one run, in ten views. cuda-convnet
    11pct: a schedule that was cut tests nothing. cuda-convnet 19pct, cuda-convnet
    18pct, cuda-convnet 19pct translations: each net stands alone."""
    experiment = cifar_ladder.EXPERIMENT
    records = [
        made.record(
            experiment, arm, epochs=135 if "11" in arm else 0, error=20.0, **{TEN: 10.0}
        )
        for arm in experiment.arms
    ]
    findings = result_of(experiment, records).findings
    assert set(findings) == set(cifar_ladder.LADDER) == set(experiment.cifar10)
    assert set(findings) == {
        tag for tag, claim in paper.CLAIMS.items() if "cifar_ladder" in claim.experiment
    }
    for tag, net in cifar_ladder.LADDER.items():
        compared = 10 if recipe(net).augment.crop else 20
        assert findings[tag].figures["test error"] == Figure(compared, "%")
        assert paper.claim(tag).experiment.endswith(f"--arms {net}")
    eleven = findings["cuda-convnet 11pct"].verdict
    assert str(eleven) == "not tested: 135 of 450 epochs"
    alone = result_of(experiment, records[:1]).findings
    assert list(alone) == ["cuda-convnet 80sec"]


@pytest.mark.parametrize(
    ("error", "word"),
    [(11.0, "agrees"), (12.9, "undecided"), (15.0, "contradicts here")],
)
def test_the_13_percent_net_with_normalisation(error, word):
    """AlexNet §3.3 CIFAR-10: ten views of one seed decide."""

    def figures(arm, _):
        return {"error": 50.0, TEN: 13.0 if arm == cifar_lrn.WITHOUT else error}

    (finding,) = judged(cifar_lrn.EXPERIMENT, figures, seeds=1).values()
    assert finding.verdict == Verdict(word, "one seed")
    assert finding.figures["without minus with"].value == 13.0 - error


@pytest.mark.parametrize(
    ("data", "batch", "width", "top1", "verdict"),
    [
        ({}, 128, 1.0, 41.0, "agrees: one seed"),
        ({}, 128, 1.0, 41.5, "undecided: one seed"),  # s.e. 0.22
        ({}, 128, 1.0, 42.2, "contradicts here: one seed"),
        ({"classes": 10}, 128, 1.0, 41.0, "not tested"),
        ({"train": 50_000}, 128, 1.0, 41.0, "not tested"),
        ({}, 128, 0.5, 41.0, "not tested"),
        ({}, 8, 1.0, 41.0, "not tested"),
    ],
)
def test_what_can_test_imagenet(data, batch, width, top1, verdict):
    """AlexNet Table 2: the complete set and net, the paper's batches."""
    experiment = alexnet_imagenet.experiment("2012", batch, width)
    imagenet = {"set": "TFDS imagenet", "classes": 1000, "train": 1_281_167}
    imagenet = made.CIFAR10 | imagenet | {"test": 50_000} | data
    records = [made.record(experiment, "paper", data=imagenet, error=top1)]
    (finding,) = result_of(experiment, records).findings.values()
    assert str(finding.verdict).startswith(verdict)
    assert finding.figures["1 CNN, top-1 val"].value == top1


def test_the_figures_of_more_nets():
    """AlexNet Table 2: the averaged nets are numbered by the last one's seed."""
    experiment = alexnet_imagenet.experiment("2012")
    nets = [made.record(experiment, "paper", seed, error=41.0) for seed in range(5)]
    together = made.record(experiment, "paper, averaged", 4, error=38.0)
    (finding,) = result_of(experiment, [*nets, together]).findings.values()
    assert finding.figures["5 CNNs, top-1 val"] == Figure(38.0, "%")
    assert "5 CNNs, top-1 val" in paper.claim("AlexNet Table 2").published


def test_a_net_that_diverged_is_named():
    """AlexNet §3.4: and it counts as chance."""
    experiment = alexnet_pool.EXPERIMENT
    records = [
        made.record(experiment, arm, seed, error=error, diverged=error == 90.0)
        for arm, seed in itertools.product(experiment.arms, range(2))
        for error in [90.0 if arm == alexnet_pool.PAPER else 30.0 + 0.1 * seed]
    ]
    (finding,) = result_of(experiment, records).findings.values()
    assert str(finding.verdict) == "contradicts here: diverged: 3/2 (paper)"


@pytest.mark.parametrize(
    ("steps", "verdict", "power"),
    [
        ([2, 2, 2], "agrees", 1.0),
        ([1, 2, 0], "undecided", 0.5),
        ([0, 0, 0], "contradicts here", 0.0),
        ([2, 1, 1], "undecided", 2 / 3),
        ([3, 2, 2], "undecided: a best rate is at the end of those tried", 7 / 6),
    ],
)
def test_the_rate_of_large_batches(steps, verdict, power):
    """One weird trick batch: how far the best rate moves from 128 to 1024, in roots of
    8, from the second of five rates."""
    rates = alexnet_batch.RATES
    assert rates[1] == 0.01 and rates[3] == pytest.approx(0.08)

    def figures(arm, seed):
        moved = steps[seed] if arm.startswith("1024") else 0
        return {"error": 20.0 if arm.endswith(f"{rates[1 + moved]:.2g}") else 30.0}

    (finding,) = judged(alexnet_batch.EXPERIMENT, figures).values()
    assert str(finding.verdict) == verdict
    assert finding.figures[alexnet_batch.FIGURE].value == pytest.approx(power)


def test_an_epoch_decays_weights_equally_in_every_batch():
    """One weird trick batch: rate times decay grows with the batch; 5,000 updates."""
    runs = alexnet_batch.EXPERIMENT.arms.values()
    decays = [r.optim.rate * r.optim.weight_decay / r.batch for r in runs]
    np.testing.assert_allclose(decays, 0.01 * 0.0005 / 128)
    assert min(50_000 * r.epochs / r.batch for r in runs) > 5000 and len(runs) == 15


@pytest.mark.parametrize(
    ("module", "data", "epochs", "why"),
    [
        (alexnet_pool, {}, 44, "44 of 45 epochs"),
        (alexnet_pool, {}, 45, ""),
        (alexnet_pool, {"set": "scikit-learn's digits"}, 59, "59 of 60 epochs"),
        (cifar_lrn, {"set": "folder x"}, 140, "the published figure is CIFAR-10's"),
        (cifar_ladder, {}, 9, "9 of"),
        (alexnet_augment, {"grey": True}, 90, "the images are greyscale"),
    ],
)
def test_what_tests_no_claim(module, data, epochs, why):
    """AlexNet §4.1 colour, AlexNet §3.4: too few epochs, other data, grey images."""
    experiment = module.EXPERIMENT
    records = [
        made.record(experiment, arm, seed, epochs, data=made.CIFAR10 | data)
        for arm in experiment.arms
        for seed in range(2)
    ]
    records += made.tries(experiment, epochs, made.CIFAR10 | data)
    findings = result_of(experiment, records).findings
    for tag, finding in findings.items():
        if data == {"grey": True} and tag != "AlexNet §4.1 colour":
            continue
        assert (finding.verdict.word == "not tested") == bool(why)
        assert finding.verdict.note.startswith(why)


def test_settings_are_scaled_with_their_schedule():
    """AlexNet §4.2: arms keep the ratio of their epochs."""
    experiment = alexnet_dropout.EXPERIMENT
    assert experiment.run(alexnet_dropout.FREE, 9).epochs == 15
    short = experiment.run(alexnet_dropout.PAPER, 9)
    assert short.optim.drop_epochs == (6.0, 8.0)
    assert short.augment.colour_epochs == 8.0
    paper_ = replace(recipe("alexnet-paper"))
    only = replace(experiment, arms={"paper": paper_})
    patience = [only.run("paper", epochs).optim.plateau for epochs in (9, 90, 180)]
    assert patience == [1, 5, 10]
