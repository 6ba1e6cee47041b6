"""Runs that start from trained weights: another run's, or a file's."""

import contextlib
import io
import shutil
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from nets import random_params
from rich.console import Console
from safetensors.numpy import save_file
from weight_files import random_arrays, torch_state

from alexvgg_jax import loop, ready, start, weights
from alexvgg_jax import run as run_folder
from alexvgg_jax.checkpoint import Checkpoints
from alexvgg_jax.config import Augment, Data, Mesh, Optim, Run
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, build
from alexvgg_jax.models.layers import Conv
from alexvgg_jax.optim import learning_rates
from alexvgg_jax.ready import Work
from alexvgg_jax.recipes import RECIPES
from alexvgg_jax.run import read_statistics
from alexvgg_jax.weights.provenance import Provenance
from alexvgg_jax.weights.stored import model_of

pytestmark = pytest.mark.usefixtures("optimized")

NET = build("cifar-80sec", image_size=12)
RUN = Run(
    name="small",
    data=Data("digits", size=14),
    augment=Augment(crop=12, mean="channel"),
    net=NET,
    optim=Optim(rate=0.002),
    epochs=1,
    mesh=Mesh(devices=1),
)
COLOUR = np.array([120.0, 110, 100], np.float32)
STILL = replace(RUN.optim, rate=0.0)


def prepared(run: Run, folder) -> Work:
    with contextlib.ExitStack() as stack:
        return ready.prepare(run, folder, False, False, stack)


@pytest.fixture
def printed(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(start, "console", Console(file=printed, width=100))
    return printed


def test_a_run_starts_from_another(tmp_path, printed):
    """With the layers that fit, and its mean. The others are drawn from the seed. A
    rate of 0 leaves all parameters."""
    first = tmp_path / "first"
    trained = loop.train(replace(RUN, optim=STILL), first)
    chex.assert_trees_all_equal(start.untrained(trained.work), trained.params)
    own = replace(RUN, seed=1, optim=STILL, init_from=str(first))
    same = loop.train(own, tmp_path / "same")
    chex.assert_trees_all_equal(same.params, ready.load_params(first))
    means = (run.work.stats.mean.mean((0, 1)) for run in (same, trained))
    np.testing.assert_allclose(*means, 1e-5)
    chex.assert_trees_all_equal(start.untrained(same.work), same.params)
    line = f"{first}: copied conv1 conv2 conv3 fc64 fc10; fresh: none\n"
    assert printed.getvalue() == 2 * line
    larger = replace(own, data=Data(size=16), augment=Augment(crop=16))
    work = prepared(larger, tmp_path / "larger")
    drawn = start.untrained(replace(work, run=replace(larger, init_from="")))
    for layer, parts in start.untrained(work).items():
        of = drawn if layer == "fc64" else same.params
        chex.assert_trees_all_equal(parts, of[layer])
    assert printed.getvalue().endswith("copied conv1 conv2 conv3 fc10; fresh: fc64\n")
    one = replace(same.work, run=replace(own, init_layers=("conv2",)))
    drawn = start.untrained(replace(one, run=replace(own, init_from="")))
    for layer, parts in start.untrained(one).items():
        of = same.params if layer == "conv2" else drawn
        chex.assert_trees_all_equal(parts, of[layer])
    with pytest.raises(InputError, match="^--init-layers conv9: this net's layers"):
        start.untrained(replace(one, run=replace(own, init_layers=("conv9",))))
    shutil.rmtree(first)
    with pytest.raises(InputError, match="^--init-from /.*first: No such file"):
        loop.train(own, tmp_path / "none")


WORDS, IDS = weights.class_names(1000), start._imagenet_ids()
DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("named", "classes", "copied"),
    [
        (DIGITS, DIGITS, True),
        ((), DIGITS, True),  # whose they are is not known
        (tuple("abcdefghij"), DIGITS, False),
        (DIGITS[::-1], DIGITS, False),
        ((), WORDS, True),  # published weights are for ImageNet
        ((), IDS, True),
        (WORDS, IDS, True),
        (IDS, IDS, True),
        ((), tuple(map(str, range(1000))), False),
        (IDS[::-1], WORDS, False),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else str(value),
)
def test_the_last_layer_is_copied_for_the_same_classes(
    named, classes, copied, tmp_path, printed
):
    net, file = replace(NET, classes=len(classes)), tmp_path / "a.safetensors"
    provenance = Provenance(format="ours", mean=COLOUR, classes=named)
    weights.save(random_params(net), file, net, provenance)
    work = prepared(replace(RUN, init_from=str(file)), tmp_path / "run")
    images = replace(work.images, classes=classes)
    own = net.init(jax.random.key(1))
    _, params = start.start_from(replace(work, net=net, images=images), own)
    fresh = params["fc10"]["kernel"] is own["fc10"]["kernel"]
    assert fresh == (not copied)
    end = "fresh: none\n" if copied else "fresh: fc10 (fc10 is for other classes)\n"
    assert printed.getvalue().endswith(end)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cifar-13pct", "weights of ConvLocal, this net is FiveLayers"),
        ("cifar-80sec", r"no layer fits this net \(fc10 is for other classes\)"),
    ],
)
def test_weights_of_which_no_layer_fits(model, message, tmp_path):
    """Of another kind of net, or with a last layer for other classes alone."""
    net, file = build(model, image_size=12), tmp_path / "a.safetensors"
    names = tuple("abcdefghij")
    provenance = Provenance(format="ours", mean=COLOUR, classes=names)
    weights.save(random_params(net), file, net, provenance)
    work = prepared(replace(RUN, init_from=str(file)), tmp_path / "run")
    own = {name: {} for name in NET.param_shapes()}
    own["fc10"] = random_params(NET)["fc10"]
    with pytest.raises(InputError, match=f"--init-from {file}: {message}"):
        start.start_from(work, own)


def test_convolutions_are_frozen_at_first(tmp_path, printed):
    """They and their velocities stay, to the bit. The mean of the weights is used in
    training and tests, and a resumed run keeps it."""
    convolutions = {k: v for k, v in random_params(NET).items() if "conv" in k}
    convolutions = jax.tree.map(lambda x: 0.1 * x, convolutions)
    file = tmp_path / "features.safetensors"
    weights.save(convolutions, file, NET, Provenance(format="ours", mean=COLOUR))
    optim = Optim(rate=0.002, frozen_epochs=1.0)
    layers = ("conv1", "conv2", "conv3")
    run = replace(RUN, optim=optim, init_from=str(file), init_layers=layers)
    work, history, params = loop.train(run, tmp_path / "run")
    line = f"{file}: copied conv1 conv2 conv3; fresh: fc64 fc10\n"
    assert printed.getvalue() == line
    chex.assert_trees_all_equal(
        *({k: p[k] for k in convolutions} for p in (params, convolutions))
    )
    assert not np.array_equal(
        params["fc10"]["kernel"], start.untrained(work)["fc10"]["kernel"]
    )
    with contextlib.closing(
        Checkpoints(tmp_path / "run" / "checkpoints")
    ) as checkpoints:
        restored = checkpoints.restore()
    assert restored is not None
    velocity = restored[0]["opt"]
    for name in NET.param_shapes():
        moves = any(np.any(part) for part in velocity[name].values())
        assert moves == (name not in convolutions)
    setup, trained = ready.load(tmp_path / "run")
    assert (np.asarray(setup.stats.mean) == COLOUR).all()
    assert (np.asarray(weights.load_any(tmp_path / "run")[2].mean) == COLOUR).all()
    file.unlink()
    again = replace(run, epochs=2, init_from="", init_layers=())  # are not needed again
    resumed = loop.train(again, tmp_path / "run", resume=True)
    assert run_folder.settings(tmp_path / "run").init_from == str(file)
    assert (np.asarray(read_statistics(tmp_path / "run").mean) == COLOUR).all()
    for name in trained:
        assert not np.array_equal(
            resumed.params[name]["kernel"], trained[name]["kernel"]
        )


def test_frozen_convolutions_need_trained_weights(tmp_path):
    frozen = replace(RUN, optim=Optim(frozen_epochs=2.0))
    message = "--optim.frozen-epochs 2: --init-from must name trained weights"
    with pytest.raises(InputError, match=message):
        loop.train(frozen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_library(tmp_path, monkeypatch):
    """For inputs that were divided by a deviation, of another class count."""
    net = build("vgg-a", width=0.05, image_size=32, classes=5)
    monkeypatch.setitem(weights.MODELS, "vgg-a", net)
    arrays, file = random_arrays(net), tmp_path / "a.safetensors"
    save_file(torch_state("vgg-a", arrays), file)
    run = replace(RUN, data=Data(size=36), augment=Augment(crop=32), net=net)
    work = prepared(replace(run, init_from=str(file)), tmp_path / "run")
    own = work.steps.init(jax.random.key(7)).params
    started, params = start.start_from(work, own)
    expected, provenance = weights.load(file, net)
    for name in net.param_shapes():
        chex.assert_trees_all_equal(
            params[name], (own if name == "fc8" else expected)[name]
        )
    assert started.stats.mean.shape == (36, 36, 3)
    np.testing.assert_allclose(started.stats.mean[35, 0], provenance.mean, 1e-6)
    chex.assert_trees_all_equal(started.stats.components, work.stats.components)


def test_the_mean_of_other_images():
    """The centre of a mean image; of a smaller one, its colour."""
    image = np.random.default_rng(0).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(start._mean(image, 4), image[1:5, 2:6])
    for mean in (image, image.mean((0, 1))):
        smaller = start._mean(mean, 7)
        assert smaller.shape == (7, 7, 3)
        np.testing.assert_allclose(smaller[0, 6], image.mean((0, 1)), 1e-6)


def test_an_id_of_the_hub_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name, kept in (
        ("timm/vgg16.tv_in1k", "timm/vgg16.tv_in1k"),
        ("runs/a", str(tmp_path / "runs" / "a")),
        ("a.safetensors", str(tmp_path / "a.safetensors")),
        ("", ""),
    ):
        assert run_folder._absolute(replace(RUN, init_from=name)).init_from == kept


def test_names_tell_convolutions():
    """`learning_rates` freezes by name."""
    for net in MODELS.values():
        kinds = {
            x.name: isinstance(x, Conv)
            for x in net.layers()
            if x.name in net.param_shapes()
        }
        assert kinds == {name: name.startswith("conv") for name in kinds}


@pytest.mark.parametrize(
    ("name", "net"), [("alexnet", "alexnet-owt"), ("vgg", "vgg-d")]
)
def test_the_recipes_for_finetuning(name, net):
    """Published weights fit. Features are frozen, then all learn at a tenth of the rate
    except the first convolution, which learns never."""
    run = RECIPES[f"finetune-{name}"].run
    assert model_of(run_folder.net_of(run, 7)) == net
    frozen, after = (
        learning_rates(run.optim, run.net.param_shapes(), e) for e in (4, 5)
    )
    first, *others = run.net.param_shapes()
    for layer in others:
        learns = not layer.startswith("conv")
        assert float(frozen[layer]["kernel"]) == pytest.approx(0.001 * learns)
        assert float(after[layer]["kernel"]) == pytest.approx(0.0001)
    assert not any(
        rates[first][part] for rates in (frozen, after) for part in rates[first]
    )
