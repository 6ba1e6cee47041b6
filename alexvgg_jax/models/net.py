"""A network as two pure functions, `init` and `apply`, and as a Flax module."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import (
    Annotated,
    Any,
    Literal,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.errors import InputError
from alexvgg_jax.models.layers import Layer, Pool, Shape, Weighted, draw_kernel

Params = dict[str, dict[str, Array]]  # layer -> {"kernel", "bias"}
Features = dict[str, Array]  # layer -> its output
Compute = Literal["float32", "bfloat16"]
# In training the data decides these switches, so the command line does not offer them.
FromData = Annotated[int, tyro.conf.Suppress]


@dataclass(frozen=True)
class Net:
    """The base of all networks: a subclass adds its switches and its `layers`.

    Raises InputError for a switch of the wrong type.
    """

    classes: FromData = 1000
    image_size: FromData = 224
    remat: bool = False  # recompute activations in the backward pass: less memory
    compute: Compute = "float32"  # type of activations; bfloat16: on GPUs and TPUs

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                value = value.item()
                object.__setattr__(self, field.name, value)
            if expected := _mismatch(value, hints[field.name]):
                raise InputError(f"{field.name} {value!r}: {expected}")

    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of computation."""
        raise NotImplementedError

    @property
    def input_shape(self) -> Shape:
        return self.image_size, self.image_size, 3

    @property
    def tower_count(self) -> int:
        """AlexNet §3.2: the number of GPUs that the net was made for."""
        return max(getattr(layer, "groups", 1) for layer in self.layers())

    def shapes(self, image_size: int | None = None) -> dict[str, Shape]:
        """Layer -> output shape, for one image of the net's size or of `image_size`.

        Raises InputError for an image that is too small, and where a layer has weights
        for another image size.
        """
        if image_size is None:
            return self._shapes(self.layers(), self.input_shape)
        return self._check_size(self.layers(), (image_size, image_size, 3))

    def param_shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """The shapes of the parameters that `init` draws."""
        shape, param_shapes = self.input_shape, {}
        for layer in self.layers():
            if params := layer.param_shapes(shape):
                param_shapes[layer.name] = {
                    part: jax.ShapeDtypeStruct(part_shape, jnp.float32)
                    for part, part_shape in params.items()
                }
            shape = layer.output(shape)
        return param_shapes

    def module(self) -> "Network":
        """The net as a Flax Linen module, to use inside modules of your own."""
        return Network(self)

    def init(self, key: PRNGKeyArray) -> Params:
        """The initial parameters, in float32: layer -> {"kernel", "bias"}.

        Each layer is drawn as the net's switches say: AlexNet as in its paper, VGG from
        Glorot's distribution unless `weight_init` is another.
        """
        variables = self.module().init(key, method="draw")
        return cast(Params, variables["params"])

    def apply(
        self,
        params: Params,
        images: Float[Array | np.ndarray, "batch height width 3"],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
        until: str | None = None,
    ) -> tuple[Float[Array, "batch *output"], Features]:
        """Logits, and every layer's output by name (`jit` drops the unused ones).

        `images` are NHWC in RGB, from 0 to 255, with the mean subtracted, as in both
        papers. Logits have the dtype of `images`, the features that of `compute`. `key`
        draws the dropout masks; only training needs it. With `until`, the first result
        is the output of that layer, later layers are not computed, and `params` may
        leave them out. Raises InputError for images of a size that the net was not
        built for (convolutions take any size), and for `params` of another net.
        """
        images = jnp.asarray(images)  # without x64, numpy's float64 becomes float32
        _check_images(images)
        layers = self._until(until)
        self._check_size(layers, images.shape[1:])
        self._check_params(layers, params, surplus=until is None)

        def run(params, images, key):
            x = images.astype(compute_dtype(images, self.compute))
            x, features = run_layers(
                layers, params, x, train=train, key=key, remat=self.remat
            )
            return x.astype(images.dtype), features

        sharding = jax.typeof(images).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:  # `jax.make_mesh` makes them
            over_batch = P(sharding.spec[0])
            run = cast(Any, jax.sharding.auto_axes(run, out_sharding=over_batch))
            # Outside `jax.set_mesh`, derivatives would see explicit axes in there too.
            with jax.sharding.use_abstract_mesh(sharding.mesh):
                return run(params, images, key)
        return run(params, images, key)

    def _until(self, name: str | None) -> tuple[Layer, ...]:
        layers = self.layers()
        names = [layer.name for layer in layers]
        if name is None:
            return layers
        if name not in names:
            raise InputError(f"no layer {name!r}; choose from {', '.join(names)}")
        return layers[: names.index(name) + 1]

    def _check_params(
        self, layers: Sequence[Layer], params: Params, *, surplus: bool
    ) -> None:
        used = {layer.name for layer in layers}
        expected = {k: v for k, v in self.param_shapes().items() if k in used}
        other = "params of another net"
        if surplus and (unknown := params.keys() - expected.keys()):
            raise InputError(f"{other}: this net has no layer {min(unknown)!r}")
        for layer, parts in expected.items():
            for part, leaf in parts.items():
                if part not in params.get(layer, {}):
                    raise InputError(f"{other}: they have no {layer}.{part}")
                if (shape := jnp.shape(params[layer][part])) != leaf.shape:
                    raise InputError(
                        f"{other}: {layer}.{part} has shape {shape}, this net's has "
                        f"{leaf.shape}"
                    )

    def _shapes(self, layers: Sequence[Layer], shape: Shape) -> dict[str, Shape]:
        shapes = {}
        for layer in layers:
            try:
                shape = layer.output(shape)
            except InputError as error:
                raise InputError(
                    f"{type(self).__name__}: the image is too small, at {layer.name} "
                    f"{error}; the smallest that fits has {_smallest(layers)} pixels a "
                    "side"
                ) from None
            shapes[layer.name] = shape
        return shapes

    def _check_size(self, layers: Sequence[Layer], image: Shape) -> dict[str, Shape]:
        """The output shapes for an image. InputError if weights need another size."""
        built, shapes = self.shapes(), self._shapes(layers, image)
        before, same = self.input_shape, True
        for layer in layers:
            if layer.fixes_image_size(before) and not same:
                raise InputError(
                    f"built for {self.image_size}x{self.image_size} images, got "
                    f"{image[0]}x{image[1]}; build(..., image_size=) sets another size"
                )
            before = built[layer.name]
            same = same and shapes[layer.name] == before
        return shapes


class _LayerParams(nn.Module):
    """The parameters of a layer, drawn by its own rule."""

    layer: Weighted
    shapes: dict[str, Shape]

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        draw = functools.partial(draw_kernel, self.layer.init)
        constant = nn.initializers.constant(self.layer.bias_init)
        kernel, bias = self.shapes["kernel"], self.shapes["bias"]
        return {
            "kernel": self.param("kernel", draw, kernel, jnp.float32),
            "bias": self.param("bias", constant, bias, jnp.float32),
        }


class Network(nn.Module):
    """`Net.apply` as a Linen module: images -> (logits, features).

    Its parameters are a subtree of the module that contains it.
    """

    net: Net

    def __call__(
        self,
        images: Float[Array | np.ndarray, "batch height width 3"],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch *output"], Features]:
        return self.net.apply(self.draw(), images, train=train, key=key)

    @nn.compact
    def draw(self) -> Params:
        """The parameters, drawn when the module is initialised."""
        params, shape = {}, self.net.input_shape
        for layer in self.net.layers():
            if isinstance(layer, Weighted):
                shapes = layer.param_shapes(shape)
                params[layer.name] = _LayerParams(layer, shapes, name=layer.name)()
            shape = layer.output(shape)
        return params


def compute_dtype(images: Array, compute: Compute) -> DTypeLike:
    """The dtype of the activations: `compute`, but float64 for float64 images (x64)."""
    wide = images.dtype == jnp.float64 and compute == "float32"
    return jnp.float64 if wide else jnp.dtype(compute)


def run_layers(
    layers: Sequence[Layer],
    params: Params,
    x: Array,
    *,
    train: bool,
    key: PRNGKeyArray | None,
    remat: bool = False,
    first: int = 0,
) -> tuple[Array, Features]:
    """The output of the last layer, and of each by name.

    `first` is the position of the first layer in its net. With `remat` the backward
    pass keeps the output of each pooling layer and recomputes the rest.
    """
    features = {}
    for start, block in _blocks(layers) if remat else [(0, layers)]:

        def run_block(params, x, key, block=block, start=first + start):
            outputs = {}
            for position, layer in enumerate(block, start):
                with jax.named_scope(layer.name):
                    layer_params = params.get(layer.name, {})
                    noise = layer_key(key, position)
                    x = layer(layer_params, x, train=train, key=noise)
                outputs[layer.name] = x
            return x, outputs

        run_block = jax.checkpoint(run_block) if remat else run_block
        names = {layer.name for layer in block}
        block_params = {name: params[name] for name in params if name in names}
        x, outputs = run_block(block_params, x, key)
        features |= outputs
    return x, features


def layer_key(key: PRNGKeyArray | None, position: int) -> PRNGKeyArray | None:
    """The key of the noise of the layer at a position in its net."""
    return None if key is None else jax.random.fold_in(key, position)


def _blocks(layers: Sequence[Layer]) -> Iterator[tuple[int, Sequence[Layer]]]:
    """The position and the layers of each block that ends with pooling."""
    start = 0
    for end, layer in enumerate(layers, start=1):
        if isinstance(layer, Pool) or end == len(layers):
            yield start, layers[start:end]
            start = end


def _smallest(layers: Sequence[Layer]) -> int:
    """The side of the smallest square image that all layers can take."""

    def fits(size: int) -> bool:
        shape: Shape = (size, size, 3)
        try:
            for layer in layers:
                shape = layer.output(shape)
        except InputError:
            return False
        return True

    return next(filter(fits, itertools.count(1)))


def _check_images(images: Array) -> None:
    if images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"images are NHWC in RGB, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images are floats with the mean subtracted, got {images.dtype}"
        )


def _mismatch(value: Any, hint: Any) -> str:
    """What a switch should be, or nothing if the value is right."""
    if type(None) in get_args(hint):
        if value is None:
            return ""
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is tuple:
        element, *rest = get_args(hint)
        fixed = rest != [Ellipsis]
        if not isinstance(value, tuple) or (fixed and len(value) != 1 + len(rest)):
            return f"a tuple like {hint}"
        return next(filter(None, (_mismatch(item, element) for item in value)), "")
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return "" if value in choices else f"choose from {', '.join(choices)}"
    if hint is bool:
        return "" if isinstance(value, bool) else "True or False"
    if hint is int:
        return "" if type(value) is int and value >= 1 else "a whole number from 1 up"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if number and 0 <= value < math.inf else "a number from 0 up"
