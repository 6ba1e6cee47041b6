"""Ways of testing a net (AlexNet §6, VGG §3.2): pure functions of (net, params, images)
to probabilities. Images have any size and aspect ratio."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from alexvgg_jax.augment import Statistics, Views, map_views
from alexvgg_jax.config import Augment
from alexvgg_jax.models import Net, Params
from alexvgg_jax.models.slide import map_sizes, multiply_adds, score, slide

Protocol = Literal["centre", "nine", "ten", "dense", "multi-crop", "dense+multi-crop"]
# What each averages: numbers of crops, or "dense".
PARTS: dict[Protocol, tuple[Views | Literal["dense"], ...]] = {
    "centre": (1,),
    "nine": (9,),
    "ten": (10,),
    "dense": ("dense",),
    "multi-crop": (50,),
    "dense+multi-crop": ("dense", 50),
}


class Pictures(NamedTuple):
    """Pictures of several sizes in one array: each begins at the upper left corner of
    its part, and what is beyond its size is ignored."""

    images: UInt8[Array | np.ndarray, "batch height width 3"]
    sizes: Int[Array | np.ndarray, "batch 2"]  # heights and widths
    maps: Int[Array | np.ndarray, "batch layers 2"]  # `map_sizes`, for the dense part


def pictures(
    net: Net, protocol: Protocol, images: list[np.ndarray], shape: tuple[int, int]
) -> Pictures:
    """The images in arrays of `shape`, with what `probabilities` needs to know of them.

    Raises InputError for an image that is too small for dense evaluation.
    """
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    array = np.zeros((len(images), *shape, 3), np.uint8)
    for row, image in zip(array, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    maps = np.zeros((len(images), 0, 2), np.int32)
    if "dense" in PARTS[protocol]:
        maps = map_sizes(slide(net), sizes).swapaxes(0, 1)
    return Pictures(array, sizes, maps)


def probabilities(
    net: Net,
    protocol: Protocol,
    params: Params,
    batch: Pictures,
    mean: Float[Array, "rows columns 3"],
) -> Float[Array, "batch classes"]:
    """VGG §3.2: the probabilities of `protocol`, the mean of its parts' softmax.

    `mean` is a colour, or an image at least as large as the net's. Raises InputError
    for dense evaluation of a net that cannot slide.
    """
    parts = [
        dense(net, params, batch, mean)
        if part == "dense"
        else crops(net, params, batch, mean, part)
        for part in PARTS[protocol]
    ]
    return jnp.stack(parts).mean(axis=0)


def crops(
    net: Net,
    params: Params,
    batch: Pictures,
    mean: Float[Array, "rows columns 3"],
    views: Views,
) -> Float[Array, "batch classes"]:
    """AlexNet §6 ten crops, VGG §3.2: the softmax averaged over crops of the net's size
    in 1, 9, 10 or 50 places."""

    def look(seen: Array) -> Array:
        return jax.nn.softmax(net.apply(params, seen, train=False)[0])

    kind = "channel" if mean.shape[:2] == (1, 1) else "pixel"
    config = Augment(crop=net.image_size, mean=kind)
    stats = Statistics(mean, jnp.zeros((3, 3)))
    images, sizes = jnp.asarray(batch.images), jnp.asarray(batch.sizes)
    return map_views(look, images, stats, config, views, sizes).mean(axis=0)


def dense(
    net: Net,
    params: Params,
    batch: Pictures,
    mean: Float[Array, "rows columns 3"],
) -> Float[Array, "batch classes"]:
    """VGG §3.2: the net slid over the image, its score map averaged, then the softmax,
    which is averaged over the image and its mirror image.

    The paper averages the score map before the softmax ("the class score map is
    spatially averaged"), and the "soft-max class posteriors" of both images after it.
    The scores are not those of crops: a crop has zeros around it, and here the rest of
    the image. A mean image has a fixed size, so its mean colour is subtracted.
    """
    images = jnp.asarray(batch.images)
    # The mirror image begins at the left too.
    columns = jnp.arange(images.shape[2])[None, :]
    places = (jnp.asarray(batch.sizes)[:, 1:] - 1 - columns) % images.shape[2]
    mirrored = jnp.take_along_axis(images, places[:, None, :, None], axis=2)
    layers, maps = slide(net), jnp.asarray(batch.maps).swapaxes(0, 1)

    def look(seen: Array) -> Array:
        pixels = seen.astype(jnp.float32) - mean.mean(axis=(0, 1))[None, None, None]
        return jax.nn.softmax(score(layers, params, pixels, maps, net.compute))

    return lax.map(look, jnp.stack([images, mirrored])).mean(axis=0)


def cost(net: Net, protocol: Protocol, height: int, width: int) -> int:
    """The multiply-adds of a protocol for one image of this size."""
    crop = multiply_adds(net.layers(), net.input_shape)
    return sum(
        2 * multiply_adds(slide(net), (height, width, 3))
        if part == "dense"
        else part * crop
        for part in PARTS[protocol]
    )
