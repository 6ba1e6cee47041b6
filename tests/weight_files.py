"""Files of weights of other libraries, written for tests; and a net in numpy."""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import LRN, Activation, Conv, Dense, Pool
from alexvgg_jax.weights.provenance import Convention

Arrays = dict[
    str, tuple[np.ndarray, np.ndarray]
]  # layer -> OIHW kernel or matrix, bias


def random_arrays(net: Net) -> Arrays:
    """Kernels that keep the size of activations, and small biases."""
    rng = np.random.default_rng(0)

    def draw(shape):
        deviation = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return np.float32(deviation) * rng.standard_normal(shape, np.float32)

    return arrays_of(net, draw)


def arrays_of(net: Net, draw: Callable[[tuple[int, ...]], np.ndarray]) -> Arrays:
    """Kernels (outputs, inputs, height, width), matrices (outputs, inputs) for maps
    flattened as (maps, height, width), and biases."""
    arrays = {}
    for name, shapes in net.param_shapes().items():
        kernel, bias = shapes["kernel"].shape, shapes["bias"].shape
        kernel = (*kernel[:1:-1], *kernel[:2]) if len(kernel) == 4 else kernel[::-1]
        arrays[name] = (draw(kernel), draw(bias))
    return arrays


def numpy_logits(net: Net, arrays: Arrays, pixels: np.ndarray, convention: Convention):
    """The logits in float64 of RGB images from 0 to 255, as the other library computes
    them: its input, maps first."""
    x = (pixels - np.array(convention.mean)) / np.array(convention.deviation)
    x = (x[..., ::-1] if convention.reverse else x).transpose(0, 3, 1, 2)
    for layer in net.layers():
        kernel, bias = (
            a.astype(np.float64) for a in arrays.get(layer.name, [np.zeros(0)] * 2)
        )
        if isinstance(layer, Conv):
            x = _convolve(x, kernel, layer) + bias[:, None, None]
        elif isinstance(layer, Dense):
            x = x.reshape(len(x), -1) @ kernel.T + bias
        elif isinstance(layer, Activation):
            x = np.maximum(x, 0)
        elif isinstance(layer, Pool):
            x = _max_pool(x, layer.size, layer.stride)
        elif isinstance(layer, LRN):
            squares = np.pad(x**2, [(0, 0), (2, 2), (0, 0), (0, 0)])
            energy = sum(squares[:, i : i + x.shape[1]] for i in range(5))
            x = x / (layer.k + layer.alpha * energy) ** 0.75
    return x


def _convolve(x, kernel, layer):
    pad, size, stride = layer.pad, layer.size, layer.stride
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    halves = zip(
        np.split(windows, layer.groups, 1), np.split(kernel, layer.groups), strict=True
    )
    return np.concatenate([np.einsum("ncyxij,ocij->noyx", a, b) for a, b in halves], 1)


def _max_pool(x, size, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return windows[:, :, ::stride, ::stride].max((-2, -1))


# The numbers of torchvision's layers in `features` and `classifier`.
TORCH_NUMBERS = {
    "alexnet-owt": ((0, 3, 6, 8, 10), (1, 4, 6)),
    "vgg-a": ((0, 3, 6, 8, 11, 13, 16, 18), (0, 3, 6)),
    "vgg-a bn": ((0, 4, 8, 11, 15, 18, 22, 25), (0, 3, 6)),
    "vgg-d": ((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (0, 3, 6)),
}


def torch_names(name: str) -> list[str]:
    """torchvision's names of the layers."""
    features, classifier = TORCH_NUMBERS[name]
    names = [f"features.{i}" for i in features]
    return names + [f"classifier.{i}" for i in classifier]


def torch_state(model: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """A state dict of torchvision."""
    names = torch_names(model)
    return {
        f"{name}.{part}": array
        for name, pair in zip(names, arrays.values(), strict=True)
        for part, array in zip(("weight", "bias"), pair, strict=True)
    }


# Caffe's protocol buffers


def message(*fields: tuple[int, int | float | str | bytes | list]) -> bytes:
    """Fields as bytes: varints, floats, strings, messages, lists of packed floats."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, list):
        value = struct.pack(f"<{len(value)}f", *value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def blob(array: np.ndarray, legacy: bool) -> bytes:
    """A BlobProto: with four legacy dimensions, or with a shape."""
    data = (5, array.astype("<f4").tobytes())
    if not legacy:
        shape = message((1, b"".join(map(_varint, array.shape))))
        return message(data, (7, shape))
    dims = (1,) * (4 - array.ndim) + array.shape
    return message(*zip((1, 2, 3, 4), dims, strict=True), data)


# Types in generations 0, 1 and 2, the fields of the settings in the latter two, and
# those of each setting in generation 0 and in the others (caffe.proto).
CAFFE_KINDS = {
    "Convolution": (
        ("conv", 4, "Convolution"),
        (10, 106),
        {"pad": (7, 3), "stride": (10, 6), "stride_h": (0, 13), "group": (9, 5)},
    ),
    "Pooling": (
        ("pool", 17, "Pooling"),
        (19, 121),
        {"pool": (11, 1), "size": (8, 2), "stride": (10, 3), "pad": (7, 4)},
    ),
    "LRN": (
        ("lrn", 15, "LRN"),
        (18, 118),
        {"size": (13, 1), "alpha": (14, 2), "region": (0, 4), "k": (22, 5)},
    ),
    "InnerProduct": (
        ("innerproduct", 14, "InnerProduct"),
        (17, 117),
        {"transpose": (0, 6)},
    ),
    "ReLU": (("relu", 18, "ReLU"), (30, 123), {"slope": (0, 1)}),
    "Sigmoid": (("sigmoid", 19, "Sigmoid"), (38, 124), {}),
    "Dropout": (("dropout", 6, "Dropout"), (12, 108), {}),
    "Data": (
        ("data", 5, "Data"),
        (36, 100),
        {"scale": (0, 1), "mean_file": (0, 4), "mean_value": (0, 5)},
    ),
    "old data": (
        ("data", 12, "ImageData"),
        (15, 115),
        {"old_scale": (17, 2), "old_mean_file": (18, 3)},
    ),
    "Softmax": (("softmax", 20, "Softmax"), (39, 125), {}),
    "padding": (("padding", 0, ""), (0, 0), {"pad": (7, 0)}),
    "": ((0, 0, 0), (0, 0), {}),
}
Setting = float | str | tuple[float, ...]
Definition = dict[str, tuple[str, dict[str, Setting]]]  # layer -> kind and settings


def caffe_definition(net: Net) -> Definition:
    """The layers of a net as Caffe states them, without its defaults, with its data and
    its softmax."""
    layers: Definition = {"data": ("Data", {})}
    for layer in net.layers():
        kind, settings = "Dropout", {}
        if isinstance(layer, Conv):
            settings = {"pad": layer.pad, "stride": layer.stride, "group": layer.groups}
            settings = {k: n for k, n in settings.items() if n != int(k != "pad")}
            kind = "Convolution"
        elif isinstance(layer, Pool):
            kind, settings = "Pooling", {"size": layer.size, "stride": layer.stride}
        elif isinstance(layer, LRN):
            kind = "LRN"
            settings = {"size": layer.size, "alpha": float(layer.alpha * layer.size)}
        elif isinstance(layer, Dense):
            kind = "InnerProduct"
        elif isinstance(layer, Activation):
            kind = "ReLU"
        layers[layer.name] = kind, settings
    return layers | {"prob": ("Softmax", {})}


def caffemodel(
    arrays: Arrays,
    layers: Iterable[str],
    generation: int,
    definition: Definition | None = None,
) -> bytes:
    """A net of generation 0, 1 or 2: only names and weights, or each layer with its
    definition. Generation 0 has a layer for the padding before a convolution."""
    fields, x = [], "images"
    for name in layers:
        kind, settings = (definition or {}).get(name, ("", {}))
        if generation == 0 and kind == "Convolution" and "pad" in settings:
            pad, settings = {"pad": settings["pad"]}, settings | {"pad": 0}
            top = f"padded {name}"
            fields.append(_caffe_layer(top, "padding", pad, [], 0, [x, top]))
            x = top
        top = x if kind in ("ReLU", "Dropout") else name  # in place
        wires = [x, top] if kind else []
        blobs = arrays.get(name, ())
        fields.append(_caffe_layer(name, kind, settings, blobs, generation, wires))
        x = top
    return message((1, "net"), *fields)


def _caffe_layer(
    name: str,
    kind: str,
    settings: Mapping[str, Setting],
    arrays: Iterable[np.ndarray],
    generation: int,
    wires: Sequence[str],
) -> tuple[int, bytes]:
    types, messages, numbers = CAFFE_KINDS[kind]
    stated = [
        (numbers[key][generation > 0], n)
        for key, value in settings.items()
        for n in (value if isinstance(value, tuple) else (value,))
    ]
    if generation and stated:
        stated = [(messages[generation - 1], message(*stated))]
    blobs = [blob(array, legacy=generation < 2) for array in arrays]
    field = {0: 50, 1: 6, 2: 7}[generation]
    number, type = {0: (1, 2), 1: (4, 5), 2: (1, 2)}[generation]
    typed = [(type, types[generation])] if kind else []
    layer = [(number, name), *typed, *((field, b) for b in blobs), *stated]
    bottom, top = (3, 4) if generation == 2 else (2, 3)
    ends = [*zip((bottom, top), wires, strict=False)]
    if generation == 0:
        return 2, message((1, message(*layer)), *ends)
    return (100 if generation == 2 else 2), message(*layer, *ends)


# Keras' HDF5

KERAS_NAMES = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}


def keras_layers(net: Net, arrays: Arrays) -> Mapping[str, tuple[np.ndarray, ...]]:
    """Keras' layers: HWIO, (inputs, outputs), maps flattened last."""
    layers = {}
    height, width, maps = net.shapes()["pool5"]
    for name, (kernel, bias) in arrays.items():
        if kernel.ndim == 4:
            block, number = name[4:].split("_")
            name, kernel = f"block{block}_conv{number}", kernel.transpose(2, 3, 1, 0)
        elif name == "fc6":
            parts = kernel.reshape(-1, maps, height, width).transpose(2, 3, 1, 0)
            kernel = parts.reshape(-1, len(bias))
        else:
            kernel = kernel.T
        layers[KERAS_NAMES.get(name, name)] = (kernel, bias)
    return layers


def write_keras(path: Path, layers: Mapping[str, tuple[np.ndarray, ...]], form: str):
    """A file of Keras in one of its four forms."""
    import h5py

    patterns = {
        "1": ("{0}/{0}_W_1:0", "{0}/{0}_b_1:0"),
        "2": ("{0}/{0}/kernel:0", "{0}/{0}/bias:0"),
        "model": ("model_weights/{0}/{0}/kernel", "model_weights/{0}/{0}/bias"),
        "3": ("layers/{1}/vars/0", "layers/{1}/vars/1"),
    }
    count = Counter[str]()
    with h5py.File(path, "w") as file:
        for name, arrays in layers.items():
            kind = "conv2d" if arrays[0].ndim == 4 else "dense"
            numbered = f"{kind}_{count[kind]}" if count[kind] else kind
            count[kind] += 1
            for pattern, array in zip(patterns[form], arrays, strict=True):
                file[pattern.format(name, numbered)] = array
            if form == "3":
                file[f"layers/{numbered}/vars"].attrs["name"] = name
        file["optimizer_weights/adam/rate"] = np.float32(1)
        file.create_group("flatten")


# ONNX


class OnnxGraph:
    """Nodes in a row, with tensors that are called t1, t2, ..."""

    def __init__(self):
        self.nodes, self.tensors, self.x = [], [], "images"

    def tensor(self, array: np.ndarray) -> str:
        name = f"t{len(self.tensors) + len(self.nodes)}"
        array = np.asarray(array, np.float32)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *arrays: np.ndarray, **settings) -> None:
        inputs = [self.x, *map(self.tensor, arrays)]
        self.x = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.x], **settings))

    def write(self, path: Path) -> None:
        float32 = onnx.TensorProto.FLOAT
        images = helper.make_tensor_value_info("images", float32, None)
        output = helper.make_tensor_value_info(self.x, float32, None)
        graph = helper.make_graph(self.nodes, "g", [images], [output], self.tensors)
        onnx.save(helper.make_model(graph), path)


def onnx_graph(
    net: Net, arrays: Arrays, *, keras: bool = False, norms: bool = False
) -> OnnxGraph:
    """A net: as torch exports it, or as Keras does (matrix products and sums, and maps
    flattened last)."""
    graph = OnnxGraph()
    for layer in net.layers():
        if isinstance(layer, Conv):
            strides, pads = [layer.stride] * 2, [layer.pad] * 4
            settings = {"strides": strides, "pads": pads, "group": layer.groups}
            graph.add("Conv", *arrays[layer.name], **settings)
            if norms:
                ones = np.ones(layer.features)
                graph.add("BatchNormalization", ones, 0 * ones, 2 * ones, 3 * ones)
        elif isinstance(layer, Activation):
            graph.add("Relu")
        elif isinstance(layer, LRN):  # ONNX divides alpha by the size
            alpha, size = layer.alpha * layer.size, layer.size
            graph.add("LRN", alpha=alpha, beta=layer.beta, bias=layer.k, size=size)
        elif isinstance(layer, Pool):
            size, stride = [layer.size] * 2, [layer.stride] * 2
            graph.add("MaxPool", kernel_shape=size, strides=stride)
        elif isinstance(layer, Dense):
            kernel, bias = arrays[layer.name]
            if layer.name == "fc6":
                if keras:
                    graph.add("Transpose", perm=[0, 2, 3, 1])
                graph.add("Flatten")
            if keras:
                graph.add("MatMul", kernel.T)
                graph.add("Add", bias)
            else:
                graph.add("Gemm", kernel, bias, transB=1)
    graph.add("Softmax")
    return graph
