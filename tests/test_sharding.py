import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from alexvgg_jax.config import Mesh
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.sharding import (
    check_batch,
    make_mesh,
    over_data,
    place,
    replicated,
    rows_of_host,
)


def test_a_mesh_takes_all_devices_or_the_first_few():
    assert make_mesh(Mesh()).devices.tolist() == jax.devices()
    few = make_mesh(Mesh(devices=3))
    assert few.devices.tolist() == jax.devices()[:3]
    assert few.axis_names == ("data",)
    assert few.axis_types == (AxisType.Auto,)


def test_more_devices_than_available():
    count = len(jax.devices())
    message = f"--mesh.devices {count + 1}: there are {count}"
    with pytest.raises(InputError, match=message):
        make_mesh(Mesh(devices=count + 1))


def test_axes_of_split_nets():
    assert make_mesh(Mesh(devices=8, towers=True)).shape == {"data": 4, "tower": 2}
    assert make_mesh(Mesh(devices=8, classifier=4)).shape == {"data": 2, "model": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Mesh(devices=3, towers=True), "--mesh.towers: 3 devices do not divide"),
        (Mesh(devices=8, classifier=3), "--mesh.classifier 3: 8 devices"),
        (Mesh(devices=8, towers=True, classifier=2), "one or the other"),
    ],
)
def test_devices_that_do_not_divide(options, message):
    with pytest.raises(InputError, match=message):
        make_mesh(options)


def test_a_batch_is_split_over_all_devices_but_a_pair_of_towers():
    for options, parts in [
        (Mesh(devices=8), 8),
        (Mesh(devices=8, towers=True), 4),
        (Mesh(devices=8, classifier=4), 8),
    ]:
        mesh = make_mesh(options)
        check_batch(parts, mesh)
        with pytest.raises(InputError, match=f"over {parts} devices"):
            check_batch(parts // 2, mesh)
        with pytest.raises(InputError, match=f"{2 * parts} and {4 * parts} do"):
            check_batch(3 * parts, mesh, accumulate=2)
        rows = [s.index[0] for s in place(np.arange(16), mesh).addressable_shards]
        assert len({(r.start, r.stop) for r in rows}) == parts
        np.testing.assert_array_equal(rows_of_host(16, mesh), np.arange(16))


@pytest.mark.parametrize(
    "batch, devices, below, above",
    [(10, 4, 8, 12), (127, 8, 120, 128), (3, 4, 4, 8), (0, 4, 4, 8), (9, 2, 8, 10)],
)
def test_a_batch_that_does_not_divide_names_those_that_do(batch, devices, below, above):
    mesh = make_mesh(Mesh(devices=devices))
    with pytest.raises(InputError) as caught:
        check_batch(batch, mesh)
    assert re.findall(r"\d+", str(caught.value)) == [
        str(n) for n in (batch, devices, below, above)
    ]
    check_batch(below, mesh)
    check_batch(above, mesh)


def test_place_gives_each_device_its_rows():
    mesh, rows = make_mesh(Mesh(devices=4)), 12
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
    for shard in jax.device_put(
        value, replicated(make_mesh(Mesh(devices=4)))
    ).addressable_shards:
        np.testing.assert_array_equal(shard.data, value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Unable to initialize\nmore"),
            "no devices: Unable to initialize$",
        ),
        (AssertionError(), "no devices: JAX_PLATFORMS is cuda"),
    ],
)
def test_no_devices(error, message, monkeypatch):
    """Both are raised by jax for a platform that is missing."""

    def devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=message):
        make_mesh(Mesh())


def test_every_host_needs_the_same_number_of_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="--mesh.devices: .* are 4, 0 of the hosts"):
        make_mesh(Mesh(devices=4))
