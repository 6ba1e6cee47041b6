"""How different images look to a net: LPIPS, content loss and style loss.

    net = models.build("vgg-d")
    params, provenance = weights.load("vgg16.pth", net)
    distances = lpips(net, params, images, others, range=(0, 255))

`lpips`, `content_loss` and `style_loss` give one number for each pair of images. If one
image of the pairs is constant, compute its features once, and compare features. Those
of a single image are compared with every image of the other batch:

    target = lpips_features(net, params, others, range=(0, 255))
    heads = lpips_heads(net)

    def loss(images):
        ours = lpips_features(net, params, images, range=(0, 255))
        return lpips_distance(ours, target, heads).sum()

Gradients and second derivatives are finite everywhere. A net with `remat=True` needs
less memory for gradients. With `compute="bfloat16"` features take half the memory, and
distances are computed in float32. For long videos `jax.lax.map(..., batch_size=8)`
compares eight frames at a time.

The nets take RGB from 0 to 255 with the mean subtracted. An image x of the range
(low, high) becomes 255 (x - low) / (high - low) - MEAN. torchvision also divides by 255
times a deviation. That division is part of our conv1: its kernel is torchvision's /
(255 deviation). LPIPS' scaling layer is the same function: it computes (x - shift) /
scale of images in (-1, 1), with shift = 2 MEAN / 255 - 1 and scale = 2 deviation. All
pad with zeros after the mean is subtracted, so borders agree too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.alexnet import OneWeirdTrick
from alexvgg_jax.models.cpu import at_least_float32
from alexvgg_jax.models.net import Features, Net, Params
from alexvgg_jax.models.vgg import VGG
from alexvgg_jax.weights.provenance import TORCH

Images = Num[Array | np.ndarray, "batch height width 3"]
Range = tuple[int, int]  # of the pixels: black and white
Heads = dict[str, Float[Array, "maps"]]  # layer -> the weight of each map
Grams = dict[str, Float[Array, "_images maps maps"]]
Mean = Float[Array | np.ndarray, "3"]  # the colour that is subtracted from RGB

RANGES: tuple[Range, ...] = ((0, 255), (-1, 1), (0, 1))
MEAN = np.array(TORCH.mean)  # of torchvision's weights
CONTENT = ("relu4_2",)  # Gatys et al. 2016: of VGG-19; VGG-16 has them too
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

LPIPS_LAYERS = {
    "alex": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}
EPSILON = 1e-10  # LPIPS adds it to the length of a vector
TINY = 1e-15  # numbers that LPIPS cannot tell from zero, because of EPSILON


def lpips(
    net: Net,
    params: Params,
    images: Images,
    others: Images,
    *,
    range: Range,
    spatial: bool = False,
) -> Float[Array, "batch *map"]:
    """The LPIPS distance of each pair of images (Zhang et al. 2018), version 0.1.

    `net` is `alexnet-owt` or `vgg-d`, with torchvision's weights. With `spatial` a map
    (batch, height, width) says where the images differ. Raises InputError for another
    net, for images that are not in `range`, and for pairs of different shapes.
    """
    _check_pairs(images.shape, others.shape)
    ours, theirs = (
        lpips_features(net, params, batch, range=range) for batch in (images, others)
    )
    size = (images.shape[1], images.shape[2]) if spatial else None
    return lpips_distance(ours, theirs, lpips_heads(net), size)


def content_loss(
    net: Net,
    params: Params,
    images: Images,
    others: Images,
    *,
    range: Range,
    layers: Sequence[str] = CONTENT,
    mean: Mean = MEAN,
) -> Float[Array, "batch"]:
    """`content_distance` of each pair of images. Raises what `features` raises, and
    InputError for pairs of different shapes."""
    _check_pairs(images.shape, others.shape)
    ours, theirs = (
        features(net, params, batch, layers, range=range, mean=mean)
        for batch in (images, others)
    )
    return content_distance(ours, theirs)


def style_loss(
    net: Net,
    params: Params,
    images: Images,
    others: Num[Array | np.ndarray, "batch rows columns 3"],
    *,
    range: Range,
    layers: Sequence[str] = STYLE,
    mean: Mean = MEAN,
) -> Float[Array, "batch"]:
    """`style_distance` of each pair of images, which may differ in size. Raises what
    `features` raises, and InputError for batches of different lengths."""
    _check_pairs(images.shape[:1], others.shape[:1])
    ours, theirs = (
        grams(features(net, params, batch, layers, range=range, mean=mean))
        for batch in (images, others)
    )
    return style_distance(ours, theirs)


def _check_pairs(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    if ours != theirs:
        raise InputError(f"pairs of images of different shapes, {ours} and {theirs}")


def _check_shapes(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], layers: Collection[str]
) -> None:
    """InputError if there are no layers, if a batch lacks one, or if the batches differ
    in its shape; one batch can be a single image."""
    if not layers:
        raise InputError("no layers to compare: name at least one")
    for layer in layers:
        if layer not in ours or layer not in theirs:
            raise InputError(f"{layer} is missing in one of the batches")
        a, b = ours[layer].shape, theirs[layer].shape
        if a[1:] != b[1:] or (a[0] != b[0] and 1 not in (a[0], b[0])):
            raise InputError(f"{layer} has different shapes, {a} and {b}")


def features(
    net: Net,
    params: Params,
    images: Images,
    layers: Sequence[str],
    *,
    range: Range,
    mean: Mean = MEAN,
) -> Features:
    """Layer -> its output, for images of `range`; `mean` is `provenance.mean` of
    their weights.

    `params` may lack the layers after the last of `layers`. Raises InputError for
    another range than those of RANGES, for images that are not in it (they are checked
    outside of `jit` and `grad`), and for unknown layers or none.
    """
    names = [layer.name for layer in net.layers()]
    if not layers:
        raise InputError("no layers: name at least one")
    if unknown := set(layers) - set(names):
        raise InputError(f"no layer {min(unknown)!r}; choose from {', '.join(names)}")
    x = net_input(images, range, mean)
    last = max(layers, key=names.index)
    _, outputs = net.apply(params, x, train=False, until=last)
    return {layer: outputs[layer] for layer in layers}


def net_input(
    images: Images, range: Range, mean: Mean = MEAN
) -> Float[Array, "batch height width 3"]:
    """Images from 0 to 255 with the mean subtracted. Raises what `features` raises."""
    low, high = range
    if images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"images are NHWC in RGB, got shape {images.shape}")
    if (low, high) not in RANGES:
        raise InputError(f"range {range}: choose from {', '.join(map(str, RANGES))}")
    if jnp.issubdtype(images.dtype, jnp.integer) and high != 255:
        raise InputError(f"range {range}: images of {images.dtype} are in (0, 255)")
    if not isinstance(images, Tracer) and images.size:
        with jax.ensure_compile_time_eval():  # constants inside of `jit`
            least, most = float(images.min()), float(images.max())
            if jnp.isnan(images).any():  # jax 0.10 has no NaN in extremes, on CPUs
                raise InputError("the images have NaN")
        if not (low <= least and most <= high):
            raise InputError(f"range {range}: the images go from {least} to {most}")
    x = at_least_float32(jnp.asarray(images))
    if (low, high) != (0, 255):
        x = (x - low) * (255 / (high - low))
    return x - jnp.asarray(mean, x.dtype)[None, None, None]


# LPIPS


def lpips_heads(net: Net) -> Heads:
    """LPIPS' weight of each map, version 0.1. InputError for a net that has none.

    They are from the PyPI package `lpips`, under the licence in lpips_heads.LICENSE.
    experiments/lpips_heads.py wrote the file.
    """
    name = _lpips_name(net)
    with np.load(Path(__file__).with_name("lpips_heads.npz")) as file:
        return {
            layer: jnp.asarray(file[f"{name}/{layer}"]) for layer in LPIPS_LAYERS[name]
        }


def _lpips_name(net: Net) -> str:
    if isinstance(net, OneWeirdTrick):
        return "alex"
    if isinstance(net, VGG) and net.column == "D":
        return "vgg"
    raise InputError(
        f"LPIPS is for alexnet-owt and vgg-d, not for this {type(net).__name__}"
    )


def lpips_features(
    net: Net, params: Params, images: Images, *, range: Range
) -> Features:
    """The features that LPIPS compares. Raises what `lpips` raises.

    Pooling leaves out incomplete windows, as in PyTorch.
    """
    layers = LPIPS_LAYERS[_lpips_name(net)]
    if isinstance(net, VGG):
        net = replace(net, clip_windows=True)
    return features(net, params, images, layers, range=range)


def lpips_distance(
    ours: Features,
    theirs: Features,
    heads: Heads,
    size: tuple[int, int] | None = None,
) -> Float[Array, "batch *map"]:
    """The LPIPS distance of each pair of images from their `lpips_features`.

    With `size`, the height and width of the images, it is a map: that of each layer,
    enlarged by linear interpolation, and added up. A batch of one is compared with
    every image of the other batch. Raises InputError for features of different shapes.
    """
    _check_shapes(ours, theirs, heads)

    @jax.checkpoint  # so that gradients do not keep the unit vectors
    def of_layer(f, g, head):
        if f.shape[-1:] != head.shape:
            raise InputError(f"LPIPS has {head.size} weights for {f.shape[-1]} maps")
        squares = jnp.square(unit_vectors(f) - unit_vectors(g))
        head = head.astype(squares.dtype)
        distances = jnp.einsum("nhwc,c->nhw", squares, head, precision="highest")
        if size is None:
            return distances.mean(axis=(1, 2))
        return jax.image.resize(distances, (len(distances), *size), "linear")

    parts = [
        of_layer(ours[layer], theirs[layer], head) for layer, head in heads.items()
    ]
    return jnp.stack(parts).sum(axis=0)


def unit_vectors(x: Float[Array, "*shape maps"]) -> Float[Array, "*shape maps"]:
    """x / (|x| + EPSILON) along the last axis, in float32; zero for vectors below TINY,
    with zero derivatives.

    The square root has no derivative at zero, and squares of small and large numbers
    are beyond float32. So vectors are scaled first. The derivative takes the scale for
    a constant, because it cancels.
    """
    x = at_least_float32(x)
    largest = lax.stop_gradient(jnp.abs(x).max(axis=-1, keepdims=True))
    seen = largest > TINY
    scale = jnp.where(seen, largest, 1.0)
    x = jnp.where(seen, x / scale, x * 0.0)  # NaN stays
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    return x / (jnp.sqrt(jnp.where(seen, squares, 1.0)) + EPSILON / scale)


# Content and style


def content_distance(ours: Features, theirs: Features) -> Float[Array, "batch"]:
    """The mean squared difference of the features of each pair of images.

    A batch of one is compared with every image of the other batch. Raises InputError
    for features of different shapes.

    The mean over layers of the mean over positions and maps (Johnson et al. 2016,
    equation 2). Gatys et al. 2016 (equation 1) have half the sum.
    """
    _check_shapes(ours, theirs, [*ours, *theirs])

    def of_layer(f, g):
        difference = at_least_float32(f) - at_least_float32(g)
        return jnp.square(difference).mean(axis=(1, 2, 3))

    parts = [of_layer(ours[layer], theirs[layer]) for layer in ours]
    return jnp.stack(parts).mean(axis=0)


def style_distance(ours: Grams, theirs: Grams) -> Float[Array, "batch"]:
    """The difference of the Gram matrices of each pair of images (Gatys et al. 2016).

    A batch of one is compared with every image of the other batch. Raises InputError
    for matrices of different shapes.

    The mean over layers of the sum of squares / (4 maps^2): equations 4 and 5, in which
    `grams` has divided by the number of positions already.
    """
    _check_shapes(ours, theirs, [*ours, *theirs])

    def of_layer(a, b):
        return jnp.square((a - b) / a.shape[-1]).sum(axis=(1, 2)) / 4

    parts = [of_layer(ours[layer], theirs[layer]) for layer in ours]
    return jnp.stack(parts).mean(axis=0)


def grams(features: Features) -> Grams:
    """Layer -> the mean over positions of the products of each pair of maps.

    This is the Gram matrix of Gatys et al. 2016 (equation 3) divided by the number of
    positions, so that images of different sizes can be compared.
    """

    def gram(x: Float[Array, "batch height width maps"]):
        x = at_least_float32(x).reshape(len(x), -1, x.shape[-1])
        return jnp.einsum("npi,npj->nij", x, x) / x.shape[1]

    return {layer: gram(x) for layer, x in features.items()}
