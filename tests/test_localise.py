"""VGG Appendix A: pictures with known boxes, and what a net says of their places."""

from dataclasses import replace

import _pasted
import chex
import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
import vgg_localise
from _ablation import result_of
from _pasted import SIDE
from _session import Options, run
from nets import stack
from vgg_localise import ALL, ARMS, CENTRE, CROP, MERGED, PCR, SCR

from alexvgg_jax.augment import VIEWS
from alexvgg_jax.config import Data, Mesh, Optim
from alexvgg_jax.data.sources import open_source
from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import Dense, Pool
from alexvgg_jax.models.vgg import VGG


def inside(box):
    """Rows and columns of a box in its picture."""
    left, top = np.round(box[:2] - box[2:] / 2).astype(int)
    right, bottom = np.round(box[:2] + box[2:] / 2).astype(int)
    return np.s_[max(top, 0) : bottom, max(left, 0) : right]


def test_boxes_hold_the_digits(monkeypatch):
    """On black, the box has all strokes, and each of its sides touches one."""
    again = _pasted.pictures(6, test=True)
    for one, other in zip(_pasted.pictures(6, test=True), again, strict=True):
        np.testing.assert_array_equal(one, other)
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    monkeypatch.setattr(_pasted, "background", lambda *_: black.copy())
    shown = _pasted.pictures(30, test=False)
    for image, box in zip(shown.images, shown.boxes, strict=True):
        assert (box[:2] >= box[2:] / 2).all() and (box[:2] + box[2:] / 2 <= SIDE).all()
        digit = image[inside(box)].max(axis=2)
        sides = digit[0], digit[-1], digit[:, 0], digit[:, -1]
        assert min(side.max() for side in sides) >= 64  # half of the darkest colour
        assert image.sum() == image[inside(box)].sum() > 0


def test_the_test_pictures_have_their_own_photographs_and_digits(monkeypatch):
    """Training pictures have the left halves of the photographs."""
    halves = np.zeros((300, 600, 3), np.uint8)
    halves[:, 300:] = 255
    monkeypatch.setattr(_pasted, "photograph", lambda _: halves)
    for grey, test in ((0, False), (127, True)):
        shown = _pasted.pictures(20, test=test)
        for image, box in zip(shown.images, shown.boxes, strict=True):
            image[inside(box)] = grey
            assert (image == grey).all()
    monkeypatch.setattr(_pasted, "paste", lambda *_: np.zeros(4))
    for test in (False, True):
        source = open_source(Data("digits"), "test" if test else "train")
        every = _pasted.pictures(source.count, test=test).labels
        np.testing.assert_array_equal(np.sort(every), np.sort(source.labels()))


def test_no_two_draws_of_the_pictures_are_the_same(monkeypatch):
    """numpy's seeds 1 and [1, 0] are the same."""
    drawn = []

    def background(rng, _):
        drawn.append(rng.permutation(360))
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    monkeypatch.setattr(_pasted, "background", background)
    labels = open_source(Data("digits"), "test").labels()
    shown = _pasted.pictures(360, test=True)
    assert len(np.unique(drawn, axis=0)) == 360
    assert not any((labels[order] == shown.labels).all() for order in drawn)


def test_the_digest_depends_on_how_pictures_are_pasted(monkeypatch):
    digest = _pasted.digest.__wrapped__  # without its cache
    before = digest(2, 1)
    assert digest(2, 1) == before
    assert len({before, digest(1, 1), digest(2, 2)}) == 3
    monkeypatch.setattr(_pasted, "DIGIT", (40, 79))
    assert digest(2, 1) != before


def test_a_box_is_right_from_half_on():
    """VGG Appendix A: an IoU of 0.5. Boxes 2 high, moved along one side of 3."""
    true = np.tile(np.array([10.0, 10.0, 3.0, 2.0]), (3, 1))
    moved = true + np.array([[0.99], [1.0], [1.01]]) * [1, 0, 0, 0]
    shown = _pasted.Pictures(np.zeros((3, 1, 1, 3), np.uint8), true, np.zeros(3, int))
    assert vgg_localise.error(moved, shown) == pytest.approx(100 / 3)


def test_windows_that_agree_outvote_one(monkeypatch):
    """VGG Appendix A: merged boxes are rated by the sum of their scores."""
    true = np.array([[48.0, 48.0, 20.0, 20.0]])
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    shown = _pasted.Pictures(pixels, true, np.array([3]))
    corners = np.array(VIEWS[9][0])[:, ::-1] * (SIDE - CROP) / 4
    boxes = np.tile(true, (9, 1))
    boxes[:, :2] -= corners + CROP / 2  # as each window sees the object
    boxes[4, 0] += 30.0  # the centre crop errs

    def look(net, params, shown, stats, views):
        seen = boxes[[4]] if views == 1 else boxes
        return np.tile(np.float32(seen / CROP)[:, None], 10)

    monkeypatch.setattr(vgg_localise, "fit", lambda run, params, *_: params)
    monkeypatch.setattr(vgg_localise, "look", look)
    scores = np.full((9, 1), 0.2)
    scores[4] = 0.9
    known = vgg_localise.Localiser(shown, shown, None, {}, scores, 25.0)
    figures, _ = vgg_localise.localise(ARMS[PCR], known)
    assert figures[CENTRE] == 100.0 and figures[MERGED] == 0.0
    assert figures[vgg_localise.CLASSES] == 25.0


def test_a_window_sees_its_box():
    """In units of the window, from its centre, wherever the window is."""
    images = np.zeros((50, SIDE, SIDE, 3), np.uint8)
    boxes = np.tile(np.float32([48, 40, 20, 10]), (50, 1))
    images[:, *inside(boxes[0])] = 1
    key = jax.random.key(0)
    arrays = jnp.asarray(images), jnp.asarray(boxes)
    cut = jax.jit(vgg_localise.random_windows)
    windows, seen = map(np.asarray, cut(key, *arrays))
    assert len(np.unique(seen[:, 0])) > 10 and len(np.unique(seen[:, 1])) > 10
    for window, box in zip(windows, seen, strict=True):
        expected = np.zeros((CROP, CROP, 3))
        expected[inside(box * CROP + [CROP / 2, CROP / 2, 0, 0])] = 1
        np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize("views", [1, 9])
@pytest.mark.parametrize("classes", [1, 10])
def test_boxes_of_windows_lie_in_the_picture(views, classes):
    """Nine windows at 0, 16 and 32 pixels, and the centre: what they see of one box is
    that box. With a box a class, that of the true class."""
    labels, box = np.array([3, 9]), np.array([50.0, 30, 20, 10])
    places = [(x, y) for y in (0, 16, 32) for x in (0, 16, 32)] if views == 9 else []
    outputs = np.full((views, 2, classes, 4), np.nan, np.float32)
    for window, corner in zip(outputs, places or [(16, 16)], strict=True):
        centre = (box[:2] - corner - CROP / 2) / CROP
        window[[0, 1], labels % classes] = [*centre, *box[2:] / CROP]
    found = vgg_localise.in_pixels(outputs.reshape(views, 2, -1), labels, views)
    np.testing.assert_allclose(found, np.tile(box, (views, 2, 1)), rtol=1e-6)


def judged(scr, pcr, every, merged):
    experiment = vgg_localise.EXPERIMENT
    errors = {SCR: scr, PCR: pcr, ALL: every}
    records = [
        made.record(
            experiment, arm, seed, **{CENTRE: error + 0.1 * seed, MERGED: merged}
        )
        for arm, error in errors.items()
        for seed in range(3)
    ]
    (finding,) = result_of(experiment, records).findings.values()
    return finding


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((40.0, 35.0, 30.0, 20.0), "agrees: boxes per class; all layers; merged boxes"),
        ((40.0, 35.0, 30.0, 40.0), "contradicts here: merged boxes"),
        ((30.0, 35.0, 30.0, 20.0), "contradicts here: boxes per class"),
        ((40.0, 35.0, 34.9, 20.0), "sign only: all layers"),
        ((40.0, 35.0, 35.0, 20.0), "undecided: all layers"),
    ],
)
def test_three_comparisons_decide(errors, verdict):
    """VGG Appendix A: SCR against PCR, few layers against all, centre against merged;
    the weakest one decides."""
    finding = judged(*errors)
    assert str(finding.verdict) == verdict
    for arm, name in vgg_localise.PUBLISHED.items():
        mean = dict(zip((SCR, PCR, ALL), errors[:3], strict=True))[arm] + 0.1
        assert finding.figures[name].value == pytest.approx(mean)


def test_training_leaves_the_layers_of_rate_0():
    """Of two linear layers, the last one alone learns to see where the digit is."""
    shown = _pasted.pictures(64, test=False)
    stats = vgg_localise.statistics([shown.images])
    net = stack(Pool("pool", 8, 8), Dense("fc7", 16), Dense("fc8", 4), image_size=CROP)
    run_ = replace(ARMS[SCR], net=net, epochs=12)
    run_ = replace(run_, optim=Optim(0.001, layer_rate={"fc7": 0.0}))
    first, key = net.init(jax.random.key(0)), jax.random.key(1)

    def fitted(devices):
        on = replace(run_, mesh=Mesh(devices))
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            return vgg_localise.fit(on, first, shown, stats, vgg_localise.box_loss, key)

    last = fitted(1)

    def distance(params):
        (outputs,) = vgg_localise.look(net, params, shown, stats, 1)
        boxes = shown.boxes - np.float32([SIDE / 2, SIDE / 2, 0, 0])
        return np.linalg.norm(CROP * outputs - boxes)

    chex.assert_trees_all_equal(last["fc7"], first["fc7"])
    assert distance(last) < 0.5 * distance(first)
    chex.assert_trees_all_close(fitted(4), last, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="--batch 32 does not divide over 3 devices"):
        fitted(3)


def test_from_end_to_end(monkeypatch, tmp_path):
    """An arm that has no record starts from a classification net, with a new last
    layer. Nothing is trained again."""
    fitted, drawn = [], []

    def fit(run_, params, *others):
        fitted.append((run_, params))
        drawn.append(others[-1])
        return params

    def look(net, params, shown, stats, views):
        assert params.keys() == net.param_shapes().keys()
        return np.float32(np.arange(views * 8 * net.classes)).reshape(views, 8, -1)

    def init(net, key):
        drawn.append(key)
        shapes = net.param_shapes()
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)

    monkeypatch.setattr(VGG, "init", init)
    for name, fake in (("TRAIN", 32), ("TEST", 8), ("fit", fit), ("look", look)):
        monkeypatch.setattr(vgg_localise, name, fake)
    experiment = vgg_localise.EXPERIMENT
    run(experiment, Options(seeds=1, epochs=2, arms=(PCR,), out=tmp_path, devices=2))
    assert [run_.mesh.devices for run_, _ in fitted] == [2, 2]
    assert len({bytes(jax.random.key_data(key)) for key in drawn}) == len(drawn) == 4
    result = run(experiment, Options(seeds=1, epochs=2, out=tmp_path))
    names = [run_.name.removeprefix("vgg-a-") for run_, _ in fitted]
    assert names == ["classes", "boxes", "classes", "boxes", "boxes"]
    (_, of_classes), (first, of_boxes) = fitted[:2]
    assert of_boxes.pop("fc8")["bias"].shape == (40,)
    of_classes.pop("fc8")
    chex.assert_trees_all_equal(of_boxes, of_classes)
    fixed = [layer for layer in of_boxes if first.optim.layer_rate.get(layer) == 0]
    assert fixed == [layer for layer in of_boxes if layer.startswith("conv")]
    assert len(run(experiment, Options(seeds=1, epochs=2, out=tmp_path)).records) == 3
    assert len(fitted) == 5
    data = result.arms[PCR][0].data
    assert data["train"] == 32 and data["digest"] == _pasted.digest(32, 8)
    for name in ("vgg_localise", "vgg_localise-boxes"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
