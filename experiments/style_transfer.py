"""Paint a photograph in the style of another picture (Gatys et al. 2016).

The image starts as the photograph. L-BFGS changes its pixels: the features of relu4_2
shall stay those of the photograph, and the Gram matrices of five layers become those of
the other picture. As in the paper, pooling takes averages, and features are scaled to a
mean of 1. Here that is each layer's mean over the picture that sets the target.

    python experiments/style_transfer.py photo.jpg painting.jpg --weights FILE

FILE has the trained convolutions of VGG-16 (`--net vgg-e`: VGG-19). 200 steps at 256
pixels take four minutes on two CPU cores.
"""

import functools
import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from rich.progress import track

from alexvgg_jax.data.decode import decode, read_file
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.files import write_bytes
from alexvgg_jax.models import Features, Net, Params, build
from alexvgg_jax.models.layers import Conv, Pooling
from alexvgg_jax.perceptual import (
    CONTENT,
    STYLE,
    Grams,
    content_distance,
    features,
    grams,
    style_distance,
)
from alexvgg_jax.step import compiler_options

Picture = Float[Array, "1 height width 3"]  # RGB, 0 to 255


@dataclass(frozen=True)
class Options:
    photo: tyro.conf.Positional[Path]  # its content; the square in its centre is used
    painting: tyro.conf.Positional[Path]  # its style
    weights: Path | None = None  # safetensors with torchvision's names
    net: Literal["vgg-d", "vgg-e"] = "vgg-d"
    pool: Pooling = "average"
    size: int = 256  # pixels a side
    steps: int = 200  # of L-BFGS
    style: float = 1.0  # the weight of style; that of content is 1
    out: Path = Path("results/style_transfer.png")


class Painted(NamedTuple):
    image: Picture
    loss: float


class Targets(NamedTuple):
    content: Features
    style: Grams
    scale: dict[str, Array]  # layer -> the mean of its features


def targets(net: Net, params: Params, photo: Picture, painting: Picture) -> Targets:
    """Return what the image's features are compared with."""
    content, style = (
        features(net, params, picture, layers, range=(0, 255))
        for picture, layers in ((photo, CONTENT), (painting, STYLE))
    )
    scale = {layer: x.mean() for layer, x in (content | style).items()}
    return Targets(_scaled(content, scale), grams(_scaled(style, scale)), scale)


def _scaled(found: Features, scale: dict[str, Array]) -> Features:
    return {layer: x / scale[layer] for layer, x in found.items()}


def paint(
    net: Net,
    params: Params,
    photo: Picture,
    painting: Picture,
    steps: int,
    style: float,
) -> Iterator[Painted]:
    """Yield the image after each step.

    A step that would raise the loss is halved, up to ten times. If that fails, L-BFGS
    forgets what it knows of the curvature.
    """

    @functools.partial(jax.jit, compiler_options=compiler_options())
    @jax.value_and_grad
    def loss(image, params, goal):
        found = features(net, params, image, CONTENT + STYLE, range=(0, 255))
        found = _scaled(found, goal.scale)
        content = content_distance({k: found[k] for k in CONTENT}, goal.content)
        styles = grams({layer: found[layer] for layer in STYLE})
        return (content + style * style_distance(styles, goal.style)).sum()

    goal = jax.jit(functools.partial(targets, net))(params, photo, painting)
    lbfgs = optax.scale_by_lbfgs()
    direction = jax.jit(lbfgs.update)
    image, state = photo, lbfgs.init(photo)
    value, slope = loss(image, params, goal)
    for _ in range(steps):
        change, state = direction(slope, state, image)
        for halvings in range(11):
            moved = image - change / 2**halvings
            moved_value, moved_slope = loss(moved, params, goal)
            if moved_value < value:
                image, value, slope = moved, moved_value, moved_slope
                break
        else:
            state = lbfgs.init(image)
        yield Painted(image, float(value))


def read_picture(path: Path, size: int) -> Picture:
    """Return the square in the centre of a picture."""
    pixels = decode(read_file(path), str(path), size)
    return jnp.asarray(pixels, jnp.float32)[None]


def read_weights(path: Path, net: Net) -> Params:
    """Return the convolutions in a safetensors file with torchvision's names."""
    content = read_file(path)
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:start])
        kinds = {"F32": np.float32, "F16": np.float16}

        def read(name: str) -> Array:
            entry = entries[name]
            at = start + entry["data_offsets"][0]
            shape, kind = entry["shape"], kinds[entry["dtype"]]
            array = np.frombuffer(content, kind, math.prod(shape), at).reshape(shape)
            return jnp.asarray(array.astype(np.float32))

        names = [n for n in entries if n.startswith("features.") and "weight" in n]
        names.sort(key=lambda name: int(name.split(".")[1]))
        layers = [layer for layer in net.layers() if isinstance(layer, Conv)]
        return {
            layer.name: {
                "kernel": read(name).transpose(2, 3, 1, 0),
                "bias": read(name.replace("weight", "bias")),
            }
            for layer, name in zip(layers, names, strict=True)
        }
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: no safetensors of this VGG: {error}") from None


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.weights is None:
        raise InputError(
            "--weights FILE: fetch model.safetensors of timm/vgg16.tv_in1k from the "
            "Hugging Face Hub (528 MB)"
        )
    if options.steps < 1:
        raise InputError(f"--steps {options.steps}: at least 1")
    if options.out.suffix != ".png":
        raise InputError(f"--out {options.out}: the picture is a .png")
    net = build(options.net, pool=options.pool)
    params = read_weights(options.weights, net)
    photo, painting = (
        read_picture(path, options.size) for path in (options.photo, options.painting)
    )
    steps = paint(net, params, photo, painting, options.steps, options.style)
    (painted,) = deque(track(steps, "painting", options.steps), maxlen=1)
    pixels = np.asarray(painted.image[0]).clip(0, 255).round().astype(np.uint8)
    _, png = cv2.imencode(".png", pixels[..., ::-1])
    write_bytes(png.tobytes(), options.out)
    print(f"{options.out}: loss {painted.loss:.4g}")


if __name__ == "__main__":
    with one_line():
        main()
