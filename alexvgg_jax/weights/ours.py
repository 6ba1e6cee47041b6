"""Our own files: `.safetensors` with arrays such as `conv1_1.kernel`, as nets have
them, the mean, and the net and the provenance as metadata; and a run's folder."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from alexvgg_jax import ready
from alexvgg_jax import run as run_folder
from alexvgg_jax.config import net_from_settings, net_to_settings
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Net
from alexvgg_jax.weights.provenance import DAMAGED, Convention, Provenance, from_json
from alexvgg_jax.weights.stored import Keys, Stored

MEAN = "mean"
AS_IS = Convention(mean=(0.0, 0.0, 0.0))  # nothing to fold; the file has its mean


def is_ours(metadata: dict[str, str]) -> bool:
    """Whether a safetensors file was written here."""
    return {"net", "provenance"} <= metadata.keys()


def metadata(net: Net, provenance: Provenance) -> dict[str, str]:
    """What `stored` reads."""
    net_json = json.dumps(net_to_settings(net))
    return {"net": net_json, "provenance": provenance.to_json()}


def keys(net: Net) -> Keys:
    """Layer -> keys."""
    return {name: (f"{name}.kernel", f"{name}.bias") for name in net.param_shapes()}


def stored(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> Stored:
    """The arrays of a safetensors file that was written here."""
    arrays = dict(arrays)
    mean = arrays.pop(MEAN, np.zeros(0))
    if mean.ndim not in (1, 3) or mean.shape[-1] != 3 or not np.isfinite(mean).all():
        raise InputError(f"{path}: its mean is no colour and no image")
    try:
        provenance = from_json(metadata["provenance"], mean)
        net = net_from_settings(json.loads(metadata["net"]))
        net.shapes()
    except (*DAMAGED, InputError) as error:
        raise InputError(f"{path}: its metadata are damaged: {error}") from None
    return _stored(path, arrays, net, provenance)


def _stored(
    path: Path, arrays: dict[str, np.ndarray], net: Net, provenance: Provenance
) -> Stored:
    return Stored(
        path=path,
        arrays=arrays,
        keys=keys,
        maps_first=False,
        head=("fc",),
        convention=AS_IS,
        provenance=provenance,
        published={},
        net=net,
    )


def stored_run(folder: Path) -> Stored:
    """The newest checkpoint of a run. Its provenance is that of the run's images."""
    run, images = run_folder.settings(folder), run_folder.read_images(folder)
    net = run_folder.net_of(run, len(images.classes))
    params = ready.load_params(folder)
    mean = np.asarray(run_folder.read_statistics(folder).mean)
    means = {"pixel": mean, "channel": mean.mean((0, 1)), "none": np.zeros(3)}
    provenance = Provenance(
        format="ours",
        mean=means[run.augment.mean],
        source=f"trained here on {images.set}",
        resize=run.test_size,
        crop=net.image_size,
        interpolation="area",
        classes=images.classes,
    )
    arrays = {
        f"{layer}.{part}": np.asarray(array)
        for layer, parts in params.items()
        for part, array in parts.items()
    }
    net = dataclasses.replace(net, remat=False)
    return _stored(folder, arrays, net, provenance)
