"""Programs that need only jax to run."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array, Float

from alexvgg_jax.errors import InputError
from alexvgg_jax.files import write_bytes
from alexvgg_jax.models import Net, Params
from alexvgg_jax.weights.provenance import Provenance, mean_of_crop

PLATFORMS = ("cpu", "cuda", "tpu")


def export(params: Params, file: Path, net: Net, provenance: Provenance) -> None:
    """Write logits as a function of crops from 0 to 255, as StableHLO for CPUs, GPUs
    and TPUs, with the parameters and the mean inside, for any number of images.

    `jax.export.deserialize(file.read_bytes()).call(crops)` runs it without this
    package. The crops are float32, RGB, of the net's size.
    """
    mean = jnp.asarray(mean_of_crop(provenance)[None])

    def logits(
        crops: Float[Array, "batch height width 3"],
    ) -> Float[Array, "batch classes"]:
        return net.apply(params, crops - mean, train=False)[0]

    (batch,) = jax_export.symbolic_shape("batch")
    crops = jax.ShapeDtypeStruct((batch, *net.input_shape), jnp.float32)
    program = jax_export.export(jax.jit(logits), platforms=PLATFORMS)(crops)
    try:
        content = bytes(program.serialize())
    except ImportError:
        raise InputError(
            f"{file}: needs flatbuffers (pip install flatbuffers)"
        ) from None
    write_bytes(content, file)
