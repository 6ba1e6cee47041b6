"""Bounding boxes: their overlap, and the greedy merging of predictions."""

import numpy as np

from alexvgg_jax.boxes import iou, merge_boxes


def random_boxes(rng, count, low=4):
    """Boxes with corners on a grid of 40 x 40."""
    sizes = rng.integers(low, 20, (count, 2))
    return np.concatenate([rng.integers(0, 41 - sizes) + sizes / 2, sizes], axis=1)


def covered(box):
    """The cells of the grid that a box covers."""
    cells, (x, y, width, height) = np.zeros((40, 40), bool), box
    top, left = int(y - height / 2), int(x - width / 2)
    cells[top : top + int(height), left : left + int(width)] = True
    return cells


def test_overlap_is_that_of_counted_cells():
    """VGG Appendix A: the measure of a right box."""
    first, second = random_boxes(np.random.default_rng(0), 200).reshape(2, 100, 4)
    expected = [
        (covered(a) & covered(b)).sum() / (covered(a) | covered(b)).sum()
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(iou(first, second), expected)


def test_overlap_of_special_boxes():
    box = np.array([5.0, 5.0, 4.0, 2.0])
    assert iou(box, box) == 1
    assert iou(box, box + [4, 0, 0, 0]) == 0  # they touch
    assert iou(box, box * [1, 1, -1, 1]) == 0
    assert iou(0 * box, 0 * box) == 0


def joined(boxes):
    """The groups of boxes that greedy merging makes, by their numbers."""
    groups = [[i] for i in range(len(boxes))]

    def closeness(pair):
        first, second = (boxes[groups[i]].mean(axis=0) for i in pair)
        return float(iou(first, second))

    while True:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        first, second = max(pairs, key=closeness)
        if closeness((first, second)) < 0.5:
            return groups
        groups[second] += groups.pop(first)


def test_merged_boxes_are_means_of_their_predictions():
    """VGG Appendix A: against groups of predictions, of three objects."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        objects = random_boxes(rng, 3, 12)[rng.integers(0, 3, 9)]
        boxes, scores = objects + rng.normal(0, 2, (9, 4)), rng.random(9)
        groups = sorted(joined(boxes), key=lambda group: -scores[group].sum())
        assert 1 < len(groups) < 9
        merged = merge_boxes(boxes, scores)
        means = [boxes[group].mean(axis=0) for group in groups]
        np.testing.assert_allclose(merged.boxes, means)
        sums = [scores[group].sum() for group in groups]
        np.testing.assert_allclose(merged.scores, sums)
        order = rng.permutation(9)
        again = merge_boxes(boxes[order], scores[order])
        np.testing.assert_allclose(again.boxes, merged.boxes)


def test_many_weak_windows_outvote_a_strong_one():
    """VGG Appendix A: a merged box is rated by the sum of its windows' scores."""
    boxes = np.array([[10.0, 10, 8, 8], [10, 11, 8, 8], [11, 10, 8, 8], [30, 30, 8, 8]])
    merged = merge_boxes(boxes, np.array([0.3, 0.3, 0.3, 0.8]))
    np.testing.assert_allclose(merged.boxes[0], boxes[:3].mean(axis=0))
    assert merge_boxes(boxes[:1], np.ones(1)).boxes.tolist() == boxes[:1].tolist()
