"""Files of other libraries, written here, against a net in numpy that computes as
they do."""

import functools
import json
import re
import zipfile
from dataclasses import replace

import jax
import numpy as np
import pytest
from nets import random_params
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from weight_files import (
    arrays_of,
    blob,
    caffe_definition,
    caffemodel,
    keras_layers,
    message,
    numpy_logits,
    random_arrays,
    torch_names,
    torch_state,
    write_keras,
)

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net, build
from alexvgg_jax.weights import torchvision, wire
from alexvgg_jax.weights.provenance import CONVENTIONS, Convention, Provenance
from alexvgg_jax.weights.stored import to_maps_first, to_maps_last, with_inputs

SMALL = {"classes": 5, "image_size": 32}
VGG = build("vgg-a", width=0.05, **SMALL)
PIXELS = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
TORCH, CAFFE, RGB = (CONVENTIONS[name] for name in ("torch", "caffe", "rgb"))


@functools.cache
def compiled(net: Net):
    return jax.jit(functools.partial(net.apply, train=False))


def assert_agrees(net: Net, loaded, arrays, convention: Convention, pixels=PIXELS):
    """What was loaded gives the other library's logits, for the same pixels."""
    params, provenance = loaded
    images = (pixels - provenance.mean).astype(np.float32)
    logits, _ = compiled(net)(params, images)
    expected = numpy_logits(net, arrays, pixels, convention)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def vgg_file(tmp_path):
    """A state dict of a small VGG with torchvision's names."""
    save_file(torch_state("vgg-a", random_arrays(VGG)), tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


@pytest.mark.parametrize(
    ("name", "net"),
    [("vgg-a", VGG), ("alexnet-owt", build("alexnet-owt", classes=5, image_size=63))],
    ids=["vgg-a", "alexnet-owt"],
)
def test_torchvision(name, net, tmp_path):
    """RGB / 255 minus a mean, divided by a deviation; maps flattened first."""
    arrays, file = random_arrays(net), tmp_path / "a.safetensors"
    save_file(torch_state(name, arrays), file)
    size = net.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
    loaded = weights.load(file, net)
    assert_agrees(net, loaded, arrays, TORCH, pixels)
    assert loaded[1].format == "torchvision"
    np.testing.assert_allclose(loaded[1].mean, [123.675, 116.28, 103.53])


def test_timm(tmp_path):
    """The head as convolutions, with other names."""
    arrays = random_arrays(VGG)
    state = torch_state("vgg-a", arrays)
    for old, new in (
        ("0", "pre_logits.fc1"),
        ("3", "pre_logits.fc2"),
        ("6", "head.fc"),
    ):
        kernel = state.pop(f"classifier.{old}.weight")
        if old != "6":
            kernel = kernel.reshape(len(kernel), -1, 1, 1)
        state[f"{new}.weight"] = kernel
        state[f"{new}.bias"] = state.pop(f"classifier.{old}.bias")
    save_file(state, tmp_path / "a.safetensors")
    loaded = weights.load(tmp_path / "a.safetensors", VGG)
    assert_agrees(VGG, loaded, arrays, TORCH)
    assert loaded[1].format == "timm"


def test_batch_normalisation_is_folded(tmp_path):
    """(w x + b - mean) / sqrt(variance + 1e-5) * scale + shift."""
    arrays, rng = random_arrays(VGG), np.random.default_rng(3)
    state = {"features.1.num_batches_tracked": np.int64(3)}
    folded = {}
    names = torch_names("vgg-a bn")
    for name, layer in zip(names, arrays, strict=True):
        (kernel, bias), (part, number) = arrays[layer], name.split(".")
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
        if part == "features":
            scale, shift, mean, variance = rng.uniform(0.5, 2, (4, len(bias)))
            norm = dict(weight=scale, bias=shift, running_mean=mean)
            norm["running_var"] = variance
            state |= {
                f"features.{int(number) + 1}.{key}": value.astype(np.float32)
                for key, value in norm.items()
            }
            factor = scale / np.sqrt(variance + 1e-5)
            bias = (bias - mean) * factor + shift
            kernel = kernel * factor[:, None, None, None]
        folded[layer] = (kernel, bias)
    state = {name: np.asarray(value) for name, value in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    loaded = weights.load(tmp_path / "a.safetensors", VGG)
    assert_agrees(VGG, loaded, folded, TORCH)
    whole = dict(state)
    state["features.99.running_mean"] = state["features.1.bias"]
    del state["features.4.weight"], state["features.4.bias"]
    del state["features.1.running_var"], state["features.9.running_mean"]
    del state["features.11.bias"], state["features.5.weight"], state["features.5.bias"]
    del state["features.5.running_mean"], state["features.5.running_var"]
    state["features.12.bias"] = state["features.12.bias"][1:]
    state["features.16.running_var"] = -state["features.16.running_var"]
    state["features.19.weight"] = state["features.19.weight"] * np.nan
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError) as error:
        weights.load(tmp_path / "a.safetensors", VGG)
    assert str(error.value).endswith(
        "a.safetensors: not weights of this VGG: missing features.1.running_var, "
        "features.4.weight, features.4.bias, features.5.weight, features.5.bias, "
        "features.5.running_mean, features.5.running_var, features.9.running_mean, "
        "features.11.bias; surplus features.99.running_mean; features.12.bias has "
        "shape (12,), not (13,); NaN or infinity in features.19.weight; "
        "features.16.running_var has negative numbers"
    )
    for name in [name for name in state if ".running_" in name]:
        del state[name]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match="missing features.1.running_mean, features.1."
    ):
        weights.load(tmp_path / "a.safetensors", VGG)
    state = whole | {"features.1.weight": whole["features.1.weight"] * 1e38}
    state["features.1.running_var"] = 0 * whole["features.1.running_var"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="features.0.weight is not finite once no"):
        weights.load(tmp_path / "a.safetensors", VGG)


@pytest.mark.parametrize("name", ["torch", "caffe", "rgb"])
def test_an_input_that_the_user_names(name, vgg_file):
    """The published weights take another input than "caffe" or "rgb"."""
    loaded = weights.load(vgg_file, VGG, input=name)
    assert_agrees(VGG, loaded, random_arrays(VGG), CONVENTIONS[name])
    about = (loaded[1].source, loaded[1].licence)
    published = ("https://github.com/pytorch/vision", "BSD-3-Clause")
    assert about == (published if name == "torch" else ("", ""))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_input_is_one_line(vgg_file):
    with pytest.raises(InputError, match="input bgr: choose from torch, caffe, rgb"):
        weights.load(vgg_file, VGG, input="bgr")


SMALL = {"width": 0.05, "classes": 5, "image_size": 99}


@pytest.mark.parametrize("generation", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "other"),
    [("alexnet-caffe", "alexnet-caffenet"), ("alexnet-caffenet", "alexnet-caffe")],
    ids=["caffe", "caffenet"],
)
def test_caffe_alexnet(name, other, generation, tmp_path):
    """Groups and response normalisation, BGR, and blobs of four dimensions."""
    net = build(name, **SMALL)
    arrays, file = random_arrays(net), tmp_path / "a.caffemodel"
    layers = caffe_definition(net)
    file.write_bytes(caffemodel(arrays, layers, generation, layers))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 99, 99, 3), np.uint8)
    loaded = weights.load(file, net)
    convention = Convention((122.6789, 116.6688, 104.0069), reverse=True)
    assert_agrees(net, loaded, arrays, convention, pixels)
    assert loaded[1].squash
    with pytest.raises(InputError, match=" after (norm|pool)1; no (norm|pool)2; "):
        weights.load(file, build(other, **SMALL))
    paper = replace(net, lrn_k=2.0, lrn_alpha=1e-4, lrn_across_towers=False)
    differences = (
        "norm1 has alpha 0.0001, not 0.0005; norm1 has k 1, not 2; norm1 has g"
    )
    with pytest.raises(InputError, match=f"{differences}roups 1, not 2; norm2 has "):
        weights.load(file, paper)


DEPARTURES = {
    "conv1 has pad 2, not 0": {"conv1": ("Convolution", {"stride": 4, "pad": 2})},
    "conv1 has stride 2, not 4": {"conv1": ("Convolution", {"stride": 2})},
    "conv1 has stride 4 1, not 4": {"conv1": ("Convolution", {"stride_h": 4})},
    "conv2 has groups 1, not 2": {"conv2": ("Convolution", {"pad": 2})},
    "pool1 has size 2, not 3": {"pool1": ("Pooling", {"size": 2, "stride": 2})},
    "pool1 has stride 1, not 2": {"pool1": ("Pooling", {"size": 3})},
    "average pooling in place of pool1": {
        "pool1": ("Pooling", {"size": 3, "stride": 2, "pool": 1})
    },
    "sigmoid in place of relu1": {"relu1": ("Sigmoid", {})},
    "relu3 has slope 0.1, not 0": {"relu3": ("ReLU", {"slope": 0.1})},
    "norm1 has alpha 1, not 0.0001": {"norm1": ("LRN", {})},
    "norm1 has k 2, not 1": {"norm1": ("LRN", {"alpha": 1e-4, "k": 2.0})},
    "normalisation over pixels in place of norm1": {
        "norm1": ("LRN", {"alpha": 1e-4, "region": 1})
    },
    "fc7 has transposed 1, not 0": {"fc7": ("InnerProduct", {"transpose": 1})},
}


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_caffe_nets_that_compute_something_else(generation, tmp_path):
    """Each setting is compared, also where the file leaves it at Caffe's default."""
    net = build("alexnet-caffe", **SMALL)
    arrays, file = random_arrays(net), tmp_path / "a.caffemodel"
    layers, only_later = caffe_definition(net), ("stride_h", "slope", "re", "transpose")

    def load(layers, names=None):
        file.write_bytes(caffemodel(arrays, names or layers, generation, layers))
        return weights.load(file, net)

    for phrase, change in DEPARTURES.items():
        ((_, settings),) = change.values()
        if generation or not any(key.startswith(only_later) for key in settings):
            with pytest.raises(InputError, match=f"AlexNet: {phrase}$"):
                load(layers | change)
    without = {name: layers[name] for name in layers if not name.startswith("norm")}
    with pytest.raises(InputError, match="AlexNet: no norm1; no norm2$"):
        load(without)
    renamed = [("n1" if name == "norm1" else name) for name in layers]
    load(layers | {"n1": layers["norm1"]}, renamed)  # a name that means nothing
    with pytest.raises(InputError, match="AlexNet: norm1 has k 2, not 1$"):
        load(layers | {"n1": ("LRN", {"alpha": 1e-4, "k": 2.0})}, renamed)


def test_a_caffe_net_whose_layers_read_others(tmp_path):
    """conv1's output goes past relu1; and conv4 before conv3."""
    net = build("alexnet-caffe", **SMALL)
    arrays, file = random_arrays(net), tmp_path / "a.caffemodel"
    layers = caffe_definition(net)
    content = caffemodel(arrays, layers, 2, layers)
    bottom = message((3, "conv1"), (4, "norm1"))
    assert content.count(bottom) == 1
    file.write_bytes(content.replace(bottom, message((3, "other"), (4, "norm1"))))
    with pytest.raises(InputError, match="AlexNet: norm1 does not follow the layer be"):
        weights.load(file, net)
    names = [{"conv3": "conv4", "conv4": "conv3"}.get(name, name) for name in layers]
    file.write_bytes(caffemodel(arrays, names, 2, layers))
    with pytest.raises(InputError, match="conv4 comes before conv3"):
        weights.load(file, net)


def test_caffe_layers_that_compute_cannot_be_missing(tmp_path):
    """If other layers are defined; nor can a softmax be between them."""
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    layers = caffe_definition(VGG)
    file.write_bytes(caffemodel(arrays, arrays, 2, layers))
    with pytest.raises(InputError, match="no relu1_1"):
        weights.load(file, VGG)
    content = caffemodel(arrays, layers, 2, layers)
    file.write_bytes(content.replace(b"Dropout", b"Softmax", 1))
    with pytest.raises(InputError, match="fc7 does not follow the layer before it"):
        weights.load(file, VGG)


def test_a_softmax_before_the_first_convolution_of_caffe(tmp_path):
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    layers = caffe_definition(VGG)
    layers = {"data": layers.pop("data"), "first": ("Softmax", {})} | layers
    file.write_bytes(caffemodel(arrays, layers, 2, layers))
    with pytest.raises(InputError, match="conv1_1 does not follow the layer before it"):
        weights.load(file, VGG)


RGB_MEAN = (130.5, 120.25, 110.0)
TRANSFORMS = {
    "values": (
        {"scale": 0.25, "mean_value": RGB_MEAN[::-1]},
        Convention(RGB_MEAN, (4.0,) * 3, reverse=True),
    ),
    "one value": ({"mean_value": 127.0}, Convention((127.0,) * 3, reverse=True)),
    "no mean": ({"scale": 0.5}, Convention((0.0,) * 3, (2.0,) * 3, reverse=True)),
    "file": ({"mean_file": "mean.binaryproto"}, CAFFE),
    "scaled": (
        {"mean_file": "mean.binaryproto", "scale": 0.5},
        replace(CAFFE, deviation=(2.0,) * 3),
    ),
    "as published": ({"mean_value": CAFFE.mean[::-1]}, CAFFE),
}


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("settings, convention", TRANSFORMS.values(), ids=TRANSFORMS)
def test_what_a_data_layer_of_caffe_does_to_images(
    settings, convention, generation, tmp_path
):
    """A file with another mean or scale is not the published one."""
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    layers = caffe_definition(VGG) | {"data": ("Data", settings)}
    file.write_bytes(caffemodel(arrays, layers, generation, layers))
    loaded = weights.load(file, VGG)
    assert_agrees(VGG, loaded, arrays, convention)
    assert loaded[1].licence == ("CC BY 4.0" if convention == CAFFE else "")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mean_value": (1.0, 2.0)}, "data has 2 mean values"),
        ({"scale": 0.0}, "data has the mean (0.0, 0.0, 0.0), the scale 0.0"),
        (
            {"mean_value": float("nan")},
            "data has the mean (nan, nan, nan), the scale 1.0",
        ),
    ],
)
def test_data_layers_of_caffe_that_make_no_images(settings, line, tmp_path):
    layers = caffe_definition(VGG) | {"data": ("Data", settings)}
    (tmp_path / "a").write_bytes(caffemodel(random_arrays(VGG), layers, 2, layers))
    with pytest.raises(InputError, match=re.escape(line)):
        weights.load(tmp_path / "a", VGG)
    layers["data"] = ("Data", {"scale": 2.0})
    layers = {"test": ("Data", {"scale": 1.0})} | layers
    (tmp_path / "a").write_bytes(caffemodel(random_arrays(VGG), layers, 2, layers))
    with pytest.raises(InputError, match="its data layers differ in the scale"):
        weights.load(tmp_path / "a", VGG)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_scale_where_older_versions_of_caffe_have_it(generation, tmp_path):
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    settings = {"old_scale": 0.25, "old_mean_file": "mean.binaryproto"}
    layers = caffe_definition(VGG) | {"data": ("old data", settings)}
    file.write_bytes(caffemodel(arrays, layers, generation, layers))
    loaded = weights.load(file, VGG)
    assert_agrees(VGG, loaded, arrays, replace(CAFFE, deviation=(4.0,) * 3))


def test_a_last_layer_of_caffe_that_was_fine_tuned(tmp_path):
    """Caffe gives it another name, so that it starts from new weights."""
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    layers = caffe_definition(VGG)
    layers["fc8_flickr"], _ = layers.pop("fc8"), layers.pop("prob")
    renamed = {name if name != "fc8" else "fc8_flickr": a for name, a in arrays.items()}
    file.write_bytes(caffemodel(renamed, layers, 2, layers))
    assert_agrees(VGG, weights.load(file, VGG), arrays, CAFFE)
    assert weights.net_of(file, "vgg-a").classes == VGG.classes
    layers["fc9"] = ("InnerProduct", {})
    renamed["fc9"] = tuple(np.zeros(s, np.float32) for s in ((5, VGG.classes), 5))
    file.write_bytes(caffemodel(renamed, layers, 2, layers))
    with pytest.raises(InputError, match="matrix product after fc8"):
        weights.load(file, VGG)


@pytest.mark.parametrize("is_stripped", [False, True], ids=["whole", "stripped"])
def test_caffe_vgg(is_stripped, tmp_path):
    arrays, file = random_arrays(VGG), tmp_path / "a.caffemodel"
    layers = caffe_definition(VGG)
    names = arrays if is_stripped else layers
    file.write_bytes(caffemodel(arrays, names, 1, {} if is_stripped else layers))
    loaded = weights.load(file, VGG)
    assert_agrees(VGG, loaded, arrays, CAFFE)
    assert loaded[1].licence == "CC BY 4.0"


def test_a_mean_image_of_caffe(tmp_path, vgg_file):
    """Blue, green, red, and maps first in the file."""
    mean = np.random.default_rng(0).uniform(0, 255, (48, 48, 3)).astype(np.float32)
    file = tmp_path / "mean.binaryproto"
    file.write_bytes(blob(mean[..., ::-1].transpose(2, 0, 1)[None], legacy=True))
    np.testing.assert_array_equal(weights.read_mean(file), mean)
    _, provenance = weights.load(vgg_file, VGG, mean=file)
    image = np.full((60, 40, 3), 200, np.uint8)
    expected = 200 - mean[8:40, 8:40]
    np.testing.assert_allclose(weights.preprocess(image, provenance), expected)
    with pytest.raises(InputError, match="nope.binaryproto: No such file or directory"):
        weights.load(vgg_file, VGG, mean=tmp_path / "nope.binaryproto")


@pytest.mark.parametrize("form", ["1", "2", "model", "3"])
def test_keras(form, tmp_path):
    pytest.importorskip("h5py")
    arrays = random_arrays(VGG)
    write_keras(tmp_path / "a.h5", keras_layers(VGG, arrays), form)
    loaded = weights.load(tmp_path / "a.h5", VGG)
    assert_agrees(VGG, loaded, arrays, CAFFE)
    assert loaded[1].format == "keras"


def test_keras_with_two_layers_of_one_number(tmp_path):
    """As in a net of VGG's layers with a convolution of its own."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    write_keras(path, keras_layers(VGG, random_arrays(VGG)), "3")
    with h5py.File(path, "a") as file:
        file["layers/functional/layers/conv2d/vars/1"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"a.h5: .* two arrays for conv2d.bias"):
        weights.load(path, VGG)


def test_keras_without_top(tmp_path):
    pytest.importorskip("h5py")
    arrays = random_arrays(VGG)
    layers = keras_layers(VGG, arrays)
    head = {"fc1", "fc2", "predictions"}
    layers = {name: value for name, value in layers.items() if name not in head}
    write_keras(tmp_path / "a.h5", layers, "2")
    params, _ = weights.load(tmp_path / "a.h5", VGG)
    assert set(params) == {name for name in arrays if name.startswith("conv")}
    apply = functools.partial(VGG.apply, train=False, until="pool5")
    maps, _ = jax.eval_shape(apply, params, PIXELS.astype(np.float32))
    assert maps.shape == (2, 1, 1, 26)


def test_a_fresh_last_layer(vgg_file):
    """It is that of `init`; the other layers are the file's."""
    net, key = replace(VGG, classes=7), jax.random.key(3)
    params, _ = weights.load(vgg_file, net, key=key)
    loaded, _ = weights.load(vgg_file, VGG)
    drawn = jax.jit(net.init)(key)
    assert [*params] == [*drawn]
    for layer in params:
        expected = drawn if layer == "fc8" else loaded
        jax.tree.map(np.testing.assert_allclose, params[layer], expected[layer])


def test_a_fresh_head_of_another_kind(vgg_file):
    """VGG without hidden layers, from a file that has them."""
    net = replace(VGG, head="gap", classes=3)
    params, _ = weights.load(vgg_file, net, key=jax.random.key(0))
    apply = functools.partial(net.apply, train=False)
    logits, _ = jax.eval_shape(apply, params, PIXELS.astype(np.float32))
    assert logits.shape == (2, 3)
    with pytest.raises(InputError, match="missing .*surplus classifier.0.bias"):
        weights.load(vgg_file, net)


def test_a_dense_head_has_the_same_weights(vgg_file):
    net = replace(VGG, head="dense")
    loaded = weights.load(vgg_file, net)
    assert_agrees(VGG, loaded, random_arrays(VGG), TORCH)


def test_all_problems_are_in_one_message(tmp_path):
    state = torch_state("vgg-a", random_arrays(VGG))
    del state["features.3.bias"], state["classifier.0.weight"]
    state["features.99.weight"] = np.zeros(3, np.float32)
    state["features.6.weight"] = np.zeros((3, 3), np.float32)
    state["features.8.bias"] = state["features.8.bias"] * np.nan
    state["features.11.bias"] = state["features.11.bias"].astype(np.int32)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError) as error:
        weights.load(tmp_path / "a.safetensors", VGG)
    assert str(error.value).endswith(
        "a.safetensors: not weights of this VGG: "
        "missing features.3.bias, classifier.0.weight; surplus features.99.weight; "
        "features.6.weight has shape (3, 3), not (13, 6, 3, 3); "
        "NaN or infinity in features.8.bias; features.11.bias has the type int32"
    )


def test_ours_out_and_in_is_exact(tmp_path):
    net, file = build("alexnet-small"), tmp_path / "a.safetensors"
    params, mean = random_params(net), np.linspace(0, 255, 32 * 32 * 3)
    provenance = Provenance(
        format="keras",
        mean=mean.reshape(32, 32, 3),
        accuracy="some",
        resize=32,
        crop=28,
        interpolation="area",
        classes=("a", "b"),
    )
    weights.save(params, file, net, provenance)
    assert weights.net_of(file) == net
    loaded, found = weights.load(file, net)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert vars(found) | {"mean": 0} == vars(provenance) | {"mean": 0}
    np.testing.assert_array_equal(found.mean, provenance.mean)


def test_torchvision_out_and_in_is_exact(tmp_path):
    """Convolutions alone, for speed; the next test has the other layers."""
    net, file = build("alexnet-owt"), tmp_path / "a.safetensors"
    params = random_params(net, [f"conv{i}" for i in range(1, 6)])
    mean = np.array([120.0, 110.0, 100.0])
    provenance = Provenance("keras", mean, "someone", "CC BY 4.0", "71.3", squash=True)
    weights.save(params, file, net, provenance, target="torchvision")
    loaded, found = weights.load(file, net)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    np.testing.assert_allclose(found.mean, provenance.mean)
    # Convolutions alone have no accuracy.
    expected = replace(provenance, mean=found.mean, accuracy="")
    assert vars(found) == vars(expected)


@pytest.mark.parametrize("name", ["alexnet-owt", "vgg-a", "vgg-d"])
def test_names_and_layouts_of_torchvision(name):
    """The names are torchvision's, and the layouts are each other's inverse."""
    net = build(name)
    keys = torchvision.keys(net)
    assert [*keys] == [*net.param_shapes()]
    assert [kernel for kernel, _ in keys.values()] == [
        f"{layer}.weight" for layer in torch_names(name)
    ]
    params = random_params(VGG)
    for layer, shape in with_inputs(VGG):
        if layer.name in params:
            kernel = np.asarray(params[layer.name]["kernel"])
            theirs = to_maps_first(kernel, layer, shape)
            np.testing.assert_array_equal(to_maps_last(theirs, layer, shape), kernel)


def test_what_cannot_be_saved(tmp_path):
    file, provenance = tmp_path / "a", Provenance("ours", np.zeros(3))
    net = build("alexnet-small")
    params = random_params(net)
    with pytest.raises(InputError, match="has no alexnet-small; it has alexnet-owt, v"):
        weights.save(params, file, net, provenance, target="torchvision")
    with pytest.raises(InputError, match="params of another net"):
        weights.save(params, file, replace(net, classes=3), provenance)
    assert not file.exists()


@pytest.mark.parametrize("size", [(300, 400), (256, 259), (100, 90)])
def test_preprocess_is_the_transform_of_torchvision(size):
    """Resize the short side to 256 with Pillow's bilinear filter, cut out 224."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    provenance = Provenance("torchvision", np.array(TORCH.mean))
    height, width = size
    scale = 256 / min(size)
    big = Image.fromarray(image).resize(
        (int(width * scale), int(height * scale)), Image.Resampling.BILINEAR
    )
    left, top = round((big.width - 224) / 2), round((big.height - 224) / 2)
    expected = np.asarray(big.crop((left, top, left + 224, top + 224)))
    found = weights.preprocess(image, provenance)
    pixels = np.asarray(found) + provenance.mean
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


def test_preprocess_of_a_square_of_caffe():
    """The aspect ratio changes."""
    provenance = Provenance("caffe", np.zeros(3), resize=8, crop=6, squash=True)
    image = np.zeros((16, 64, 3), np.uint8)
    image[:, 32:] = 255
    found = weights.preprocess(image, provenance)
    np.testing.assert_array_equal(found[:, [0, 5], 0], [[0, 255]] * 6)


def test_the_net_of_a_file(tmp_path):
    """By the shapes, the class count, and the order of Caffe's layers."""
    net = build("alexnet-owt", classes=3)
    zeros = arrays_of(net, lambda shape: np.zeros(shape, np.float16))
    state = torch_state("alexnet-owt", zeros)
    save_file(state, tmp_path / "a.safetensors")
    assert weights.net_of(tmp_path / "a.safetensors") == net
    del state["features.0.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match="none of the nets, alexnet-owt, vgg-a, .*--net"
    ):
        weights.net_of(tmp_path / "a.safetensors")


BAD = {
    "nothing": b"",
    "html": b"<!DOCTYPE html><html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "header.safetensors": b"\xff" * 7 + b"\x00{}",
    "h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "onnx": b"\x08\x07\x12\xff\xff",
    "caffe": b"\x0a\x01a\xa2\x06\xff",
    "caffe without layers": message((1, "net")),
    "caffe shape": message((100, message((1, "a"), (7, message((1, 9), (5, [1.0])))))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_file_is_one_line(name, tmp_path):
    (tmp_path / "a").write_bytes(BAD[name])
    with pytest.raises(InputError) as error:
        weights.load(tmp_path / "a", VGG)
    assert str(tmp_path / "a") in str(error.value) and "\n" not in str(error.value)


def test_a_zip_bomb_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(InputError, match="its parts are larger than the file"):
        weights.load(tmp_path / "a.pth", VGG)


def test_arrays_of_numpy_are_no_weights(tmp_path):
    """As `eval --save` writes them. They are a zip file, as torch's are."""
    np.savez(tmp_path / "a.npz", probabilities=np.ones(3))
    with pytest.raises(InputError, match="a.npz: arrays of numpy, not the weights"):
        weights.load(tmp_path / "a.npz", VGG)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("net", '{"kind": "VGG", "width": -1}'),
        ("net", '{"kind": "os"}'),
        ("net", '{"kind": "VGG", "width": 1e999}'),
        ("net", "[]"),
        ("provenance", '{"crop": -1}'),
        ("provenance", '{"crop": "1"}'),
        ("provenance", '{"format": "a", "mean": 1}'),
        ("provenance", "1"),
        ("net", "[" * 100_000),
        ("provenance", "[" * 100_000),
    ],
)
def test_damaged_metadata_are_one_line(key, text, tmp_path):
    file, provenance = tmp_path / "a.safetensors", Provenance("ours", np.zeros(3))
    weights.save(random_params(VGG), file, VGG, provenance)
    metadata = {"net": json.dumps({"kind": "VGG"}), "provenance": provenance.to_json()}
    save_file(load_file(file), file, metadata | {key: text})
    with pytest.raises(InputError, match="its metadata are damaged"):
        weights.load(file, VGG)


@pytest.mark.parametrize("key", ["mean", "provenance"])
def test_metadata_that_are_nested_too_deeply(key, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(torch_state("vgg-a", random_arrays(VGG)), file, {key: "[" * 100_000})
    with pytest.raises(InputError, match="its metadata are damaged"):
        weights.load(file, VGG)


@pytest.mark.parametrize("mean", [np.zeros(2), np.zeros((2, 2, 3)) * np.nan])
def test_a_damaged_mean_is_one_line(mean, tmp_path):
    file, provenance = tmp_path / "a.safetensors", Provenance("ours", np.zeros(3))
    weights.save(random_params(VGG), file, VGG, provenance)
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    save_file(load_file(file) | {"mean": mean}, file, metadata)
    with pytest.raises(InputError, match="its mean is no colour and no image"):
        weights.load(file, VGG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x05ab", "field 1 is longer than the file"),
        (b"\x0d\x00", "field 1 is longer than the file"),
        (b"\x0a", "it is cut short"),
        (b"\x08" + b"\xff" * 10, "a number has more than 10 bytes"),
        (b"\x0b", "field 1 has the wire type 3"),
        (b"\x02\x00", "a field has the number 0"),
    ],
)
def test_damaged_protocol_buffers(content, message):
    with pytest.raises(ValueError, match=message):
        list(wire.read(memoryview(content)))
