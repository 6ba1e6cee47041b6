"""Models as pure functions: `build` a row of MODELS, then `init` and `apply` it.

net = build("alexnet-paper", classes=1000)
params = net.init(jax.random.key(0))
logits, features = net.apply(params, images, train=False)
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args, get_type_hints

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import FlaxError
from jaxtyping import Array, Float, PRNGKeyArray

from alexvgg_jax.config import Compute
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import alexnet, cifar, vgg
from alexvgg_jax.models.layers import Dense, Layer, Local, Pool, Shape

Params = dict[str, dict[str, Array]]  # layer -> {"kernel", "bias"}
Features = dict[str, Array]  # layer -> its output

MODELS = alexnet.VARIANTS | vgg.VARIANTS | cifar.VARIANTS


def row_key(key: PRNGKeyArray | None, place: int) -> PRNGKeyArray | None:
    """What the row in that place of a net draws its noise from."""
    return None if key is None else jax.random.fold_in(key, place)


class Network(nn.Module):
    """Rows one after another, as a Linen module."""

    rows: tuple[Layer, ...]
    first: int  # place of the first of them in the whole net

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Array, Features]:
        features = {}
        for i, row in enumerate(self.rows, start=self.first):
            with jax.named_scope(row.name):
                x = row(x, train=train, key=row_key(key, i))
            features[row.name] = x
        return x, features


@dataclass(frozen=True)
class Model:
    """A network as two pure functions, and the rows that say what it is."""

    name: str
    rows: tuple[Layer, ...]
    image_size: int
    remat: bool = False  # the backward pass keeps what pooling leaves, no more
    compute: Compute = "float32"  # of activations; parameters are float32

    @property
    def input_shape(self) -> Shape:
        return self.image_size, self.image_size, 3

    @property
    def towers(self) -> int:
        """AlexNet §3.2: how many GPUs the net was made for."""
        return max(getattr(row, "groups", 1) for row in self.rows)

    def shapes(self) -> dict[str, Shape]:
        """The output shape of every layer, for one image of `image_size`."""
        return _shapes(self.name, self.rows, self.input_shape)

    def over(self, size: int) -> "Model":
        """The same net, parameter for parameter, over `size` x `size` images.

        Raises InputError where a layer has a weight for every place of other images.
        """
        self._check_size(self.rows, (size, size, 3))
        return dataclasses.replace(self, image_size=size)

    def init(self, key: PRNGKeyArray) -> Params:
        """Float32 parameters drawn as the paper draws them: layer -> kernel, bias."""
        images = jnp.zeros((1, *self.input_shape))
        variables = Network(self.rows, 0).init(key, images, train=False, key=None)
        return cast(Params, variables["params"])

    def param_shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """The shapes of what `init` draws, which nothing draws for it."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def apply(
        self,
        params: Params,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
        until: str | None = None,
    ) -> tuple[Float[Array, "batch *output"], Features]:
        """Logits, and every layer's output by name (`jit` drops those unused).

        Logits have the dtype of `images`, the layers' outputs that of `compute`.

        `images` are NHWC with the mean subtracted, 0 to 255 wide as in both papers.
        `key` draws the dropout masks; only training needs it. With `until`, that
        layer's output instead of logits: nothing behind it is computed, and `params`
        need not reach further. Raises InputError for images that the net was not built
        for (layers before the first fully-connected one take any size) and for `params`
        of another net. Reverse-mode gradients only on CPUs, where some operations have
        their own: `jax.jvp` needs a GPU or TPU.
        """
        self._check_images(images)
        rows = self.rows if until is None else self._until(until)
        self._check_size(rows, images.shape[1:])
        if until is None and (surplus := params.keys() - {row.name for row in rows}):
            raise InputError(
                f"{self.name}: params of another net: no layer {min(surplus)!r} here"
            )

        x, features = images.astype(self.compute), {}
        for first, block in _blocks(rows):
            network = Network(block, first)

            def compute(params, x, key, network=network):
                return network.apply({"params": params}, x, train=train, key=key)

            compute = jax.checkpoint(compute) if self.remat else compute
            try:
                x, found = cast(tuple[Array, Features], compute(params, x, key))
            except FlaxError as error:
                why = str(error).split(" (http")[0]
                raise InputError(f"{self.name}: params of another net: {why}") from None
            features |= found
        return x.astype(images.dtype), features

    def _check_images(self, images: Array) -> None:
        if images.ndim != 4 or images.shape[3] != 3:
            raise InputError(f"{self.name}: images are NHWC in RGB, got {images.shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(
                f"{self.name}: images are floats with the mean subtracted, "
                f"got {images.dtype}"
            )

    def _until(self, layer: str) -> tuple[Layer, ...]:
        names = [row.name for row in self.rows]
        if layer not in names:
            raise InputError(f"{self.name}: no layer {layer!r}{_closest(layer, names)}")
        return self.rows[: names.index(layer) + 1]

    def _check_size(self, rows: tuple[Layer, ...], given: Shape) -> None:
        """Layers with a weight for every place need the shapes that they were built
        for, and so do all before them."""
        built = self.shapes()
        shapes = _shapes(self.name, rows, given)
        before: Shape = self.input_shape
        for i, row in enumerate(rows):
            of_a_place = isinstance(row, Local) or (
                isinstance(row, Dense) and len(before) == 3
            )
            if of_a_place and any(shapes[r.name] != built[r.name] for r in rows[:i]):
                raise InputError(
                    f"{self.name}: built for {self.image_size}x{self.image_size} "
                    f"images, got {given[0]}x{given[1]}; build(..., image_size=) sets "
                    "another size"
                )
            before = built[row.name]


def _blocks(rows: tuple[Layer, ...]) -> Iterator[tuple[int, tuple[Layer, ...]]]:
    """The rows up to each pooling layer, behind which activations are small, and the
    place of their first."""
    first = 0
    for end, row in enumerate(rows, start=1):
        if isinstance(row, Pool) or end == len(rows):
            yield first, rows[first:end]
            first = end


def _shapes(name: str, rows: tuple[Layer, ...], shape: Shape) -> dict[str, Shape]:
    shapes = {}
    for row in rows:
        try:
            shape = row.output(shape)
        except InputError as error:
            raise InputError(
                f"{name}: the image is too small, at {row.name} {error}; "
                f"the smallest that fits has {_smallest(rows)} pixels a side"
            ) from None
        shapes[row.name] = shape
    return shapes


def _smallest(rows: tuple[Layer, ...]) -> int:
    def fits(size: int) -> bool:
        shape: Shape = (size, size, 3)
        try:
            for row in rows:
                shape = row.output(shape)
        except InputError:
            return False
        return True

    return next(filter(fits, itertools.count(1)))


def build(
    name: str, /, *, remat: bool = False, compute: Compute = "float32", **switches: Any
) -> Model:
    """The network of a row of MODELS; keywords override that row's switches.

    With `remat` the backward pass computes the activations between two pooling layers
    again instead of keeping them: the same numbers for more time, and less memory where
    activations take most of it (`summary --train` shows both). With `compute`
    "bfloat16", convolutions and fully-connected layers multiply in it, for GPUs and
    TPUs; normalisation, averages, the loss and the parameters stay float32. How
    "float32" multiplies is `jax_default_matmul_precision`'s to say: by default in
    bfloat16 on TPUs, and in TF32 on GPUs that have it.
    Raises InputError for an unknown name or switch, and for an image that is too small.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}{_closest(name, MODELS)}")
    row = MODELS[name]
    hints = get_type_hints(type(row))
    _check(f"{name}: remat {remat!r}", remat, bool)
    _check(f"{name}: compute {compute!r}", compute, Compute)
    for switch, value in switches.items():
        if switch not in hints:
            hint = _closest(switch, hints)
            raise InputError(f"{name}: unknown switch {switch!r}{hint}")
        _check(f"{name}: {switch} {value!r}", value, hints[switch])
    row = dataclasses.replace(row, **switches)
    model = Model(name, row.layers(), row.image_size, remat, compute)
    model.shapes()
    return model


def _check(what: str, value: Any, hint: Any) -> None:
    if choices := get_args(hint):  # of a Literal
        if value not in choices:
            raise InputError(f"{what}: choose from {', '.join(choices)}")
    elif hint is bool and not isinstance(value, bool):
        raise InputError(f"{what}: True or False")
    elif hint is int and (type(value) is not int or value < 1):
        raise InputError(f"{what}: a whole number from 1 up")
    elif hint is float and (
        isinstance(value, bool) or not isinstance(value, int | float)
    ):
        raise InputError(f"{what}: a number")
    elif hint is float and not 0 <= value < math.inf:
        raise InputError(f"{what}: a number from 0 up")


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; perhaps {close[0]!r}?" if close else f"; choose from {', '.join(known)}"
