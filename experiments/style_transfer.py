"""Paint a photograph in the style of another picture (Gatys et al. 2016).

The image starts as the photograph. L-BFGS changes its pixels: the features of relu4_2
shall stay those of the photograph, and the Gram matrices of five layers become those of
the other picture. As in the paper, pooling takes averages, and features are scaled to a
mean of 1. Here that is each layer's mean over the picture that sets the target.

    python experiments/style_transfer.py photo.jpg painting.jpg --weights vgg16.pth

`--weights` takes what `weights.load` takes: a file of torchvision, Keras, Caffe or
ONNX, or `timm/vgg16.tv_in1k`, which is downloaded once (528 MB). Any VGG will do, also
one without its fully-connected layers. Without pictures, it uses two of scikit-learn's.
"""

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from rich.progress import track
from sklearn.datasets import load_sample_image

from alexvgg_jax import weights
from alexvgg_jax.data.decode import decode, fit, read_file
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.files import write_bytes
from alexvgg_jax.models import Features, Net, Params
from alexvgg_jax.models.layers import Pooling
from alexvgg_jax.models.vgg import VGG
from alexvgg_jax.perceptual import (
    CONTENT,
    STYLE,
    Grams,
    Mean,
    content_distance,
    features,
    grams,
    style_distance,
)
from alexvgg_jax.step import compiler_options
from alexvgg_jax.weights import Input

Picture = Float[Array, "1 height width 3"]  # RGB, 0 to 255


@dataclass(frozen=True)
class Options:
    # The content: the square in the picture's centre. By default china.jpg.
    photo: tyro.conf.Positional[Path | None] = None
    # The style: the square in the picture's centre. By default flower.jpg.
    painting: tyro.conf.Positional[Path | None] = None
    weights: str = ""  # of a VGG: a file, or timm/vgg16.tv_in1k of the Hugging Face Hub
    input: Input | None = None  # that the file's net takes, if its format does not tell
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


def targets(
    net: Net, params: Params, mean: Mean, photo: Picture, painting: Picture
) -> Targets:
    """What the image's features are compared with."""
    content, style = (
        features(net, params, picture, layers, range=(0, 255), mean=mean)
        for picture, layers in ((photo, CONTENT), (painting, STYLE))
    )
    scale = {layer: x.mean() for layer, x in (content | style).items()}
    return Targets(_scaled(content, scale), grams(_scaled(style, scale)), scale)


def _scaled(features: Features, scale: dict[str, Array]) -> Features:
    return {layer: x / scale[layer] for layer, x in features.items()}


def paint(
    net: Net,
    params: Params,
    mean: Mean,
    photo: Picture,
    painting: Picture,
    steps: int,
    style: float,
) -> Iterator[Painted]:
    """The image after each step; `mean` is the colour that the weights expect.

    A step that would raise the loss is halved, up to ten times. If that fails, L-BFGS
    forgets what it knows of the curvature. Steps without curvature follow the gradient
    by one level of the pixels, root mean square: those of optax are smaller than
    float32 can add to a pixel.
    """

    @functools.partial(jax.jit, compiler_options=compiler_options())
    @jax.value_and_grad
    def loss(image, params, goal):
        layers = CONTENT + STYLE
        maps = features(net, params, image, layers, range=(0, 255), mean=mean)
        maps = _scaled(maps, goal.scale)
        content = content_distance({k: maps[k] for k in CONTENT}, goal.content)
        styles = grams({layer: maps[layer] for layer in STYLE})
        return (content + style * style_distance(styles, goal.style)).sum()

    goal = jax.jit(targets, static_argnums=0)(net, params, mean, photo, painting)
    lbfgs = optax.scale_by_lbfgs()
    direction = jax.jit(lbfgs.update)
    image, state, first = photo, lbfgs.init(photo), True
    value, slope = loss(image, params, goal)
    for _ in range(steps):
        change, state = direction(slope, state, image)
        if first:
            change, first = slope / jnp.sqrt(jnp.square(slope).mean()), False
        for halvings in range(11):
            moved = image - change / 2**halvings
            moved_value, moved_slope = loss(moved, params, goal)
            if moved_value < value:
                image, value, slope = moved, moved_value, moved_slope
                break
        else:
            state, first = lbfgs.init(image), True
        yield Painted(image, float(value))


def read_picture(path: Path | None, default: str, size: int) -> Picture:
    """The square in the centre of a picture, or of a photograph of scikit-learn."""
    if path is None:
        pixels = fit(load_sample_image(default), size)
    else:
        pixels = decode(read_file(path), str(path), size)
    return jnp.asarray(pixels, jnp.float32)[None]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not options.weights:
        raise InputError(
            "--weights FILE: a file with a trained VGG, or timm/vgg16.tv_in1k to "
            "download it (528 MB)"
        )
    if options.steps < 1:
        raise InputError(f"--steps {options.steps}: at least 1")
    if options.size < 32:
        raise InputError(f"--size {options.size}: at least 32")
    if options.out.suffix != ".png":
        raise InputError(f"--out {options.out}: the picture is a .png")
    photo = read_picture(options.photo, "china.jpg", options.size)
    painting = read_picture(options.painting, "flower.jpg", options.size)
    net, params, provenance = weights.load_net(options.weights, input=options.input)
    if not isinstance(net, VGG):
        raise InputError(f"{options.weights}: not of a VGG")
    net = replace(net, pool=options.pool)
    mean = provenance.mean.reshape(-1, 3).mean(axis=0)  # that of a run is an image
    steps = paint(net, params, mean, photo, painting, options.steps, options.style)
    (painted,) = deque(track(steps, "painting", options.steps), maxlen=1)
    pixels = np.asarray(painted.image[0]).clip(0, 255).round().astype(np.uint8)
    _, png = cv2.imencode(".png", pixels[..., ::-1])
    write_bytes(png.tobytes(), options.out)
    print(f"{options.out}: loss {painted.loss:.4g}")


if __name__ == "__main__":
    with one_line():
        main()
