"""The device mesh, and how a step's arrays lie on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexvgg_jax.errors import InputError


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh of one axis, `data`, over the first `devices` devices (0: all of them).

    Raises InputError if there are fewer.
    """
    found = jax.devices()
    if not 0 <= devices <= len(found):
        raise InputError(f"--devices {devices}: this machine has {len(found)}")
    used = found[: devices or len(found)]
    # Auto: a model-sharded Linen convolution raises on an Explicit mesh.
    return jax.make_mesh(
        (len(used),), ("data",), axis_types=(AxisType.Auto,), devices=used
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P("data"))


def check_batch(batch: int, mesh: Mesh) -> None:
    """Raises InputError, naming what would do, if the devices cannot share a batch."""
    devices = mesh.shape["data"]
    if batch < 1 or batch % devices:
        below = max(batch // devices, 1) * devices
        raise InputError(
            f"--batch {batch} does not divide over {devices} devices; "
            f"{below} and {below + devices} do"
        )


def place(batch, mesh: Mesh):
    """This host's rows of a global batch, as arrays sharded over `data`."""
    sharding = over_data(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )
