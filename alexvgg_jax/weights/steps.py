"""What the net of a file computes otherwise than one of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from alexvgg_jax.models import Net
from alexvgg_jax.models.layers import (
    LRN,
    Activation,
    Conv,
    Dense,
    GlobalAverage,
    Layer,
    Pool,
    Shape,
    SlidingDense,
)
from alexvgg_jax.weights.stored import with_inputs


@dataclass(frozen=True)
class Step:
    """One operation of a file's net."""

    kind: str  # as in `kind_of`
    settings: dict[str, Any]


def kind_of(layer: Layer) -> str:
    """The name of a layer's operation, or "" for dropout."""
    if isinstance(layer, Conv):
        return "convolution"
    if isinstance(layer, Dense | SlidingDense):
        return "matrix product"
    if isinstance(layer, Pool):
        return f"{layer.kind} pooling"
    if isinstance(layer, LRN):
        return "normalisation" if layer.over == "maps" else "normalisation over pixels"
    if isinstance(layer, GlobalAverage):
        return "average of all pixels"
    return layer.function if isinstance(layer, Activation) else ""


def differences(
    steps: Sequence[Step],
    net: Net,
    departures: Callable[[Step, Layer, Shape], list[str]],
) -> list[str]:
    """What the steps compute otherwise than a net, as phrases.

    `departures` says how a step departs from a layer of its kind, for inputs of a
    shape.
    """
    layers = [(x, shape) for x, shape in with_inputs(net) if kind_of(x)]
    theirs, ours = [step.kind for step in steps], [kind_of(x) for x, _ in layers]
    phrases: list[str] = []
    # Layers that follow the last operation are no difference: a net may end earlier.
    for _, i, j, k, m in SequenceMatcher(None, theirs, ours, False).get_opcodes():
        names = ", ".join(x.name for x, _ in layers[k:m])
        if theirs[i:j] == ours[k:m]:
            for step, (layer, shape) in zip(steps[i:j], layers[k:m], strict=True):
                try:
                    phrases += departures(step, layer, shape)
                except Exception:  # a damaged file can have any settings
                    phrases.append(f"{layer.name} has settings {step.settings}")
        elif i < j and k < m:
            phrases.append(f"{', '.join(theirs[i:j])} in place of {names}")
        elif i < j:
            before = layers[k - 1][0].name if k else "the images"
            phrases.append(f"{', '.join(theirs[i:j])} after {before}")
        elif m < len(layers):
            phrases.append(f"no {names}")
    return phrases
