"""Graphs of ONNX, whatever their tensors are called."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper
from test_weights import VGG, assert_agrees
from weight_files import onnx_vgg, random_arrays

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.weights.provenance import CONVENTIONS


def test_a_graph_of_torch(tmp_path):
    arrays = random_arrays(VGG)
    onnx_vgg(VGG, arrays).write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="onnx does not tell which input .*--input"):
        weights.load(tmp_path / "a.onnx", VGG)
    loaded = weights.load(tmp_path / "a.onnx", VGG, input="torch")
    assert_agrees(VGG, loaded, arrays, CONVENTIONS["torch"])


def test_a_graph_of_keras(tmp_path):
    """Its matrices read maps of 2x2 pixels in another order."""
    net = dataclasses.replace(VGG, image_size=64)
    arrays = random_arrays(net)
    kernel, bias = arrays["fc6"]
    maps_last = kernel.reshape(-1, 26, 2, 2).transpose(0, 2, 3, 1).reshape(-1, 104)
    onnx_vgg(net, arrays | {"fc6": (maps_last, bias)}, keras=True).write(
        tmp_path / "a.onnx"
    )
    loaded = weights.load(tmp_path / "a.onnx", net, input="caffe")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    assert_agrees(net, loaded, arrays, CONVENTIONS["caffe"], pixels)


def test_normalisation_is_folded(tmp_path):
    """(x - 2) / sqrt(3 + 1e-5)"""
    arrays = random_arrays(VGG)
    onnx_vgg(VGG, arrays, norms=True).write(tmp_path / "a.onnx")
    loaded = weights.load(tmp_path / "a.onnx", VGG, input="rgb")
    factor = 1 / np.sqrt(3 + 1e-5)
    folded = {
        layer: (kernel * factor, (bias - 2) * factor) if kernel.ndim == 4 else pair
        for layer, pair in arrays.items()
        for kernel, bias in [pair]
    }
    assert_agrees(VGG, loaded, folded, CONVENTIONS["rgb"])


@pytest.mark.parametrize(
    ("position", "node", "message"),
    [
        (1, helper.make_node("Tanh", ["n0"], ["n1"]), "operation 2 is tanh, not relu"),
        (
            2,
            helper.make_node(
                "MaxPool", ["n1"], ["n2"], kernel_shape=[3, 3], strides=[2, 2]
            ),
            "operation 3 is pooling 3/2, not pooling 2/2",
        ),
        (1, helper.make_node("Sigmoid", ["n0"], ["n1"]), "the operation Sigmoid"),
        (0, helper.make_node("Conv", ["images", "images"], ["n0"]), "are computed"),
    ],
)
def test_a_graph_of_another_net(position, node, message, tmp_path):
    graph = onnx_vgg(VGG, random_arrays(VGG))
    graph.nodes[position] = node
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=message):
        weights.load(tmp_path / "a.onnx", VGG, input="rgb")


def test_weights_in_another_file_are_not_read(tmp_path):
    graph = onnx_vgg(VGG, random_arrays(VGG))
    tensor = graph.tensors[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="its weights are in another file"):
        weights.load(tmp_path / "a.onnx", VGG, input="rgb")
