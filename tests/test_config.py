"""Settings as JSON and back, and the values that they refuse."""

import copy
import dataclasses
import json
import math

import pytest

from alexvgg_jax.config import (
    NETS,
    Augment,
    Data,
    Mesh,
    Optim,
    Run,
    from_settings,
    to_settings,
)
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import MODELS, build
from alexvgg_jax.recipes import RECIPES

DIGITS = RECIPES["digits"].run


def through_json(run):
    return from_settings(json.loads(json.dumps(to_settings(run))))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    run = RECIPES[name].run
    assert run.name == name
    assert through_json(run) == run


@pytest.mark.parametrize("name", MODELS)
def test_every_net_survives_json(name):
    run = dataclasses.replace(DIGITS, net=MODELS[name])
    assert through_json(run).net == MODELS[name]
    assert to_settings(run)["net"]["kind"] in NETS


@pytest.mark.parametrize(
    "net",
    [
        build("alexnet-paper", without="conv3", pooling=(2, 2), after_conv1=("act",)),
        build("alexnet-small", conv1=(5, 2), after_conv2=(), classes=7),
        build("vgg-d", head="gap", compute="bfloat16", remat=True, image_size=64),
    ],
    ids=lambda net: type(net).__name__,
)
def test_switches_survive_json(net):
    run = dataclasses.replace(DIGITS, net=net)
    assert through_json(run) == run
    assert hash(through_json(run).net) == hash(net)


def test_settings_survive_json():
    run = Run(
        name="mine",
        data=Data("cifar10", 48, count=9000, first=True, shuffle=False),
        augment=Augment(crop=40, shift=False, colour=0.1, mean="channel"),
        net=build("cifar-11pct", local3=16),
        optim=Optim(
            rate=0.1 + 0.2,  # all digits
            layer_decay={"conv1": 0.0, "fc10": 1e-30},
            layer_freeze={"conv1": 2.5},
            drop_epochs=(1.0, 7.5),
            drop_biases=False,
        ),
        mesh=Mesh(devices=4, classifier=2, zero=True),
        batch=96,
        accumulate=3,
        seed=2**40,
        until_error=25.0,
    )
    assert through_json(run) == run


# Wrong settings in a file


def wrong(path, value):
    """The settings of the digits recipe with another value at a path of keys."""
    changed = copy.deepcopy(to_settings(DIGITS))
    *parts, last = path
    inner = changed
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("batch",), "128"),
        (("batch",), 128.0),
        (("batch",), True),
        (("epochs",), None),
        (("name",), 3),
        (("data", "size"), "32"),
        (("data", "name"), None),
        (("augment", "mirror"), 1),
        (("augment", "colour"), "0.1"),
        (("augment", "mean"), "median"),
        (("optim", "rate"), [0.1]),
        (("optim", "drop_epochs"), 8.0),
        (("optim", "drop_epochs"), ["8"]),
        (("optim", "layer_decay"), [0.1]),
        (("optim", "layer_decay"), {"fc10": "high"}),
        (("mesh", "zero"), "no"),
        (("net", "kind"), "ResNet"),
        (("net", "classes"), "10"),
        (("net", "activation"), "gelu"),
        (("data",), "digits"),
    ],
    ids=str,
)
def test_values_of_the_wrong_type(path, value, unchecked):
    with pytest.raises((TypeError, InputError, KeyError)):
        from_settings(wrong(path, value))


@pytest.mark.parametrize("part", [(), ("data",), ("optim",), ("mesh",), ("net",)])
def test_unknown_keys(part):
    with pytest.raises(TypeError, match="colours"):
        from_settings(wrong((*part, "colours"), 1))


def keys(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict) and not path:
            yield from keys(value, (key,))


NEEDED = {(part,) for part in ("name", "data", "augment", "net", "optim", "mesh")}
NEEDED.add(("net", "kind"))


@pytest.mark.parametrize("path", [*keys(to_settings(DIGITS))], ids=".".join)
def test_missing_keys(path):
    *parts, key = path
    settings, run = copy.deepcopy(to_settings(DIGITS)), DIGITS
    inner = settings
    for part in parts:
        inner, run = inner[part], getattr(run, part)
    del inner[key]
    if path in NEEDED:
        with pytest.raises((KeyError, TypeError), match=key):
            from_settings(settings)
        return
    field = type(run).__dataclass_fields__[key]
    lists = field.default is dataclasses.MISSING
    value = field.default_factory() if lists else field.default
    expected = dataclasses.replace(run, **{key: value})
    if parts:
        expected = dataclasses.replace(DIGITS, **{parts[0]: expected})
    assert from_settings(settings) == expected


# Bounds


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Data, {"size": 0}, "--data.size 0: at least 1"),
        (Data, {"held_out": -1}, "--data.held-out -1: at least 0"),
        (Data, {"count": -1}, "--data.count -1: at least 0"),
        (Data, {"first": True}, "--data.first: only with --data.count"),
        (Augment, {"crop": -1}, "--augment.crop -1: at least 0"),
        (Augment, {"colour": math.inf}, "--augment.colour inf: at least 0"),
        (Augment, {"colour_epochs": -0.5}, "--augment.colour-epochs -0.5: at least 0"),
        (Optim, {"rate": math.nan}, "--optim.rate nan: at least 0"),
        (Optim, {"rate": -0.1}, "--optim.rate -0.1: at least 0"),
        (Optim, {"bias_rate": -1.0}, "--optim.bias-rate -1.0: at least 0"),
        (Optim, {"momentum": -0.9}, "--optim.momentum -0.9: at least 0"),
        (Optim, {"weight_decay": -1.0}, "--optim.weight-decay -1.0: at least 0"),
        (Optim, {"drop_epochs": (1.0, -2.0)}, "--optim.drop-epochs -2.0: at least 0"),
        (Optim, {"plateau": -1}, "--optim.plateau -1: at least 0"),
        (Optim, {"drops": -1}, "--optim.drops -1: at least 0"),
        (
            Optim,
            {"plateau": 5, "drop_epochs": (8.0,)},
            "--optim.plateau and --optim.drop-epochs: use only one",
        ),
        (Mesh, {"devices": -1}, "--mesh.devices -1: at least 0"),
        (Mesh, {"classifier": 0}, "--mesh.classifier 0: at least 1"),
    ],
    ids=str,
)
def test_bounds_of_the_parts(part, values, message):
    with pytest.raises(InputError, match=message):
        part(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "--batch 0: at least 1"),
        ({"accumulate": 0}, "--accumulate 0: at least 1"),
        ({"epochs": 0}, "--epochs 0: at least 1"),
        ({"seed": -1}, "--seed -1: at least 0"),
        ({"until_error": -1.0}, "--until-error -1.0: at least 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0: at least 1"),
        ({"augment": Augment(crop=33)}, "--augment.crop 33: the images are 32 pixels"),
        (
            {"augment": Augment(crop=8, jitter_from=33, mean="channel")},
            "--augment.jitter-from 33: at most the --data.size, 32",
        ),
    ],
    ids=str,
)
def test_bounds_of_a_run(values, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(DIGITS, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0, "mean": "none"}, "--augment.jitter-from 9: needs an --augment.cr"),
        ({"crop": 10, "mean": "none"}, "of at most as many pixels, not 10"),
        ({"crop": 8}, "does not go with --augment.mean pixel"),
        ({"crop": 8, "mean": "none", "shift": False}, "with --augment.no-shift"),
    ],
)
def test_what_scale_jitter_needs(values, message):
    with pytest.raises(InputError, match=message):
        Augment(jitter_from=9, **values)


def test_the_images_of_the_test_error():
    assert (Data().tested, Data(held_out=5).tested) == ("test", "held-out")


def test_every_part_of_a_run_is_frozen():
    for part in (DIGITS, DIGITS.data, DIGITS.augment, DIGITS.net, DIGITS.optim):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.seed = 1
    assert [field.name for field in dataclasses.fields(Run)][:5] == [
        "name",
        "data",
        "augment",
        "net",
        "optim",
    ]
