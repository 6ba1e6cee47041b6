import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexvgg_jax.data.batches import (
    by_shape,
    eval_batches,
    first_step,
    prefetch,
    train_batch,
)
from alexvgg_jax.data.sources import Source

few = settings(max_examples=25, deadline=None, derandomize=True)
counts = st.integers(1, 40)
batches = st.integers(1, 50)
hosts = st.integers(1, 4)
seeds = st.integers(0, 2**31)


def numbered(count: int) -> Source:
    """Every image's label is its number, and its pixels are too."""

    def fetch(numbers):
        images = numbers.astype(np.uint8)[:, None, None, None].repeat(3, axis=3)
        return images, numbers.astype(np.int32)

    return Source(
        "numbers",
        count,
        ("number",),
        fetch,
        lambda: np.arange(count),
        "",
        pictures=lambda *_: [],
    )


def numbers(source, batch, seed, steps, rows=None) -> np.ndarray:
    made = [train_batch(source, batch, seed, step, rows) for step in steps]
    for part in made:
        assert part.mask.all()
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
    return np.concatenate([part.labels for part in made])


@few
@given(counts, batches, seeds)
def test_an_epoch_has_every_image_once(count, batch, seed):
    steps = range(first_step(3, count, batch))
    seen = numbers(numbered(count), batch, seed, steps)
    for epoch in range(3):
        part = seen[epoch * count : (epoch + 1) * count]
        assert sorted(part.tolist()) == list(range(count))


@few
@given(counts, batches, seeds, st.integers(0, 20))
def test_a_batch_depends_on_its_seed_and_step_alone(count, batch, seed, step):
    source = numbered(count)
    alone = numbers(source, batch, seed, [step])
    after = numbers(source, batch, seed, range(step + 1))
    numbers(source, batch, seed + 1, [step])
    np.testing.assert_array_equal(alone, after[-batch:])
    np.testing.assert_array_equal(alone, numbers(source, batch, seed, [step]))


@few
@given(counts, batches, seeds)
def test_the_order_does_not_depend_on_the_batch(count, batch, seed):
    source = numbered(count)
    double = numbers(source, 2 * batch, seed, range(2))
    np.testing.assert_array_equal(double, numbers(source, batch, seed, range(4)))


@few
@given(counts, st.integers(1, 10), hosts, seeds, st.integers(0, 20))
def test_hosts_share_the_batch_of_one(count, rows, of, seed, step):
    source, batch = numbered(count), rows * of
    of_hosts = np.arange(batch).reshape(of, rows)
    shares = [numbers(source, batch, seed, [step], share) for share in of_hosts]
    assert {len(share) for share in shares} == {rows}
    np.testing.assert_array_equal(
        np.concatenate(shares), numbers(source, batch, seed, [step])
    )


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        tuple(numbers(numbered(40), 40, seed, [epoch]).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert tuple(range(40)) not in orders


def test_without_shuffling_every_epoch_has_the_order_of_the_source():
    """As the original program went through its batches."""
    made = [
        train_batch(numbered(5), 3, seed=1, step=step, shuffle=False).labels
        for step in range(4)
    ]
    assert np.concatenate(made).tolist() == [*range(5), *range(5), 0, 1]


@few
@given(st.integers(0, 100), counts, batches)
def test_first_step_is_the_first_that_completes_the_epochs(epoch, count, batch):
    step = first_step(epoch, count, batch)
    assert step * batch >= epoch * count
    assert step == 0 or (step - 1) * batch < epoch * count


@few
@given(counts, st.integers(1, 10), hosts)
def test_evaluation_counts_every_image_once(count, rows, of):
    source, batch = numbered(count), rows * of
    of_hosts = np.arange(batch).reshape(of, rows)
    shares = [list(eval_batches(source, batch, share)) for share in of_hosts]
    # Every host makes as many batches, all of one shape: they compute together.
    assert {len(share) for share in shares} == {-(-count // batch)}
    made = [part for share in shares for part in share]
    assert {part.images.shape for part in made} == {(rows, 1, 1, 3)}
    counted = np.concatenate([part.labels[part.mask] for part in made])
    assert sorted(counted.tolist()) == list(range(count))


def test_evaluation_fills_up_the_last_batch():
    """5 images in a batch of 8, as two hosts see them."""
    of_hosts = np.arange(8).reshape(2, 4)
    first, second = (next(eval_batches(numbered(5), 8, rows)) for rows in of_hosts)
    assert first.mask.tolist() == [True] * 4
    assert second.mask.tolist() == [True, False, False, False]
    assert first.labels.tolist() == [0, 1, 2, 3]
    assert second.labels[0] == 4


def test_damaged_images_are_masked():
    def fetch(numbers):
        return np.zeros((len(numbers), 1, 1, 3), np.uint8), np.where(
            numbers % 3, numbers, -1
        ).astype(np.int32)

    source = Source(
        "every third is damaged",
        9,
        ("a",),
        fetch,
        lambda: np.zeros(9),
        "",
        pictures=lambda *_: [],
    )
    trained = train_batch(source, 9, seed=0, step=0)
    (tested,) = eval_batches(source, 10)
    for batch in (trained, tested):
        assert sorted(batch.labels[batch.mask].tolist()) == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_prefetch_keeps_the_order(count, depth, threads):
    made = prefetch((lambda i=i: i for i in range(count)), depth, threads)
    assert list(made) == list(range(count))


def test_prefetch_stays_a_few_ahead():
    asked = []
    made = prefetch((asked.append(i) or (lambda i=i: i) for i in range(20)), depth=2)
    assert not asked
    for i in range(5):
        assert next(made) == i
        assert len(asked) == i + 3
    made.close()


def test_prefetch_passes_an_exception_on_at_its_place():
    def make(i: int) -> int:
        if i == 3:
            raise OSError("disk full")
        return i

    made = prefetch((lambda i=i: make(i)) for i in range(20))
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk full"):
        next(made)


def test_shapes_of_batches_are_few_and_large_enough():
    rng = np.random.default_rng(0)
    images = [np.zeros((40, int(n), 3), np.uint8) for n in rng.integers(40, 200, 500)]
    images += [image.swapaxes(0, 1) for image in images]
    found, full = [], {}
    for shape, group in by_shape(enumerate(images), 16):
        for number, image in group:
            found.append(number)
            height, width, _ = image.shape
            assert height <= shape[0] < height + 32 and width <= shape[1] < width + 32
            assert min(shape) == min(height, width)
        full.setdefault(shape, []).append(len(group))
    assert sorted(found) == list(range(1000))
    assert len(full) <= 2 * 6 + 1
    for sizes in full.values():
        assert set(sizes[:-1]) <= {16}
