"""What compiled steps communicate, in the paper's own net at its own size."""

import functools
from collections import Counter

import pytest

from alexvgg_jax.config import Augment, Mesh
from alexvgg_jax.errors import InputError
from alexvgg_jax.ledger import Entry, Ledger, compiled, least, read
from alexvgg_jax.models import build
from alexvgg_jax.models.cpu import WIDE
from alexvgg_jax.sharding import make_mesh

CROP = Augment(crop=224, mirror=True, colour=0.1)
NET = build("alexnet-paper")
BATCH, FLOAT = 128, 4
PARAMETERS = 60_965_224  # of the paper's net


@functools.cache
def ledger_of(split: Mesh, zero: bool = False) -> Ledger:
    step = compiled(NET, BATCH, make_mesh(split), CROP, 256, zero)
    return read(step.as_text() or "", NET)


def test_the_towers_communicate_only_in_certain_layers():
    """AlexNet §3.2: "the GPUs communicate only in certain layers"."""
    half = {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048}
    expected = {
        Entry("fc8", False, "all-reduce", 2): FLOAT * BATCH * 1000,
    }
    for layer, floats in half.items():
        expected[Entry(layer, False, "all-gather", 2)] = FLOAT * BATCH * floats
        expected[Entry(layer, True, "reduce-scatter", 2)] = FLOAT * BATCH * floats
    split = Mesh(devices=2, towers=True)
    assert ledger_of(split) == expected
    assert sum(least(NET, BATCH, make_mesh(split)).values()) == sum(expected.values())


def by_layer(ledger: Ledger) -> Counter[tuple[str, bool]]:
    sums = Counter()
    for entry, count in ledger.items():
        sums[entry.layer, entry.backward] += count
    return sums


def test_towers_that_split_the_batch_too_move_no_more_than_they_must():
    split = Mesh(devices=4, towers=True)
    received = by_layer(ledger_of(split))
    assert received.pop(("", False)) < 100  # the batch's metrics
    assert received == least(NET, BATCH, make_mesh(split))


def test_a_split_batch_sums_the_gradients_of_all_parameters():
    split = Mesh(devices=2)
    ledger = ledger_of(split)
    assert {entry.operation for entry in ledger} == {"all-reduce"}
    assert sum(least(NET, BATCH, make_mesh(split)).values()) == FLOAT * PARAMETERS
    received = by_layer(ledger)
    assert received.pop(("", False)) < 100
    assert sum(received.values()) == pytest.approx(FLOAT * PARAMETERS, rel=1e-3)


@pytest.mark.parametrize("group", [4])
def test_a_shared_classifier_moves_what_the_trick_is_for(group):
    """One weird trick: images are gathered, and no gradient of the parameters."""
    split = Mesh(devices=8, classifier=group)
    received, needed = by_layer(ledger_of(split)), least(NET, BATCH, make_mesh(split))
    assert received.pop(("", False)) < 100
    assert received.keys() == needed.keys()
    for (layer, backward), count in received.items():
        # On CPUs convolutions' biases are summed over devices as rows of WIDE floats.
        spare = 2 * FLOAT * WIDE if layer.startswith("conv") else 0
        assert 0 <= count - needed[layer, backward] <= spare, layer
    whole = least(NET, BATCH, make_mesh(Mesh(devices=8)))
    assert sum(needed.values()) < sum(whole.values()) / 5


def test_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match="--batch 6 does not divide over 4 devices"):
        compiled(NET, 6, make_mesh(Mesh(devices=4)), CROP, 256)


def test_a_permute_of_tpus_counts_its_array_alone():
    """The TPU compiler adds two scalars after the array."""
    array = "bf16[128,1008]{1,0}"
    line = (
        f"%collective-permute-start.1 = ({array}, {array}, u32[], u32[]) "
        "collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}"
    )
    assert read(line, NET).total() == 2 * 128 * 1008


def test_groups_that_are_not_named_are_of_all_devices():
    lines = (
        "HloModule jit_train_step, num_partitions=8",
        "%all-reduce.1 = f32[80]{0} all-reduce(%x), replica_groups={}, to_apply=%sum",
    )
    assert read("\n".join(lines), NET) == {
        Entry("", False, "all-reduce", 8): 2 * 7 * FLOAT * 80 // 8
    }


def test_zero_gathers_what_each_device_updated():
    """And sums gradients as without it; a TPU then sums into parts."""
    split = Mesh(devices=2)
    more = ledger_of(split, zero=True) - ledger_of(split)
    assert more == {Entry("", False, "all-gather", 2): FLOAT * PARAMETERS // 2}
    assert ledger_of(split) <= ledger_of(split, zero=True)


def test_zero_of_towers_moves_nothing_between_them():
    towers = Mesh(devices=4, towers=True)
    more = ledger_of(towers, zero=True) - ledger_of(towers)
    assert {entry.operation for entry in more} <= {"all-gather", "all-reduce"}
    assert more.total() == pytest.approx(FLOAT * PARAMETERS / 4, rel=0.01)


def test_what_is_received_of_a_result():
    """For four devices, by the definition of each operation."""
    expected = {
        "all-gather": 300,
        "all-reduce": 600,
        "reduce-scatter": 1200,
        "all-to-all": 300,
    }
    for operation, n in expected.items():
        line = f"%x.1 = f32[100]{{0}} {operation}(%y), replica_groups=[2,4]<=[8]"
        assert read(line, NET) == {Entry("", False, operation, 4): n}


def test_bfloat16_halves_what_must_be_exchanged():
    mesh = make_mesh(Mesh(devices=2, towers=True))
    half = build("alexnet-paper", compute="bfloat16")
    whole = sum(least(NET, BATCH, mesh).values())
    assert sum(least(half, BATCH, mesh).values()) == whole / 2
