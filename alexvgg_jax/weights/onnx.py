"""Weights in ONNX, by the graph: the names of its tensors do not matter.

The convolutions and matrix products on the way from the images to the output are our
layers. All that is between them has to be the same as in our net, and so do strides,
paddings, groups and constants. A batch normalisation is folded into the convolution
before it. ONNX does not tell which input a net expects.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import (
    LRN,
    Conv,
    Dense,
    Layer,
    Pool,
    Shape,
    SlidingDense,
)
from alexvgg_jax.models.operations import windows
from alexvgg_jax.weights.provenance import IMAGENET_MEAN, Provenance
from alexvgg_jax.weights.steps import Step, differences
from alexvgg_jax.weights.stored import Keys, Stored
from alexvgg_jax.weights.torchvision import fold_norm

# Operations that change no activation.
IGNORED = {"Identity", "Dropout", "Squeeze", "Unsqueeze", "Cast"}
FLATTENING = {"Flatten", "Reshape"}  # after the last pooling
ENDS = {"Softmax", "LogSoftmax"}  # after the logits
# The paper's AlexNet is missing: ONNX's normalisation has no groups of maps.
NETS = ("alexnet-owt", "alexnet-caffe", "alexnet-caffenet")
NETS += ("vgg-a", "vgg-b", "vgg-c", "vgg-d", "vgg-e")
STEPS = {
    "Relu": "relu",
    "Tanh": "tanh",
    "MaxPool": "max pooling",
    "LRN": "normalisation",
    "AveragePool": "average pooling",
    "GlobalAveragePool": "average of all pixels",
}
MAPS_FIRST, MAPS_LAST = [0, 1, 2, 3], [0, 2, 3, 1]  # axes of (images, maps, h, w)
DOMAINS = {"", "ai.onnx"}  # of ONNX's own operators
MAX_BYTES = 2**31  # of a file; ONNX's own limit


@dataclass
class _Parts:
    """The weights and the steps of a graph, as far as it was read."""

    left: int  # bytes that arrays may still have: nodes can share one
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    convolutions: int = 0
    matrices: int = 0
    axes: list[int] = field(default_factory=lambda: MAPS_FIRST)  # of activations
    is_flat: bool = False  # their axes are no longer known


def stored(path: Path) -> Stored:
    """The weights of a graph, as `conv 0.weight`, ..., `fc 0.weight`, ..."""
    try:
        import onnx
    except ImportError:
        raise InputError(f"{path}: needs onnx (pip install onnx)") from None
    try:
        if path.stat().st_size >= MAX_BYTES:
            raise ValueError("too large")
        graph = onnx.load_model(str(path), load_external_data=False).graph
        parts = _walk(path, onnx, graph)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a net in ONNX: {first}") from None
    return Stored(
        path=path,
        arrays=parts.arrays,
        keys=keys,
        maps_first=True,
        head=("fc ",),
        convention=None,
        provenance=Provenance(format="onnx", mean=np.array(IMAGENET_MEAN)),
        published=dict.fromkeys(NETS, ""),
        differences=lambda net: differences(parts.steps, net, _departures),
    )


def keys(net: Net) -> Keys:
    """Layer -> keys, by position."""
    convolutions = [x.name for x in net.layers() if isinstance(x, Conv)]
    matrices = [x.name for x in net.layers() if isinstance(x, Dense | SlidingDense)]
    numbered = [("conv", i, name) for i, name in enumerate(convolutions)]
    numbered += [("fc", i, name) for i, name in enumerate(matrices)]
    return {
        name: (f"{kind} {i}.weight", f"{kind} {i}.bias") for kind, i, name in numbered
    }


def _departures(step: Step, layer: Layer, shape: Shape) -> list[str]:
    """How an operation departs from our layer for inputs of `shape`, as phrases."""
    pairs: dict[str, tuple[Any, Any]] = {}
    if isinstance(layer, Conv):
        pairs = _window(step, layer, shape, layer.pad, layer.ceil)
        pairs["groups"] = step.settings.get("group", 1), layer.groups
    elif isinstance(layer, Pool):
        pairs = _window(step, layer, shape)
        pairs["size"] = step.settings["kernel_shape"], [layer.size] * 2
        pairs["padding that counts"] = step.settings.get("count_include_pad", 0), 0
    elif isinstance(layer, LRN):
        alpha = step.settings.get("alpha", 1e-4) / step.settings["size"]
        pairs = {
            "size": (step.settings["size"], layer.size),
            "alpha / size": (alpha, layer.alpha),
            "beta": (step.settings.get("beta", 0.75), layer.beta),
            "k": (step.settings.get("bias", 1.0), layer.k),
            "groups": (1, layer.groups),
        }
    return [
        f"{layer.name} has {name} {_text(theirs)}, not {_text(ours)}"
        for name, (theirs, ours) in pairs.items()
        if not np.allclose(theirs, ours, rtol=1e-5, atol=0)
    ]


def _text(value: float | int | list[int]) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value:.6g}"


def _window(
    step: Step, layer: Conv | Pool, shape: Shape, pad: int = 0, ceil: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Strides, dilations and paddings, each of the graph and of the layer.

    The paddings are at the top, left, bottom and right, and have only pixels that a
    window reads. A negative number means pixels of the image that no window reads.
    """
    settings, size, ends = step.settings, layer.size, []
    strides = settings.get("strides", [1, 1])
    before, after = _pads(settings, shape, size, strides)
    for n, p, q, stride in zip(shape[:2], before, after, strides, strict=True):
        spare = (n + p + q - size) / stride
        steps = math.ceil(spare) if settings.get("ceil_mode") else math.floor(spare)
        ends.append(steps * stride + size - p - n)
    ours = [windows(n, size, layer.stride, pad, ceil)[1] for n in shape[:2]]
    return {
        "strides": (strides, [layer.stride] * 2),
        "dilations": (settings.get("dilations", [1, 1]), [1, 1]),
        "padding": ([*before, *ends], [pad, pad, *ours]),
    }


def _pads(
    settings: dict[str, Any], shape: Shape, size: int, strides: list[int]
) -> tuple[list[int], list[int]]:
    """The padding before and after each axis."""
    auto = settings.get("auto_pad", b"NOTSET")
    if not auto.startswith(b"SAME"):
        pads = settings.get("pads", [0] * 4) if auto == b"NOTSET" else [0] * 4
        return pads[:2], pads[2:]
    sums = [
        max((-(-n // stride) - 1) * stride + size - n, 0)
        for n, stride in zip(shape[:2], strides, strict=True)
    ]
    less, more = [n // 2 for n in sums], [n - n // 2 for n in sums]
    return (less, more) if auto == b"SAME_UPPER" else (more, less)


def _walk(path: Path, onnx: Any, graph: Any) -> _Parts:
    """Follow the images to the output. InputError that names a node."""
    constants, parts = _Constants(onnx, graph), _Parts(2 * path.stat().st_size)
    nodes = _way(graph, constants)
    kinds = [node.op_type for node in nodes]
    pools = [i for i, kind in enumerate(kinds) if kind == "MaxPool"]
    for i, node in enumerate(nodes):
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        is_head = bool(pools) and i > pools[-1]
        is_end = set(kinds[i:]) <= ENDS | IGNORED | FLATTENING
        try:
            if node.domain not in DOMAINS:
                raise ValueError(f"{node.op_type} of {node.domain}")
            if not is_end:
                _read(parts, node, settings, constants, is_head)
        except ValueError as error:
            name = node.name or node.output[0]
            raise InputError(f"{path}: node {name}: {error}") from None
    return parts


def _way(graph: Any, constants: "_Constants") -> list[Any]:
    """The nodes from the images to the output, each the input of the next."""
    if len(graph.output) != 1:
        raise ValueError(f"{len(graph.output)} outputs")
    makers = {node.output[0]: node for node in graph.node if node.input}
    name, nodes = graph.output[0].name, []
    while node := makers.pop(name, None):
        nodes.append(node)
        is_swapped = node.op_type == "Add" and constants.get(node.input[0]) is not None
        name = node.input[int(is_swapped)]
    if name not in {x.name for x in graph.input} - {x.name for x in graph.initializer}:
        raise ValueError(f"its output comes from {name}, not from the images")
    return nodes[::-1]


def _read(
    parts: _Parts, node: Any, settings: Any, constants: "_Constants", is_head: bool
) -> None:
    """Add what a node on the way computes. ValueError for what no net of ours does."""
    kind = node.op_type
    if kind == "Transpose":
        _transpose(parts, settings.get("perm", []))
    elif kind in FLATTENING and not is_head:
        raise ValueError(f"{kind} before the last pooling")
    elif kind in FLATTENING:
        parts.is_flat = True
    elif kind in IGNORED:
        if not constants.is_float(settings.get("to")):
            raise ValueError("Cast to integers")
    elif parts.axes != MAPS_FIRST and kind not in ("Gemm", "MatMul", "Relu", "Tanh"):
        raise ValueError(f"{kind} of transposed maps")
    elif kind in ("Conv", "Gemm", "MatMul"):
        _weights(parts, node, settings, constants, is_head)
    elif kind == "Add" and parts.steps and parts.steps[-1].kind == "matrix product":
        name = f"fc {parts.matrices - 1}.bias"
        parts.arrays[name] = parts.arrays[name] + constants.bias(node)
    elif kind == "BatchNormalization":
        _fold(parts, node, settings, constants)
    elif kind in STEPS:
        # Averages of one pixel: torch's of 7x7 to 7x7, timm's before its last layer
        is_one = settings.get("kernel_shape") == [1, 1] or parts.matrices
        if not ("Average" in kind and is_one):
            parts.steps.append(Step(STEPS[kind], settings))
    else:
        raise ValueError(f"the operation {kind}")


def _transpose(parts: _Parts, axes: list[int]) -> None:
    """Note how the activations lie. ValueError if neither maps nor pixels are first."""
    if not parts.steps and axes == [0, 3, 1, 2]:
        return  # of images with their colours last
    now = [parts.axes[axis] for axis in axes] if sorted(axes) == MAPS_FIRST else []
    if not parts.steps or parts.is_flat or now not in (MAPS_FIRST, MAPS_LAST):
        raise ValueError(f"Transpose to the axes {_text(axes)}")
    parts.axes = now


class _Constants:
    """The tensors of a graph that are not computed from the images."""

    def __init__(self, onnx: Any, graph: Any):
        self._numpy = onnx.numpy_helper
        kinds = onnx.TensorProto
        self._floats = {kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16}
        self._external = kinds.EXTERNAL
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {}
        for node in graph.node:
            if node.domain not in DOMAINS:
                continue
            if node.op_type == "Constant" and node.attribute:
                self._tensors[node.output[0]] = node.attribute[0].t
            elif node.op_type in ("Identity", "Transpose"):
                self._nodes[node.output[0]] = node

    def get(self, name: str) -> np.ndarray | None:
        """The array of that name, or None if it is computed."""
        if node := self._nodes.get(name):
            array = self.get(node.input[0])
            if array is None or node.op_type == "Identity":
                return array
            return array.transpose(*(list(a.ints) for a in node.attribute))
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type not in self._floats:
            return None
        if tensor.data_location == self._external or tensor.external_data:
            raise ValueError("its weights are in another file")
        return self._numpy.to_array(tensor)

    def is_float(self, kind: int | None) -> bool:
        """Whether a type, if there is one, is that of floats."""
        return kind is None or kind in self._floats

    def bias(self, node: Any) -> np.ndarray:
        """What a sum adds. ValueError if that is computed."""
        for array in map(self.get, node.input):
            if array is not None:
                return array.reshape(-1)
        raise ValueError("a sum without a constant")


def _weights(
    parts: _Parts, node: Any, settings: Any, constants: _Constants, is_head: bool
) -> None:
    """Add the kernel and the bias of a convolution or matrix product."""
    kernel = constants.get(node.input[1])
    has_bias = any(node.input[2:])
    bias = constants.get(node.input[2]) if has_bias else np.zeros(0)
    rank = 4 if node.op_type == "Conv" else 2
    if kernel is None or bias is None or kernel.ndim != rank:
        raise ValueError(f"the weights of {node.op_type} are computed")
    parts.left -= kernel.nbytes + bias.nbytes
    if parts.left < 0:
        raise ValueError("its arrays are larger than the file")
    if (
        node.op_type == "MatMul"
        or node.op_type == "Gemm"
        and not settings.get("transB")
    ):
        kernel = kernel.T
    is_padded = settings.get("auto_pad", b"").startswith(b"SAME")
    if is_head and (is_padded or any(settings.get("pads", ()))):
        raise ValueError(f"padding in {node.op_type} after the last pooling")
    if settings.get("transA"):
        raise ValueError("a transposed input of a matrix product")
    if {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}:
        raise ValueError("alpha or beta of a matrix product is not 1")
    if not is_head:
        name = f"conv {parts.convolutions}"
        parts.convolutions += 1
        parts.steps.append(Step("convolution", settings))
    else:
        name = f"fc {parts.matrices}"
        if not parts.matrices and parts.axes == MAPS_LAST:
            kernel, parts.axes = _maps_first(parts, kernel), MAPS_FIRST
        parts.matrices += 1
        parts.steps.append(Step("matrix product", settings))
    parts.arrays[f"{name}.weight"] = kernel
    parts.arrays[f"{name}.bias"] = bias if has_bias else np.zeros(len(kernel))


def _maps_first(parts: _Parts, kernel: np.ndarray) -> np.ndarray:
    """The matrix for maps that are flattened before the pixels, not after them."""
    maps = len(parts.arrays[f"conv {parts.convolutions - 1}.weight"])
    matrix = kernel.reshape(len(kernel), -1, maps)
    return matrix.swapaxes(1, 2).reshape(len(kernel), -1)


def _fold(parts: _Parts, node: Any, settings: Any, constants: _Constants) -> None:
    if not parts.steps or parts.steps[-1].kind != "convolution":
        raise ValueError("BatchNormalization that follows no convolution")
    name = f"conv {parts.convolutions - 1}"
    arrays = map(constants.get, node.input[1:5])
    values = [array for array in arrays if array is not None]
    if len(values) < 4:
        raise ValueError("BatchNormalization that computes its statistics")
    old = parts.arrays[f"{name}.weight"], parts.arrays[f"{name}.bias"]
    epsilon = settings.get("epsilon", 1e-5)
    kernel, bias = fold_norm(old, values, epsilon)
    parts.arrays |= {f"{name}.weight": kernel, f"{name}.bias": bias}
