import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import check_batch, make_mesh, over_data, place, replicated


def test_a_mesh_takes_all_devices_or_the_first_few():
    assert make_mesh().devices.tolist() == jax.devices()
    few = make_mesh(3)
    assert few.devices.tolist() == jax.devices()[:3]
    assert few.axis_names == ("data",)
    assert few.axis_types == (AxisType.Auto,)


def test_more_devices_than_there_are():
    there = len(jax.devices())
    with pytest.raises(InputError, match=f"--devices {there + 1}: .* has {there}"):
        make_mesh(there + 1)


@pytest.mark.parametrize(
    "batch, devices, below, above",
    [(10, 4, 8, 12), (127, 8, 120, 128), (3, 4, 4, 8), (0, 4, 4, 8), (9, 2, 8, 10)],
)
def test_a_batch_that_does_not_divide_names_those_that_do(batch, devices, below, above):
    mesh = make_mesh(devices)
    with pytest.raises(InputError) as caught:
        check_batch(batch, mesh)
    assert re.findall(r"\d+", str(caught.value)) == [
        str(n) for n in (batch, devices, below, above)
    ]
    check_batch(below, mesh)
    check_batch(above, mesh)


def test_place_gives_each_device_its_rows():
    mesh, rows = make_mesh(4), 12
    images = np.arange(rows * 4 * 4 * 3, dtype=np.uint8).reshape(rows, 4, 4, 3)
    batch = Batch(images, np.arange(rows, dtype=np.int32), np.arange(rows) < 10)
    placed = place(batch, mesh)
    assert isinstance(placed, Batch)
    for array, original in zip(placed, batch, strict=True):
        assert array.sharding == over_data(mesh)
        assert array.dtype == original.dtype
        np.testing.assert_array_equal(array, original)
        for i, device in enumerate(jax.devices()[:4]):
            (shard,) = [s for s in array.addressable_shards if s.device == device]
            np.testing.assert_array_equal(shard.data, original[3 * i : 3 * i + 3])


def test_replicated_gives_each_device_everything():
    value = np.arange(5, dtype=np.float32)
    for shard in jax.device_put(value, replicated(make_mesh(4))).addressable_shards:
        np.testing.assert_array_equal(shard.data, value)
