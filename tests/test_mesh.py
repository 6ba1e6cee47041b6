import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from alexvgg_jax.config import Mesh
from alexvgg_jax.data.batches import Batch
from alexvgg_jax.errors import InputError
from alexvgg_jax.mesh import (
    check_batch,
    join_hosts,
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


def test_more_devices_than_there_are():
    there = len(jax.devices())
    with pytest.raises(
        InputError, match=f"--mesh.devices {there + 1}: there are {there}"
    ):
        make_mesh(Mesh(devices=there + 1))


def test_axes_of_split_nets():
    assert make_mesh(Mesh(devices=8, towers=True)).shape == {"data": 4, "tower": 2}
    assert make_mesh(Mesh(devices=8, classifier=4)).shape == {"data": 2, "model": 4}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Mesh(devices=3, towers=True), "--mesh.towers: 3 devices do not divide"),
        (Mesh(devices=8, classifier=3), "--mesh.classifier 3: 8 devices"),
        (Mesh(classifier=0), "--mesh.classifier 0: at least 1"),
        (Mesh(devices=8, towers=True, classifier=2), "one or the other"),
        (Mesh(devices=-1), "--mesh.devices -1"),
    ],
)
def test_devices_that_cannot_be_split_so(given, message):
    with pytest.raises(InputError, match=message):
        make_mesh(given)


def test_a_batch_is_split_over_all_devices_but_a_pair_of_towers():
    for given, parts in [
        (Mesh(devices=8), 8),
        (Mesh(devices=8, towers=True), 4),
        (Mesh(devices=8, classifier=4), 8),
    ]:
        mesh = make_mesh(given)
        check_batch(parts, mesh)
        with pytest.raises(InputError, match=f"over {parts} devices"):
            check_batch(parts // 2, mesh)
        with pytest.raises(InputError, match=f"{2 * parts} and {4 * parts} do"):
            check_batch(3 * parts, mesh, accumulate=2)
        rows = [s.index[0] for s in place(np.arange(16), mesh).addressable_shards]
        assert len({(r.start, r.stop) for r in rows}) == parts
        np.testing.assert_array_equal(rows_of_host(16, mesh), np.arange(16))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("there:1", 0, -1), "all three"),
        (("", 2, 0), "all three"),
        (("there:1", 2, 2), "--host 2: from 0 to 1"),
    ],
)
def test_hosts_that_cannot_be_joined(given, message):
    with pytest.raises(InputError, match=message):
        join_hosts(*given)


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


@pytest.mark.parametrize("address", ["localhost", "localhost:abc", "localhost:99999"])
def test_a_coordinator_that_is_no_address(address):
    with pytest.raises(InputError, match="not HOST:PORT"):
        join_hosts(address, 2, 0)


def test_a_pod_that_cannot_ask_for_the_others_does_not_train_alone(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(InputError, match="pip install 'jax\\[k8s\\]'"):
        join_hosts()


def test_a_pod_without_a_job_trains_alone(monkeypatch):
    """jax would ask Kubernetes for the others."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    seen = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **_: seen.append(dict(os.environ))
    )
    join_hosts()
    assert "KUBERNETES_SERVICE_HOST" not in seen[0]
    assert os.environ["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"


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
    """Both are jax's own, for JAX_PLATFORMS that is not here."""

    def devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=message):
        make_mesh(Mesh())


def test_hosts_that_do_not_have_as_many_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="--mesh.devices 4: .* would have 4, 0; each"):
        make_mesh(Mesh(devices=4))


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_processes_that_jax_cannot_join_do_not_train_alone(variable, tmp_path):
    command = [sys.executable, "-m", "alexvgg_jax", "train", "digits"]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        env=os.environ | {variable: "2"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {variable} is 2")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
