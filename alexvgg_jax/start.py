"""The parameters and the mean that a run starts from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Params
from alexvgg_jax.prepare import Work, keys
from alexvgg_jax.sharding import everywhere, like

console = Console(stderr=True)


def untrained(work: Work) -> Params:
    """The parameters at the start of a run."""
    init_key, _ = keys(work)
    return start_from(work, work.steps.init(init_key).params)[1]


def start_from(work: Work, own: Params) -> tuple[Work, Params]:
    """The work and the parameters of a run that starts from `run.init_from`.

    In `own`, each layer is replaced by the layer of that name in the weights. A layer
    that is missing there, or has other shapes, stays; these layers are printed. In the
    statistics, the mean is replaced by the mean that the weights expect.

    Raises InputError if all layers stay, or if `init_from` has no weights.
    """
    if not (file := work.run.init_from):
        return work, own
    params, provenance = weights.load_any(file)
    found = _shapes(params)
    fits = [name for name, shapes in _shapes(own).items() if shapes == found.get(name)]
    if not fits:
        raise InputError(f"--init-from {file}: no layer fits this net")
    drawn = [name for name in own if name not in fits]
    if drawn and not jax.process_index():
        note = f"layers that do not fit {file} are drawn: {' '.join(drawn)}"
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    own = own | {name: jax.tree.map(like, params[name], own[name]) for name in fits}
    mean = _mean(provenance.mean, work.stats.mean.shape[0])
    stats = work.stats._replace(mean=everywhere(mean, work.mesh))
    return replace(work, stats=stats), own


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
