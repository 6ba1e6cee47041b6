"""Where weights come from, and the input that they expect.

Our nets take RGB from 0 to 255 minus a mean. Other libraries also divide by a
deviation, or order the channels as BGR. A first convolution with kernel w computes

    sum over c of w[c] * (x[c] - mean[c]) / deviation[c]

of pixels x from 0 to 255. `Convention.fold` divides w[c] by deviation[c] and reverses
the channels of BGR. The result is the same at every pixel, borders included: padding
adds zeros after the mean is subtracted, in their library and in ours.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from alexvgg_jax.data.decode import fit, scale_short
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net

Colour = tuple[float, float, float]  # red, green, blue
Input = Literal["torch", "caffe", "rgb"]


@dataclass(frozen=True)
class Convention:
    """The input of a library's nets, in units of pixels from 0 to 255."""

    mean: Colour
    deviation: Colour = (1.0, 1.0, 1.0)  # what a difference to the mean is divided by
    reverse: bool = False  # the net's channels are blue, green, red

    def is_like(self, other: "Convention | None") -> bool:
        """Whether only the mean may differ."""
        return other is not None and replace(self, mean=other.mean) == other

    def fold(
        self, kernel: Float[np.ndarray, "h w 3 maps"]
    ) -> Float[np.ndarray, "h w 3 maps"]:
        """The float32 kernel that does the same to RGB minus the mean."""
        if self.reverse:
            kernel = kernel[:, :, ::-1]
        deviation = np.array(self.deviation)[None, None, :, None]
        return (kernel.astype(np.float64) / deviation).astype(np.float32)


IMAGENET_MEAN = (123.68, 116.779, 103.939)  # of VGG's training images
TORCH = Convention(
    mean=(255 * 0.485, 255 * 0.456, 255 * 0.406),
    deviation=(255 * 0.229, 255 * 0.224, 255 * 0.225),
)
CAFFE = Convention(IMAGENET_MEAN, reverse=True)
CONVENTIONS: dict[str, Convention] = {
    "torch": TORCH,
    "caffe": CAFFE,
    "rgb": Convention(IMAGENET_MEAN),
}


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where weights come from, and how a picture becomes their input."""

    format: str  # torchvision, timm, keras, caffe, onnx, or ours
    # Subtracted from RGB: a colour, or an image from whose centre a crop is taken.
    mean: Float[np.ndarray, "*size 3"] = field(repr=False)
    source: str = ""  # who published weights with these names
    licence: str = ""  # of the published weights
    accuracy: str = ""  # of the published weights, on ImageNet's validation set
    resize: int = 256  # pixels of the short side, or of both
    crop: int = 224  # pixels of the square at the centre
    squash: bool = False  # resize both sides: the aspect ratio changes
    # bilinear: Pillow's, as torchvision does it. area: OpenCV's, as training here.
    interpolation: Literal["bilinear", "area"] = "bilinear"
    classes: tuple[str, ...] = ()  # their names, if they are not ImageNet's 1000

    def to_json(self) -> str:
        """All fields except `mean`."""
        settings = asdict(self)
        del settings["mean"]
        return json.dumps(settings)


# What reading damaged metadata can raise.
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def from_json(text: str, mean: Float[np.ndarray, "*size 3"]) -> Provenance:
    """The provenance of `to_json`. Raises one of `DAMAGED` for another text."""
    settings: dict[str, Any] = json.loads(text)
    wrong = [name for name, value in settings.items() if not _fits(name, value)]
    if wrong:
        raise ValueError(f"{wrong[0]} is {settings[wrong[0]]!r}")
    settings["classes"] = tuple(settings.get("classes", ()))
    return Provenance(mean=mean, **settings)


def _fits(name: str, value: Any) -> bool:
    kinds = {f.name: f.type for f in fields(Provenance)}
    if name == "classes":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if name == "interpolation":
        return value in ("bilinear", "area")
    if kinds.get(name) is int:
        return type(value) is int and 1 <= value < 2**14
    return type(value) is kinds.get(name)


def for_net(provenance: Provenance, net: Net) -> Provenance:
    """The provenance with crops of the net's size, out of an image as much larger."""
    if net.image_size == provenance.crop:
        return provenance
    scaled = round(provenance.resize * net.image_size / provenance.crop)
    return replace(provenance, crop=net.image_size, resize=scaled)


def preprocess(
    image: UInt8[np.ndarray, "height width 3"], provenance: Provenance
) -> Float[Array, "crop crop 3"]:
    """The input of a net for an RGB picture of any size: resized, cropped at the
    centre, minus the mean.

    For weights of torchvision these are the pixels of its own transform. Raises
    InputError if the mean is an image that is smaller than the crop.
    """
    pixels = crop(image, provenance).astype(np.float32)
    return jnp.asarray(pixels - mean_of_crop(provenance))


def crop(
    image: UInt8[np.ndarray, "height width 3"], provenance: Provenance
) -> UInt8[np.ndarray, "crop crop 3"]:
    """The picture resized and cropped at the centre, in 8 bits."""
    if provenance.interpolation == "area":
        return _centre(fit(image, provenance.resize), provenance.crop)
    scaled = resized(image, provenance)
    top, left = (round((n - provenance.crop) / 2) for n in scaled.shape[:2])
    return scaled[top : top + provenance.crop, left : left + provenance.crop]


def resized(
    image: UInt8[np.ndarray, "height width 3"], provenance: Provenance
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The whole picture resized, in 8 bits: its short side, or both with `squash`."""
    size = provenance.resize
    if provenance.interpolation == "area":
        return scale_short(image, size)
    height, width = image.shape[:2]
    short = min(height, width)
    to = (size * width // short, size * height // short)
    to = (size, size) if provenance.squash else to
    return np.asarray(Image.fromarray(image).resize(to, Image.Resampling.BILINEAR))


def mean_of_crop(provenance: Provenance) -> Float[np.ndarray, "height width 3"]:
    """What is subtracted from a crop: an image of its size, or of one pixel.

    Raises InputError if the mean is an image that is smaller than the crop.
    """
    mean, size = provenance.mean.astype(np.float32), provenance.crop
    if mean.ndim == 1:
        return mean[None, None]
    if min(mean.shape[:2]) < size:
        height, width, _ = mean.shape
        raise InputError(f"the mean image has {height}x{width} pixels, below {size}")
    return _centre(mean, size)


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
