"""The TPU compiler without a TPU: import before anything uses jax."""

import os
from typing import Any

# A topology that needs neither a TPU nor the network to ask for one.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_ID": "0",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from alexvgg_jax import ledger
from alexvgg_jax.config import Augment
from alexvgg_jax.errors import InputError
from alexvgg_jax.models import Model


def chips(topology: str) -> list[Any]:
    """The chips of, say, "v5e:2x4". Raises InputError without the compiler."""
    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"no compiler for TPUs; pip install 'jax[tpu]': {first}"
        ) from None


def compiled(net: Model, batch: int, mesh: Mesh) -> jax.stages.Compiled | None:
    """The papers' training step on a global batch; None if it is too large."""
    augment = Augment(crop=224, mirror=True, colour=0.1)
    try:
        with jax.default_device(mesh.devices.flat[0]):
            return ledger.compiled(net, batch, mesh, augment, 256)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def costs(step: jax.stages.Compiled) -> dict[str, float]:
    """What the compiler counts and plans, on one chip."""
    counted, memory = step.cost_analysis(), step.memory_analysis()
    assert counted is not None and memory is not None
    # Each operation that the compiler has no estimate for (fusions that gather, random
    # bits, collectives) counts -1 s; what is left is the others' sum, far below 1 s.
    seconds = counted["optimal_seconds"] % 1
    return {
        "operations": counted["flops"],
        "bytes": counted["bytes accessed"],
        "memory, bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "optimal seconds": seconds,
        "operations without an estimate": round(seconds - counted["optimal_seconds"]),
    }
