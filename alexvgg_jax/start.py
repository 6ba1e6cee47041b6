"""The parameters and the mean that a run starts from."""

from dataclasses import replace
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net, Params
from alexvgg_jax.ready import Work, keys
from alexvgg_jax.sharding import everywhere, like
from alexvgg_jax.weights import Provenance

console = Console(stderr=True)


def untrained(work: Work) -> Params:
    """The parameters at the start of a run."""
    init_key, _ = keys(work)
    return start_from(work, work.steps.init(init_key).params)[1]


def start_from(work: Work, own: Params) -> tuple[Work, Params]:
    """The work and the parameters of a run that starts from `run.init_from`.

    `own` are the parameters of the new net. A layer of the weights replaces the layer
    of `own` with the same name and shapes, if `run.init_layers` is empty or names it.
    The last layer is copied only if the classes are the same. All other layers keep
    their own parameters. The names of the copied layers are printed. The mean of the
    statistics becomes the mean that the weights expect.

    Raises InputError if all layers stay, for a name in `init_layers` that no layer of
    the net has, if the weights are of another kind of net, or if `init_from` has no
    weights.
    """
    if not (file := work.run.init_from):
        return work, own
    try:
        net, params, provenance = weights.load_any(file)
    except InputError as error:
        raise InputError(f"--init-from {error}") from None
    if (theirs := type(net).__name__) != (ours := type(work.net).__name__):
        raise InputError(f"--init-from {file}: weights of {theirs}, this net is {ours}")
    stored, shapes = _shapes(params), _shapes(own)
    *_, last = names = list(work.net.param_shapes())
    chosen = work.run.init_layers or names
    if unknown := sorted(set(chosen) - set(names)):
        has = f"this net's layers are {' '.join(names)}"
        raise InputError(f"--init-layers {' '.join(unknown)}: {has}")
    fits = [n for n in names if n in chosen and shapes[n] == stored.get(n)]
    note = ""
    if last in fits and not _same_classes(net, provenance, work.images.classes):
        fits.remove(last)
        note = f" ({last} is for other classes)"
    if not fits:
        first = chosen[0]
        theirs = stored.get(first, "missing")
        why = note or f": {first} is {theirs} there, {shapes[first]} here"
        raise InputError(f"--init-from {file}: no layer fits this net{why}")
    if not jax.process_index():
        fresh = [name for name in names if name not in fits] or ["none"]
        line = f"{file}: copied {' '.join(fits)}; fresh: {' '.join(fresh)}{note}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    own = own | {name: jax.tree.map(like, params[name], own[name]) for name in fits}
    mean = _mean(provenance.mean, work.stats.mean.shape[0])
    stats = work.stats._replace(mean=everywhere(mean, work.mesh))
    return replace(work, stats=stats), own


def _same_classes(net: Net, provenance: Provenance, own: tuple[str, ...]) -> bool:
    """Whether the weights are for the classes `own`, in that order, or for classes
    whose names are not known. ImageNet's are known as words and as WordNet's ids."""
    words = weights.class_names(1000) if net.classes == 1000 else own
    theirs = provenance.classes or words
    return theirs == own or (theirs == words and own == _imagenet_ids())


def _imagenet_ids() -> tuple[str, ...]:
    """WordNet's ids of ImageNet's classes: the names of its folders, and in TFDS."""
    package = resources.files("tensorflow_datasets")
    ids = package.joinpath("datasets", "imagenet2012", "labels.txt")
    return tuple(ids.read_text(encoding="utf-8").split())


def _mean(
    mean: Float[np.ndarray, "*places 3"], size: int
) -> Float[np.ndarray, "{size} {size} 3"]:
    """A mean image of that size: the centre of `mean`, or its colour everywhere if it
    is a colour or a smaller image."""
    if mean.ndim == 1 or min(mean.shape[:2]) < size:
        colour = mean.reshape(-1, 3).mean(axis=0)
        return np.full((size, size, 3), colour, np.float32)
    top, left = ((n - size) // 2 for n in mean.shape[:2])
    return mean[top : top + size, left : left + size].astype(np.float32)


def _shapes(params: Params) -> dict[str, dict[str, tuple[int, ...]]]:
    return jax.tree.map(jnp.shape, params)
