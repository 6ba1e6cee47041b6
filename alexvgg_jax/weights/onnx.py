"""Weights in ONNX, by the graph: the names of its tensors do not matter.

The convolutions and matrix products are our layers in the order of computation, and
all that is between them has to be the same as in our net. A batch normalisation is
folded into the convolution before it. ONNX does not tell which input a net expects.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import LRN, Activation, Conv, Dense, Pool, SlidingDense
from alexvgg_jax.weights.provenance import IMAGENET_MEAN, Provenance
from alexvgg_jax.weights.stored import Keys, Stored
from alexvgg_jax.weights.torchvision import fold_norm

# Operations that change no activation, or come after the logits. torch's adaptive
# pooling of 7x7 to 7x7 is an average.
IGNORED = {
    *("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"),
    *("Dropout", "Softmax", "LogSoftmax", "Constant", "Shape", "Gather", "Concat"),
    *("Slice", "AveragePool", "GlobalAveragePool"),
}
NETS = ("alexnet-owt", "alexnet-paper", "alexnet-caffe", "alexnet-caffenet")
NETS += ("vgg-a", "vgg-b", "vgg-c", "vgg-d", "vgg-e")
MAPS_LAST = [0, 2, 3, 1]
MAX_BYTES = 2**31  # of a file; ONNX's own limit


@dataclass
class _Found:
    """What a graph computes."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)  # as `_step` names them
    convolutions: int = 0
    matrices: int = 0
    flat_order: list[int] = field(default_factory=list)  # of the last Transpose


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
        found = _walk(path, onnx, graph)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a graph of ONNX: {first}") from None
    return Stored(
        path=path,
        arrays=found.arrays,
        keys=keys,
        maps_first=True,
        head=("fc ",),
        convention=None,
        provenance=Provenance(format="onnx", mean=np.array(IMAGENET_MEAN)),
        published=dict.fromkeys(NETS, ""),
        differences=lambda net: _differences(found.steps, net),
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


def _differences(steps: list[str], net: Net) -> list[str]:
    ours = list(_steps(net))
    for i, (a, b) in enumerate(zip(steps, ours, strict=False)):
        if a != b:
            return [f"operation {i + 1} is {a}, not {b}"]
    return []


def _steps(net: Net) -> Iterator[str]:
    """What a net computes, as `_walk` names it."""
    for layer in net.layers():
        if isinstance(layer, Conv):
            yield f"a convolution of stride {layer.stride}"
        elif isinstance(layer, Dense | SlidingDense):
            yield "a matrix product"
        elif isinstance(layer, Pool) and layer.kind == "max":
            yield f"pooling {layer.size}/{layer.stride}"
        elif isinstance(layer, Activation):
            yield layer.function
        elif isinstance(layer, LRN):
            yield f"normalisation over {layer.size} with k {layer.k:g}"


def _walk(path: Path, onnx: Any, graph: Any) -> _Found:
    """Go through the nodes in the order of computation."""
    constants = _Constants(onnx, graph)
    found = _Found()
    pools = [i for i, node in enumerate(graph.node) if node.op_type == "MaxPool"]
    for i, node in enumerate(graph.node):
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kind = node.op_type
        if kind == "Transpose":
            found.flat_order = list(settings.get("perm", []))
        if kind in ("Conv", "Gemm", "MatMul"):
            is_head = bool(pools) and i > pools[-1]
            _weights(found, node, settings, constants, is_head)
        elif kind == "Add" and found.steps[-1:] == ["a matrix product"]:
            found.arrays[f"fc {found.matrices - 1}.bias"] = constants.bias(node)
        elif kind == "BatchNormalization":
            _fold(path, found, node, settings, constants)
        elif kind in ("Relu", "Tanh"):
            found.steps.append(kind.lower())
        elif kind == "MaxPool":
            stride = settings.get("strides", [1])[0]
            found.steps.append(f"pooling {settings['kernel_shape'][0]}/{stride}")
        elif kind == "LRN":
            k = settings.get("bias", 1.0)
            found.steps.append(f"normalisation over {settings['size']} with k {k:g}")
        elif kind not in IGNORED:
            raise ValueError(f"the operation {kind}")
    return found


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
            if node.op_type == "Constant" and node.attribute:
                self._tensors[node.output[0]] = node.attribute[0].t
            elif node.op_type in ("Identity", "Transpose"):
                self._nodes[node.output[0]] = node

    def get(self, name: str) -> np.ndarray | None:
        """The array of that name, or None if it is computed."""
        transpose = False
        for _ in range(8):  # nodes between the weights and their use
            if (node := self._nodes.get(name)) is None:
                break
            name = node.input[0]
            transpose ^= node.op_type == "Transpose"
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type not in self._floats:
            return None
        if tensor.data_location == self._external or tensor.external_data:
            raise ValueError("its weights are in another file")
        array = self._numpy.to_array(tensor)
        return array.T if transpose and array.ndim == 2 else array

    def bias(self, node: Any) -> np.ndarray:
        """What a sum adds. ValueError if that is computed."""
        for array in map(self.get, node.input):
            if array is not None:
                return array.reshape(-1)
        raise ValueError("a sum without a constant")


def _weights(
    found: _Found, node: Any, settings: Any, constants: _Constants, is_head: bool
) -> None:
    """Add the kernel and the bias of a convolution or matrix product."""
    kernel = constants.get(node.input[1])
    bias = constants.get(node.input[2]) if len(node.input) > 2 else None
    if kernel is None or kernel.ndim != (4 if node.op_type == "Conv" else 2):
        raise ValueError(f"the weights of {node.op_type} are computed")
    if (
        node.op_type == "MatMul"
        or node.op_type == "Gemm"
        and not settings.get("transB")
    ):
        kernel = kernel.T
    if {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}:
        raise ValueError("alpha or beta of a matrix product is not 1")
    if not is_head:
        name = f"conv {found.convolutions}"
        found.convolutions += 1
        stride = settings.get("strides", [1])[0]
        found.steps.append(f"a convolution of stride {stride}")
    else:
        name = f"fc {found.matrices}"
        if not found.matrices and found.flat_order == MAPS_LAST:
            kernel = _maps_first(found, kernel)
        found.matrices += 1
        found.steps.append("a matrix product")
    found.arrays[f"{name}.weight"] = kernel
    found.arrays[f"{name}.bias"] = np.zeros(len(kernel)) if bias is None else bias


def _maps_first(found: _Found, kernel: np.ndarray) -> np.ndarray:
    """The matrix for maps that are flattened before the pixels, not after them."""
    maps = len(found.arrays[f"conv {found.convolutions - 1}.weight"])
    parts = kernel.reshape(len(kernel), -1, maps)
    return parts.swapaxes(1, 2).reshape(len(kernel), -1)


def _fold(
    path: Path, found: _Found, node: Any, settings: Any, constants: _Constants
) -> None:
    if not found.steps or not found.steps[-1].startswith("a convolution"):
        raise ValueError("BatchNormalization that follows no convolution")
    name = f"conv {found.convolutions - 1}"
    arrays = map(constants.get, node.input[1:5])
    values = [array for array in arrays if array is not None]
    if len(values) < 4:
        raise ValueError("BatchNormalization that computes its statistics")
    old = found.arrays[f"{name}.weight"], found.arrays[f"{name}.bias"]
    epsilon = settings.get("epsilon", 1e-5)
    kernel, bias = fold_norm(path, old, values, epsilon)
    found.arrays |= {f"{name}.weight": kernel, f"{name}.bias": bias}
