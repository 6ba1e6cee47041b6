"""VGG16 and VGG19 in Keras, on random weights; the extra `parity` has it."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexvgg_jax import weights
from alexvgg_jax.models import build

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize("top", [True, False], ids=["top", "no top"])
@pytest.mark.parametrize(("name", "ours"), [("VGG16", "vgg-d"), ("VGG19", "vgg-e")])
@pytest.mark.filterwarnings("ignore")  # of Keras
def test_vgg(name, ours, top, suffix, tmp_path):
    """Logits, or pool5 without a top, and the gradient of the image, through Keras' own
    preprocessing."""
    net, file = build(ours, classes=10, image_size=64), tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0, 255, (2, 64, 64, 3)), jnp.float32)
    keras.utils.set_random_seed(0)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = getattr(keras.applications, name)(
            weights=None,
            include_top=top,
            classes=10,
            input_shape=(64, 64, 3),
            classifier_activation=None,
        )
        for weight in model.weights:
            if len(weight.shape) == 1:
                weight.assign(rng.normal(0, 0.1, weight.shape))
        model.save_weights(file) if "weights" in suffix else model.save(file)

        def their_loss(images):
            logits = model(keras.applications.vgg16.preprocess_input(images))
            return logits.sum(), logits

        (_, theirs), their_slope = jax.value_and_grad(their_loss, has_aux=True)(images)
    assert weights.net_of(file, ours).classes == (10 if top else 1000)
    params, provenance = weights.load(file, net)
    last = "fc8" if top else "pool5"

    def loss(images):
        mean = jnp.asarray(provenance.mean, jnp.float32)[None, None, None]
        logits, _ = net.apply(params, images - mean, train=False, until=last)
        return logits.sum(), logits

    (_, ours), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(images)
    theirs, their_slope = np.asarray(theirs), np.asarray(their_slope)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert np.linalg.norm(slope - their_slope) < 1e-3 * np.linalg.norm(their_slope)
