"""Augmentation on the device: pure functions of (key, batch), pixels 0 to 255.

Images arrive as uint8 and become float32 here. `centre` is the same chain without
noise, for tests.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.image import scale_and_translate
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from alexvgg_jax.config import Augment
from alexvgg_jax.errors import InputError

Views = Literal[1, 9, 10, 50]  # crops of an image that a test averages

# The places of the crops, down and across, in quarters of the space that a crop leaves;
# and whether they are mirrored too.
VIEWS: dict[Views, tuple[list[tuple[int, int]], tuple[bool, ...]]] = {
    1: ([(2, 2)], (False,)),
    9: ([(y, x) for y in (0, 2, 4) for x in (0, 2, 4)], (False,)),
    10: ([(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)], (False, True)),
    50: ([(y, x) for y in range(5) for x in range(5)], (False, True)),
}


class Statistics(NamedTuple):
    """The mean image and the colour components of a training set."""

    mean: Float[Array, "height width 3"]
    components: Float[Array, "3 3"]  # columns: direction * deviation


def statistics(parts: Iterable[UInt8[np.ndarray, "_ height width 3"]]) -> Statistics:
    """The mean image, and the principal components of the RGB values of all pixels.

    `parts` are batches of training images.
    """
    count, total, products = 0, np.zeros(()), np.zeros((3, 3))
    for images in parts:
        count += len(images)
        total = total + images.sum(axis=0, dtype=np.float64)
        pixels = images.reshape(-1, 3).astype(np.float64)
        products += pixels.T @ pixels
    mean = total / count
    colour = mean.mean(axis=(0, 1))
    covariance = products / (count * mean[..., 0].size) - np.outer(colour, colour)
    variances, directions = np.linalg.eigh(covariance)
    components = directions * np.sqrt(np.maximum(variances, 0))
    return Statistics(jnp.float32(mean), jnp.float32(components))


def random_crop(
    key: PRNGKeyArray, images: UInt8[Array, "batch height width 3"], size: int
) -> UInt8[Array, "batch {size} {size} 3"]:
    """AlexNet §4.1 crops: a square at a random place of each image.

    The original program draws one place for 32 images (`convdata_jpeg.py`). A square of
    224 pixels has 33 x 33 places in 256 pixels, and with mirror images there are 2,178
    crops; the paper counts 2,048.
    """
    height, width = images.shape[1:3]
    if size > min(height, width):
        raise InputError(
            f"augment.crop {size} is larger than the {height}x{width} image"
        )
    spare = jnp.array([height - size + 1, width - size + 1])
    corners = jax.random.randint(key, (len(images), 2), 0, spare[None])

    def cut(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, 3))

    return jax.vmap(cut)(images, corners)


def scale_jitter(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch side side 3"],
    size: int,
    smallest: int,
) -> UInt8[Array, "batch {size} {size} 3"]:
    """VGG §3.1: a square at a random place of each image, scaled to a random side.

    The side S is a whole number of pixels from `smallest` to the side of `images`. The
    paper crops anywhere in an image with a short side of S; here images are square.
    """
    side, (side_key, place_key) = images.shape[1], jax.random.split(key)
    sides = jax.random.randint(side_key, (len(images), 1), smallest, side + 1)
    corners = jax.random.randint(place_key, (len(images), 2), 0, sides - size + 1)

    def cut(image: Array, side_of: Array, corner: Array) -> Array:
        scaled = scale_and_translate(
            image.astype(jnp.float32),
            (size, size, 3),
            (0, 1),
            jnp.broadcast_to(side_of / side, (2,)),
            -corner.astype(jnp.float32),
            "linear",
        )
        return jnp.round(scaled).astype(jnp.uint8)

    return jax.vmap(cut)(images, sides, corners)


def mirror(
    key: PRNGKeyArray, images: UInt8[Array, "batch height width 3"]
) -> UInt8[Array, "batch height width 3"]:
    """AlexNet §4.1 crops: the images, a random half of them flipped left to right."""
    flip = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def pca_colour(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width 3"],
    components: Float[Array, "3 3"],
    deviation: float,
) -> Float[Array, "batch height width 3"]:
    """AlexNet §4.1 colour: the images plus random multiples of the colour components.

    The paper multiplies each direction by its eigenvalue. The original program uses the
    square root (`convdata_jpeg.py`, "stdevs"), and so does this function: in units of 0
    to 255 only the root is a change of brightness and hue. The program then divides all
    pixels by 1.1. The paper does not mention that, and this function does not do it.
    """
    alphas = deviation * jax.random.normal(key, (len(images), 3))
    return images + (alphas @ components.T)[:, None, None]


def centre_crop(images: Array, size: int) -> Array:
    """The middle square of images, or of a mean image: axes (..., H, W, 3)."""
    top, left = (images.shape[-3] - size) // 2, (images.shape[-2] - size) // 2
    return images[..., top : top + size, left : left + size, :]


def subtract_mean(
    images: UInt8[Array, "batch height width 3"],
    mean: Float[Array, "mean_height mean_width 3"],
    config: Augment,
) -> Float[Array, "batch height width 3"]:
    """AlexNet §2: float32 images minus the mean pixel or colour of the training set.

    The centre of the mean image is subtracted, wherever the crop was, as in the
    original program (`convdata_jpeg.py`, __trim_borders).
    """
    images = images.astype(jnp.float32)
    if config.mean == "none":
        return images
    if config.mean == "channel":
        return images - mean.mean(axis=(0, 1))[None, None, None]
    return images - centre_crop(mean, images.shape[1])[None]


def augment(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch height width 3"],
    stats: Statistics,
    config: Augment,
) -> Float[Array, "batch rows columns 3"]:
    """The images as training sees them: with the noise of `config`, minus the mean."""
    crop_key, mirror_key, colour_key = jax.random.split(key, 3)
    if config.jitter_from:
        images = scale_jitter(crop_key, images, config.crop, config.jitter_from)
    elif config.crop and config.shift:
        images = random_crop(crop_key, images, config.crop)
    elif config.crop:
        images = centre_crop(images, config.crop)
    if config.mirror:
        images = mirror(mirror_key, images)
    pixels = subtract_mean(images, stats.mean, config)
    if config.colour:
        pixels = pca_colour(colour_key, pixels, stats.components, config.colour)
    return pixels


def map_views(
    look: Callable[[Float[Array, "batch rows columns 3"]], Array],
    images: UInt8[Array, "batch height width 3"],
    stats: Statistics,
    config: Augment,
    views: Views,
    sizes: Int[Array, "batch 2"] | None = None,
) -> Float[Array, "views ..."]:
    """The results of `look` for each view of the images, with the mean subtracted.

    1 view is the centre crop, 9 are a 3x3 grid of crops (`convdata_cifar.py`), 10 are
    the corners, the centre and their mirror images (AlexNet §6 ten crops), and 50 are a
    5x5 grid and its mirror images (VGG §3.2). Views are computed one after another,
    which needs the memory of one. With `sizes`, the heights and widths of the images,
    an image can be smaller than its array.
    """
    height, width = images.shape[1:3]
    size = config.crop or min(height, width)
    if sizes is None:
        sizes = jnp.full((len(images), 2), jnp.array([height, width])[None])
    spare = sizes - size

    def of_view(place: Array, flip: Array) -> Array:
        # In steps of a quarter of the space: the middle is the centre crop.
        corners = spare * place[None] // 4
        seen = jax.vmap(
            lambda image, at: lax.dynamic_slice(image, (*at, 0), (size, size, 3))
        )(images, corners)
        seen = jnp.where(flip, seen[:, :, ::-1], seen)
        return look(subtract_mean(seen, stats.mean, config))

    places, flips = VIEWS[views]
    at = jnp.array([place for _ in flips for place in places])
    flipped = jnp.array([flip for flip in flips for _ in places])
    return lax.map(lambda view: of_view(*view), (at, flipped))


def centre(
    images: UInt8[Array, "batch height width 3"], stats: Statistics, config: Augment
) -> Float[Array, "batch rows columns 3"]:
    """The images as tests see them: the centre crop minus the mean."""
    if config.crop:
        images = centre_crop(images, config.crop)
    return subtract_mean(images, stats.mean, config)
