"""VGG §3.2: what is drawn is what the protocols see."""

import jax.numpy as jnp
import numpy as np
import pytest
import testing_views

from alexvgg_jax.augment import VIEWS, Statistics, map_views
from alexvgg_jax.config import Augment
from alexvgg_jax.data.decode import fit


@pytest.mark.parametrize("views", [1, 10, 50])
def test_squares_are_the_crops_of_the_protocol(views):
    """VGG §3.2: pixels that tell their own place, of an image or its centre square."""
    height, width = 230, 250
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((height, width))
    seen = image if views == 50 else fit(image, height)
    found = map_views(
        lambda crop: crop[0, 0, 0, :2],
        jnp.asarray(seen[None]),
        Statistics(jnp.zeros((1, 1, 3)), jnp.zeros((3, 3))),
        Augment(crop=224, mean="none"),
        views,
    )
    ours = testing_views.crops(height, width, views)
    assert found[: len(ours)].tolist() == np.array(ours).tolist()
    assert len(found) == len(ours) * len(VIEWS[views][1])


def test_the_score_map_covers_the_image():
    """VGG §3.2: one position for an image of the net's size, and a step of 32."""
    assert testing_views.positions(224, 224) == [(0, 0)]
    seen = testing_views.positions(256, 384)
    assert seen[1] == (0, 32) and len(seen) == 2 * 6
    assert seen[-1] == (256 - 224, 384 - 224)


def test_crops_are_counted(tmp_path):
    """VGG §3.2: 50 and 150, and dense evaluation costs less the fewer pixels."""
    (finding,) = testing_views.result().findings.values()
    assert finding.verdict.word == "counted"
    crops, three, *ratios = (figure.value for figure in finding.figures.values())
    assert (crops, three) == (50, 150)
    # 50 crops of 224 pixels against an image and its mirror image, where the
    # convolutions are almost all of the work.
    predicted = [25 * (224 / side) ** 2 for side in testing_views.SCALES]
    np.testing.assert_allclose(ratios, predicted, rtol=0.15)
    testing_views.main(tmp_path)
    assert (tmp_path / "testing_views.png").stat().st_size < 150_000
