import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax.loss import cross_entropy, top_k_error


def logits_and_labels(batch=64, classes=10, scale=3.0):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, scale, (batch, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, batch).astype(np.int32)


@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_cross_entropy_is_minus_log_p(scale):
    """AlexNet §3.5: the net maximises the mean log-probability of the label."""
    logits, labels = logits_and_labels(scale=scale)
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    loss = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, -log_p[np.arange(64), labels], 1e-5, 1e-5)


def test_cross_entropy_of_equal_logits_is_log_classes():
    loss = cross_entropy(jnp.zeros((3, 10)), jnp.arange(3))
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)


def test_the_gradient_is_probabilities_minus_one_hot():
    logits, labels = map(jnp.asarray, logits_and_labels())
    gradient = jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)
    expected = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 10)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_top_k_error_of_distinct_logits(k):
    logits, labels = logits_and_labels()
    largest = np.argsort(-logits, axis=1)[:, :k]
    expected = 1 - (largest == labels[:, None]).any(axis=1)
    error = top_k_error(jnp.asarray(logits), jnp.asarray(labels), k)
    assert error.dtype == jnp.float32
    np.testing.assert_array_equal(error, expected)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("classes", [10, 1000])
def test_equal_logits_give_the_error_of_guessing(classes, k):
    error = top_k_error(jnp.ones((4, classes)), jnp.arange(4), k)
    np.testing.assert_allclose(error, 1 - k / classes, rtol=1e-6)


@pytest.mark.parametrize(
    "row, label, k, expected",
    [
        ([2.0, 1.0, 1.0, 1.0, 0.0], 1, 1, 1),  # the place is taken
        ([2.0, 1.0, 1.0, 1.0, 0.0], 1, 2, 2 / 3),  # three share one place
        ([2.0, 1.0, 1.0, 1.0, 0.0], 1, 3, 1 / 3),  # three share two
        ([2.0, 1.0, 1.0, 1.0, 0.0], 1, 4, 0),
        ([2.0, 1.0, 1.0, 1.0, 0.0], 0, 1, 0),  # the ties are of others
        ([2.0, 1.0, 1.0, 1.0, 0.0], 4, 4, 1),
        ([2.0, 2.0, 1.0, 1.0, 0.0], 0, 1, 1 / 2),
        ([-np.inf, -np.inf, 0.0, 0.0, 0.0], 0, 4, 1 / 2),
    ],
)
def test_ties_count_for_their_share(row, label, k, expected):
    error = top_k_error(jnp.array([row]), jnp.array([label]), k)
    np.testing.assert_allclose(error, [expected], rtol=1e-6)


def test_more_places_than_classes_are_no_error():
    logits, labels = map(jnp.asarray, logits_and_labels(classes=3))
    np.testing.assert_array_equal(top_k_error(logits, labels, 5), 0)
    np.testing.assert_array_equal(top_k_error(jnp.zeros((2, 3)), labels[:2], 5), 0)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_nan_is_an_error(k):
    logits = jnp.zeros((2, 10)).at[0].set(jnp.nan).at[1, 3].set(jnp.nan)
    np.testing.assert_array_equal(top_k_error(logits, jnp.array([3, 3]), k), 1)
