"""Graphs of ONNX, whatever their tensors are called."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper
from test_weights import VGG, assert_agrees
from weight_files import OnnxGraph, onnx_graph, random_arrays

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import build
from alexvgg_jax.weights.provenance import CONVENTIONS

ALEXNET = build("alexnet-caffe", width=0.05, classes=5, image_size=67)


def test_a_graph_of_torch(tmp_path):
    arrays = random_arrays(VGG)
    onnx_graph(VGG, arrays).write(tmp_path / "a.onnx")
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
    onnx_graph(net, arrays | {"fc6": (maps_last, bias)}, keras=True).write(
        tmp_path / "a.onnx"
    )
    loaded = weights.load(tmp_path / "a.onnx", net, input="caffe")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    assert_agrees(net, loaded, arrays, CONVENTIONS["caffe"], pixels)


def test_normalisation_is_folded(tmp_path):
    """(x - 2) / sqrt(3 + 1e-5)"""
    arrays = random_arrays(VGG)
    onnx_graph(VGG, arrays, norms=True).write(tmp_path / "a.onnx")
    loaded = weights.load(tmp_path / "a.onnx", VGG, input="rgb")
    factor = 1 / np.sqrt(3 + 1e-5)
    folded = {
        layer: (kernel * factor, (bias - 2) * factor) if kernel.ndim == 4 else pair
        for layer, pair in arrays.items()
        for kernel, bias in [pair]
    }
    assert_agrees(VGG, loaded, folded, CONVENTIONS["rgb"])


def test_a_graph_of_alexnet(tmp_path):
    """Groups, strides and response normalisation."""
    arrays = random_arrays(ALEXNET)
    onnx_graph(ALEXNET, arrays).write(tmp_path / "a.onnx")
    loaded = weights.load(tmp_path / "a.onnx", ALEXNET, input="caffe")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 67, 67, 3)).astype(np.uint8)
    assert_agrees(ALEXNET, loaded, arrays, CONVENTIONS["caffe"], pixels)


def changed(graph, changes) -> None:
    """Give nodes other settings, or put other nodes in their place."""
    layers = [x.name for x in ALEXNET.layers() if not x.name.startswith("drop")]
    layers.insert(layers.index("fc6"), "flatten")
    for layer, change in changes.items():
        old = graph.nodes[position := layers.index(layer)]
        settings = {a.name: helper.get_attribute_value(a) for a in old.attribute}
        kind, new = (change, {}) if isinstance(change, str) else (old.op_type, change)
        settings = {} if isinstance(change, str) else settings
        graph.nodes[position] = helper.make_node(
            kind, old.input, old.output, **settings | new
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv2": {"pads": [1] * 4}}, "conv2 has padding 1 1 1 1, not 2 2 2 2"),
        ({"conv2": {"pads": [2, 2, 2, 1]}}, "conv2 has padding 2 2 2 1, not 2 2 2 2"),
        ({"conv3": {"auto_pad": "VALID"}}, "conv3 has padding 0 0 0 0, not 1 1 1 1"),
        ({"conv1": {"auto_pad": "SAME_UPPER"}}, "conv1 has padding 4 4 4 4, not 0 0"),
        ({"conv1": {"strides": [4, 2]}}, "conv1 has strides 4 2, not 4 4"),
        ({"conv2": {"group": 1}}, "conv2 has groups 1, not 2"),
        ({"conv4": {"dilations": [2, 2]}}, "conv4 has dilations 2 2, not 1 1"),
        ({"pool2": {"kernel_shape": [3, 2]}}, "pool2 has size 3 2, not 3 3"),
        ({"pool2": {"strides": [1, 1]}}, "pool2 has strides 1 1, not 2 2"),
        ({"pool2": {"pads": [1] * 4}}, "pool2 has padding 1 1 1 1, not 0 0 0 0"),
        ({"norm1": {"alpha": 2e-5}}, "norm1 has alpha / size 4e-06, not 2e-05"),
        ({"norm1": {"beta": 0.5}}, "norm1 has beta 0.5, not 0.75"),
        ({"norm1": {"bias": 2.0}}, "norm1 has k 2, not 1"),
        ({"relu3": "Identity"}, "no relu3"),
        ({"relu3": "Tanh"}, "tanh in place of relu3"),
        ({"relu7": "Identity"}, "no relu7"),
        ({"flatten": "GlobalAveragePool"}, "average of all pixels after pool5"),
        ({"flatten": "Relu"}, "relu after pool5"),
        ({"relu1": "LRN", "norm1": "Relu"}, "no relu1; .*relu after norm1"),
        ({"relu3": "Sigmoid"}, "the operation Sigmoid"),
        ({"conv1": {"strides": [0, 0]}}, "conv1 has settings {.*'strides': "),
        (
            {"conv1": {"strides": [2, 2]}, "relu4": "Tanh", "norm2": {"alpha": 1.0}},
            "AlexNet: conv1 has strides .*; norm2 has alpha .*; tanh in place of relu4",
        ),
    ],
    ids=str,
)
def test_a_graph_of_another_net(changes, message, tmp_path):
    graph = onnx_graph(ALEXNET, random_arrays(ALEXNET))
    changed(graph, changes)
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=message):
        weights.load(tmp_path / "a.onnx", ALEXNET, input="rgb")


@pytest.mark.parametrize(
    "changes",
    [
        {"conv3": {"auto_pad": "SAME_UPPER"}},
        {"conv3": {"auto_pad": "SAME_LOWER"}},
        {"pool1": {"auto_pad": "VALID"}},
        {"pool1": {"pads": [0, 0, 1, 1]}},  # which no window reads
        {"pool1": {"ceil_mode": 1}},
        {"fc6": {"alpha": 1.0}},
    ],
    ids=str,
)
def test_settings_that_mean_the_same(changes, tmp_path):
    graph = onnx_graph(ALEXNET, random_arrays(ALEXNET))
    changed(graph, changes)
    graph.write(tmp_path / "a.onnx")
    assert weights.load(tmp_path / "a.onnx", ALEXNET, input="rgb")


def rewired(graph, layer: str, kind: str, *others: str, **settings) -> None:
    """Put a node between the one that computes `layer` and the one before it."""
    layers = [x.name for x in ALEXNET.layers() if not x.name.startswith("drop")]
    layers.insert(layers.index("fc6"), "flatten")
    node = graph.nodes[position := layers.index(layer)]
    inputs = [node.input[0], *others]
    new = helper.make_node(kind, inputs, [f"new {kind}"], name="new node", **settings)
    graph.nodes.insert(position, new)
    node.input[0] = new.output[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("flatten", "Transpose", {"perm": [0, 1, 3, 2]}), "Transpose to .* 0 1 3 2"),
        (("conv2", "Transpose", {"perm": [0, 1, 3, 2]}), "Transpose to .* 0 1 3 2"),
        (("conv1", "Transpose", {"perm": [0, 2, 3, 1]}), "Transpose to .* 0 2 3 1"),
        (("fc6", "Transpose", {"perm": [0, 2, 3, 1]}), "Transpose to .* 0 2 3 1"),
        (("conv1", "Gather", "t0", {"axis": 1}), "the operation Gather"),
        (("conv4", "Slice", "t0", "t0", {}), "the operation Slice"),
        (("conv4", "Concat", "n9", {"axis": 1}), "the operation Concat"),
        (("conv4", "Reshape", "t0", {}), "Reshape before the last pooling"),
        (("conv4", "Softmax", {}), "the operation Softmax"),
        (("conv4", "Add", "n9", {}), "the operation Add"),
        (("fc6", "Cast", {"to": onnx.TensorProto.INT8}), "Cast to integers"),
        (("conv4", "Relu", {"domain": "com.example"}), "Relu of com.example"),
        (("conv4", "Identity", {"domain": "com.example"}), "Identity of com.example"),
    ],
    ids=str,
)
def test_nodes_that_change_the_data(change, message, tmp_path):
    graph = onnx_graph(ALEXNET, random_arrays(ALEXNET))
    *names, settings = change
    rewired(graph, *names, **settings)
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=f"a.onnx: node new node: {message}"):
        weights.load(tmp_path / "a.onnx", ALEXNET, input="rgb")


def test_the_graph_is_followed_by_its_wires(tmp_path):
    """conv4 reads conv3: relu3 is in the list of nodes only. What is off the way, such
    as the target of a Reshape, does not matter."""
    graph, file = onnx_graph(ALEXNET, random_arrays(ALEXNET)), tmp_path / "a.onnx"
    rewired(graph, "fc6", "Reshape", "shape")
    rewired(graph, "conv1", "Transpose", perm=[0, 3, 1, 2])  # images as in TensorFlow
    for kind, output in (("Shape", "shape"), ("Tanh", "a"), ("MaxPool", "b")):
        graph.nodes.append(helper.make_node(kind, ["n0"], [output]))
    graph.write(file)
    assert weights.load(file, ALEXNET, input="rgb")
    relu = next(n for n in graph.nodes if n.op_type == "Relu" and n.input[0] == "n8")
    conv = next(n for n in graph.nodes if relu.output[0] in n.input)
    conv.input[0] = relu.input[0]
    graph.write(file)
    with pytest.raises(InputError, match="not weights of this AlexNet: no relu3$"):
        weights.load(file, ALEXNET, input="rgb")
    conv.input[0] = "t0"
    graph.write(file)
    with pytest.raises(InputError, match="its output comes from t0, not from the im"):
        weights.load(file, ALEXNET, input="rgb")


def test_kernels_that_nodes_share(tmp_path):
    """A small file would need much memory: each node has a copy."""
    graph = OnnxGraph()
    graph.add("Conv", np.ones((100, 100, 3, 3)), np.ones(100))
    (first,) = graph.nodes
    for i in range(3):
        inputs, graph.x = [graph.x, *first.input[1:]], f"more {i}"
        graph.nodes.append(helper.make_node("Conv", inputs, [graph.x]))
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="a.onnx: .* arrays are larger than the file"):
        weights.load(tmp_path / "a.onnx", VGG, input="torch")


def test_kernels_that_are_transposed(tmp_path):
    """HWIO, as in TensorFlow."""
    arrays = random_arrays(VGG)
    graph = onnx_graph(VGG, arrays)
    kernel = graph.tensor(arrays["conv1_1"][0].transpose(2, 3, 1, 0))
    oihw = helper.make_node("Transpose", [kernel], ["oihw"], perm=[3, 2, 0, 1])
    graph.nodes.insert(0, oihw)
    graph.nodes[1].input[1] = "oihw"
    graph.write(tmp_path / "a.onnx")
    loaded = weights.load(tmp_path / "a.onnx", VGG, input="torch")
    assert_agrees(VGG, loaded, arrays, CONVENTIONS["torch"])


def test_a_graph_with_a_sum_after_a_bias(tmp_path):
    arrays = random_arrays(VGG)
    graph = onnx_graph(VGG, arrays)
    graph.nodes.pop()  # Softmax
    graph.x = graph.nodes[-1].output[0]
    graph.add("Add", np.ones(5))
    graph.write(tmp_path / "a.onnx")
    loaded = weights.load(tmp_path / "a.onnx", VGG, input="torch")
    kernel, bias = arrays["fc8"]
    arrays = arrays | {"fc8": (kernel, bias + 1)}
    assert_agrees(VGG, loaded, arrays, CONVENTIONS["torch"])


def test_normalisation_within_towers_is_not_in_a_graph(tmp_path):
    onnx_graph(ALEXNET, random_arrays(ALEXNET)).write(tmp_path / "a.onnx")
    paper = dataclasses.replace(ALEXNET, lrn_across_towers=False)
    with pytest.raises(InputError, match="norm1 has groups 1, not 2; norm2 has groups"):
        weights.load(tmp_path / "a.onnx", paper, input="rgb")


def test_weights_that_are_computed(tmp_path):
    graph = onnx_graph(VGG, random_arrays(VGG))
    graph.nodes[0] = helper.make_node("Conv", ["images", "images"], ["n0"])
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="the weights of Conv are computed"):
        weights.load(tmp_path / "a.onnx", VGG, input="rgb")


def test_weights_in_another_file_are_not_read(tmp_path):
    graph = onnx_graph(VGG, random_arrays(VGG))
    tensor = graph.tensors[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    graph.write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="its weights are in another file"):
        weights.load(tmp_path / "a.onnx", VGG, input="rgb")
