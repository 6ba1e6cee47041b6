"""Models as pure functions: `build` one of MODELS, then `init` and `apply` it.

net = build("alexnet-paper", classes=1000)
params = net.init(jax.random.key(0))
logits, features = net.apply(params, images, train=False)
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from alexvgg_jax.errors import InputError
from alexvgg_jax.models import alexnet, cifar, vgg
from alexvgg_jax.models.net import Compute, Features, Net, Params

__all__ = ["MODELS", "Compute", "Features", "Net", "Params", "build", "usual"]

MODELS: dict[str, Net] = {**alexnet.VARIANTS, **vgg.VARIANTS, **cifar.VARIANTS}

USUAL_NAMES = {
    "alexnet": "alexnet-paper",
    "vgg11": "vgg-a",
    "vgg13": "vgg-b",
    "vgg16": "vgg-d",
    "vgg19": "vgg-e",
}


def build(name: str, /, **switches: Any) -> Net:
    """The network of that name in MODELS; keywords replace its switches.

    With `remat=True` the backward pass computes the activations between two pooling
    layers again instead of keeping them: the same numbers, less memory, more time. With
    `compute="bfloat16"` convolutions and fully-connected layers multiply in bfloat16;
    normalisation, averages, the loss and the parameters stay float32. How float32
    multiplies is set by `jax_default_matmul_precision`: by default in bfloat16 on TPUs,
    and in TF32 on GPUs that have it.

    Raises InputError for an unknown name or switch, a value of the wrong type, and an
    image that is too small.
    """
    if name not in MODELS:
        hint = usual(name) or _closest(f"{name}".lower(), MODELS)
        raise InputError(f"unknown model {name!r}; {hint}")
    net = MODELS[name]
    known = [field.name for field in dataclasses.fields(net)]
    for switch in switches:
        if switch not in known:
            hint = _closest(switch, known)
            raise InputError(f"{name}: unknown switch {switch!r}; {hint}")
    net = dataclasses.replace(net, **switches)
    net.shapes()  # raises if the image is too small
    return net


def usual(name: object) -> str:
    """What a net of another library is called here, or "" for other names."""
    plain = str(name).lower().replace("-", "").replace("_", "")
    if not (ours := USUAL_NAMES.get(plain.removesuffix("bn"))):
        return ""
    norm = "; `convert` folds its batch normalisation in"
    return f"here it is {ours!r}{norm if plain.endswith('bn') else ''}"


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"perhaps {close[0]!r}?" if close else f"choose from {', '.join(known)}"
