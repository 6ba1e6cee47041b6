import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alexvgg_jax.augment import (
    Statistics,
    augment,
    centre,
    centre_crop,
    map_views,
    mirror,
    pca_colour,
    random_crop,
    scale_jitter,
    statistics,
)
from alexvgg_jax.config import Augment, Mesh
from alexvgg_jax.errors import InputError
from alexvgg_jax.sharding import make_mesh, place, replicated

KEY = jax.random.key(0)
NO_MEAN = Statistics(jnp.zeros((8, 8, 3)), jnp.zeros((3, 3)))
EVERYTHING = Augment(crop=6, mirror=True, colour=0.1)


def noise(batch: int, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, height, width, 3), np.uint8)


def places(batch: int, height: int, width: int) -> np.ndarray:
    """Images whose pixels are (row, column, number of the image)."""
    grid = np.mgrid[:height, :width].transpose(1, 2, 0)
    images = np.empty((batch, height, width, 3), np.uint8)
    images[..., :2] = grid
    images[..., 2] = np.arange(batch)[:, None, None] % 256
    return images


@pytest.mark.parametrize("height, width, size", [(6, 6, 4), (7, 5, 5), (6, 6, 6)])
def test_crops_are_slices_from_every_place(height, width, size):
    """AlexNet §4.1 crops: every offset, 0 and the largest too, as likely."""
    batch = 2000
    crops = np.asarray(
        random_crop(KEY, jnp.asarray(places(batch, height, width)), size)
    )
    assert crops.shape == (batch, size, size, 3)
    assert crops.dtype == np.uint8
    corners = crops[:, 0, 0, :2]
    expected = places(batch, size, size)
    expected[..., :2] += corners[:, None, None]
    np.testing.assert_array_equal(crops, expected)
    found, counts = np.unique(corners, axis=0, return_counts=True)
    rows, columns = height - size + 1, width - size + 1
    assert found.tolist() == [[y, x] for y in range(rows) for x in range(columns)]
    mean = batch / (rows * columns)
    assert np.abs(counts - mean).max() <= 5 * np.sqrt(mean)


def test_rows_and_columns_of_a_crop_are_independent():
    """AlexNet §4.1 crops: 33 x 33 places, not 33."""
    crops = random_crop(KEY, jnp.asarray(places(2000, 40, 40)), 8)
    y, x = np.asarray(crops)[:, 0, 0, :2].T.astype(float)
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.1


def test_a_crop_larger_than_the_image_is_named():
    with pytest.raises(InputError, match="augment.crop 9 .* 8x10"):
        random_crop(KEY, jnp.asarray(noise(1, 8, 10)), 9)


def test_half_of_the_images_are_mirrored_left_to_right():
    """AlexNet §4.1 crops: and their horizontal reflections."""
    images = noise(2000, 3, 4)
    out = np.asarray(mirror(KEY, jnp.asarray(images)))
    assert out.dtype == np.uint8
    kept = (out == images).all(axis=(1, 2, 3))
    flipped = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ flipped).all()
    assert abs(flipped.mean() - 0.5) < 0.05


def test_colour_noise_is_one_offset_an_image():
    """AlexNet §4.1 colour: the same quantity is added to each pixel of an image."""
    images = jnp.asarray(noise(16, 4, 5)).astype(jnp.float32)
    components = jnp.array([[30.0, 5.0, 0.0], [10.0, 20.0, 3.0], [0.0, 4.0, 60.0]])
    added = pca_colour(KEY, images, components, 0.1) - images
    np.testing.assert_allclose(
        added, added[:, :1, :1].repeat(4, 1).repeat(5, 2), 0, 1e-4
    )
    assert len(np.unique(np.round(added[:, 0, 0], 3), axis=0)) == 16


def test_colour_noise_has_the_covariance_of_the_pixels():
    """AlexNet §4.1 colour: principal components of RGB, times N(0, 0.1)."""
    rng = np.random.default_rng(0)
    mix = np.array([[1.0, 0.8, 0.2], [0.0, 0.6, 0.3], [0.0, 0.0, 0.5]])
    pixels = np.clip(128 + 40 * rng.normal(size=(50, 8, 8, 3)) @ mix, 0, 255)
    images = pixels.astype(np.uint8)
    components = statistics([images]).components
    black = jnp.zeros((1, 1, 1, 3))
    keys = jax.random.split(KEY, 40_000)
    offsets = jax.vmap(lambda key: pca_colour(key, black, components, 0.1))(keys)
    offsets = np.asarray(offsets).reshape(-1, 3)
    expected = 0.1**2 * np.cov(images.reshape(-1, 3).T.astype(float))
    # The standard error of a variance over 40,000 draws is 0.7%.
    assert np.abs(np.cov(offsets.T) - expected).max() < 0.03 * expected.max()
    assert np.abs(offsets.mean(axis=0)).max() < 0.03 * np.sqrt(expected.max())


@pytest.mark.parametrize("parts", [1, 3])
def test_statistics_are_those_of_numpy(parts):
    """AlexNet §4.1 colour: PCA on the RGB values of the whole training set."""
    images = noise(200, 9, 7)
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 3  # correlated
    stats = statistics(np.array_split(images, parts))
    assert stats.mean.dtype == stats.components.dtype == jnp.float32
    wide = images.astype(np.float64)
    np.testing.assert_allclose(stats.mean, wide.mean(axis=0), rtol=1e-6)
    covariance = np.cov(wide.reshape(-1, 3).T, ddof=0)
    components = np.asarray(stats.components, np.float64)
    np.testing.assert_allclose(
        components @ components.T, covariance, atol=1e-5 * covariance.max()
    )
    # Columns are orthogonal, and as long as a deviation: square root of an eigenvalue.
    lengths = np.sqrt(np.linalg.eigh(covariance)[0])
    np.testing.assert_allclose(
        components.T @ components,
        np.diag(lengths**2),
        atol=1e-5 * covariance.max(),
    )


def test_statistics_of_grey_images_are_finite():
    grey = noise(20)[..., :1].repeat(3, axis=3)
    components = statistics([grey]).components
    assert jnp.isfinite(components).all()
    assert jnp.abs(components[:, :2]).max() < 1e-2  # all variance is along (1, 1, 1)


@pytest.mark.parametrize("mean", ["pixel", "channel", "none"])
@pytest.mark.parametrize("crop", [0, 8])
def test_without_noise_training_sees_what_tests_see(mean, crop):
    images = noise(4)
    stats, config = statistics([images]), Augment(crop=crop, mean=mean)
    trained = augment(KEY, jnp.asarray(images), stats, config)
    tested = centre(jnp.asarray(images), stats, config)
    np.testing.assert_array_equal(trained, tested)
    expected = {
        "pixel": images - images.mean(axis=0),
        "channel": images - images.mean(axis=(0, 1, 2)),
        "none": images,
    }
    np.testing.assert_allclose(trained, expected[mean], atol=1e-4)
    assert trained.dtype == tested.dtype == jnp.float32


def test_tests_see_the_centre():
    images = jnp.asarray(noise(4, 10, 10))
    stats = Statistics(jnp.zeros((10, 10, 3)), jnp.eye(3))
    out = centre(images, stats, Augment(crop=6, mirror=True, colour=0.1))
    np.testing.assert_array_equal(out, images[:, 2:8, 2:8])
    np.testing.assert_array_equal(centre_crop(images, 6), images[:, 2:8, 2:8])


def test_a_crop_loses_the_centre_of_the_mean_whatever_its_place():
    """AlexNet §4.1 crops: `__trim_borders`, not the mean under the crop (Caffe)."""
    mean = jnp.asarray(noise(1, 10, 10)[0]).astype(jnp.float32)
    stats = Statistics(mean, jnp.eye(3))
    grey = jnp.full((50, 10, 10, 3), 100, jnp.uint8)
    out = augment(KEY, grey, stats, Augment(crop=6))
    expected = jnp.broadcast_to(100 - mean[2:8, 2:8], (50, 6, 6, 3))
    np.testing.assert_array_equal(out, expected)


def test_augment_crops_mirrors_and_colours():
    """AlexNet §4.1 colour, AlexNet §4.1 crops: each switch does its own part."""
    images = jnp.asarray(places(500, 9, 9))
    stats = Statistics(jnp.zeros((9, 9, 3)), 50 * jnp.eye(3))
    out = functools.partial(augment, KEY, images, stats)
    cropped = np.asarray(out(Augment(crop=6, mean="none")))
    both = np.asarray(out(Augment(crop=6, mirror=True, mean="none")))
    unlike = (cropped != both).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(both[unlike], cropped[unlike][:, :, ::-1])
    assert 0.4 < unlike.mean() < 0.6
    added = (
        np.asarray(out(Augment(crop=6, mirror=True, mean="none", colour=0.1))) - both
    )
    np.testing.assert_allclose(added.std(axis=0).mean(axis=(0, 1)), 5, rtol=0.1)
    np.testing.assert_allclose(added.std(axis=(1, 2)), 0, atol=1e-4)
    # No key serves twice: the n-th draw of one kind says nothing of another's.
    draws = [cropped[:, 0, 0, 0], cropped[:, 0, 0, 1], unlike]
    draws += [added[:, 0, 0, 0], added[:, 0, 0].ravel()[:500]]
    assert np.abs(np.corrcoef(draws) - np.eye(5))[:4].max() < 0.2


def test_a_key_gives_one_result():
    images = noise(8)
    stats = statistics([images])
    out = [
        np.asarray(augment(key, jnp.asarray(images), stats, EVERYTHING))
        for key in (KEY, KEY, jax.random.key(1))
    ]
    assert out[0].dtype == np.float32
    np.testing.assert_array_equal(out[0], out[1])
    assert (out[0] != out[2]).any(axis=(1, 2, 3)).all()


def test_devices_do_not_change_the_result():
    images = noise(4 * len(jax.devices()))
    stats = statistics([images])
    step = jax.jit(augment, static_argnames="config")
    alone = step(KEY, jnp.asarray(images), stats, EVERYTHING)
    mesh = make_mesh(Mesh())
    key, shared = jax.device_put((KEY, stats), replicated(mesh))
    spread = step(key, place(images, mesh), shared, EVERYTHING)
    assert len(spread.sharding.device_set) == len(jax.devices())
    np.testing.assert_allclose(spread, alone, rtol=0, atol=1e-4)


def all_views(images, stats, config, views):
    return map_views(lambda view: view, images, stats, config, views).swapaxes(0, 1)


def test_ten_views_are_corners_centre_and_mirrors():
    """AlexNet §6 ten crops: four corners and the centre, and their mirror images."""
    images = jnp.asarray(places(2, 8, 8))
    config = Augment(crop=6, mean="none")
    seen = all_views(images, NO_MEAN, config, 10)
    assert seen.shape == (2, 10, 6, 6, 3)
    corners = [tuple(map(int, seen[0, i, 0, 0, :2])) for i in range(5)]
    assert corners == [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    np.testing.assert_array_equal(seen[:, 5:], seen[:, :5, :, ::-1])
    np.testing.assert_array_equal(seen[1, :, :, :, 2], 1)


def test_nine_views_are_a_grid_without_mirrors():
    images = jnp.asarray(places(1, 8, 8))
    seen = all_views(images, NO_MEAN, Augment(crop=6, mean="none"), 9)
    corners = [tuple(map(int, seen[0, i, 0, 0, :2])) for i in range(9)]
    assert corners == [(y, x) for y in (0, 1, 2) for x in (0, 1, 2)]


@pytest.mark.parametrize("crop", [0, 6])
def test_the_centre_as_a_view_is_what_tests_see(crop):
    images, config = jnp.asarray(noise(3)), Augment(crop=crop)
    stats = statistics([noise(5, seed=1)])
    (seen,) = map_views(lambda view: view, images, stats, config, 1)
    np.testing.assert_array_equal(seen, centre(images, stats, config))


def test_crops_that_do_not_shift_are_the_centre():
    images, stats = jnp.asarray(noise(3)), statistics([noise(5, seed=1)])
    still = Augment(crop=6, shift=False)
    seen = augment(KEY, images, stats, still)
    np.testing.assert_array_equal(seen, centre(images, stats, still))


def by_pillow(image: np.ndarray, side: int) -> np.ndarray:
    scaled = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.int32)


def test_scale_jitter_cuts_squares_from_images_of_every_scale():
    """VGG §3.1: every S from the smallest to the largest, as Pillow scales to it."""
    smallest, largest, size, count = 9, 12, 8, 2000
    image = noise(1, largest, largest)[0]
    images = jnp.asarray(np.broadcast_to(image, (count, *image.shape)))
    found = {
        (side, y, x): scaled[y : y + size, x : x + size]
        for side in range(smallest, largest + 1)
        for scaled in [by_pillow(image, side)]
        for y in range(side - size + 1)
        for x in range(side - size + 1)
    }
    squares = np.asarray(scale_jitter(KEY, images, size, smallest), np.int32)
    crops = np.stack(list(found.values()))
    fits = abs(squares[:, None] - crops).max(axis=(2, 3, 4)) <= 1
    assert (fits.sum(axis=1) == 1).all()
    drawn = dict(zip(found, fits.sum(axis=0), strict=True))
    assert min(drawn.values()) > 0
    for side in range(smallest, largest + 1):
        # A quarter of 2000, and five standard deviations.
        assert abs(sum(n for p, n in drawn.items() if p[0] == side) - 500) < 100


def test_training_sees_jittered_scales():
    jittered = Augment(crop=8, jitter_from=8, mean="none")
    images = jnp.asarray(noise(4, 12, 12))
    crop_key = jax.random.split(KEY, 3)[0]
    np.testing.assert_array_equal(
        augment(KEY, images, NO_MEAN, jittered), scale_jitter(crop_key, images, 8, 8)
    )
