"""Bounding boxes as VGG's appendix A predicts them: centre x, centre y, width, height.

In pixels, or in any other unit that all boxes share.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

MERGE_IOU = 0.5  # boxes that overlap at least this much are merged


class Merged(NamedTuple):
    """Boxes that are far apart, the best one first."""

    boxes: Float[np.ndarray, "merged 4"]
    scores: Float[np.ndarray, " merged"]


def iou(
    first: Float[np.ndarray, "*#boxes 4"], second: Float[np.ndarray, "*#boxes 4"]
) -> Float[np.ndarray, "*#boxes"]:
    """The area of each pair's intersection over that of its union (VGG Appendix A).

    From 0 to 1. A box of negative size has no area.
    """
    sizes = [np.maximum(boxes[..., 2:], 0) for boxes in (first, second)]
    centres = first[..., :2], second[..., :2]
    pairs = list(zip(centres, sizes, strict=True))
    low = np.maximum(*(centre - size / 2 for centre, size in pairs))
    high = np.minimum(*(centre + size / 2 for centre, size in pairs))
    shared = np.maximum(high - low, 0).prod(axis=-1)
    union = sum(size.prod(axis=-1) for size in sizes) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


def merge_boxes(
    boxes: Float[np.ndarray, "boxes 4"],
    scores: Float[np.ndarray, " boxes"],
) -> Merged:
    """VGG Appendix A: merge the predictions of one object greedily, then rate them.

    As in OverFeat (Sermanet et al. 2014): while two boxes are close, the closest two
    become one; a merged box is the mean of its predictions, and its score their sum. A
    score is the probability of the object's class in the window that predicts the box.
    OverFeat's measure of closeness, centre distance with intersection area, is not
    given in full. Here it is the IoU.
    """
    weights = np.ones(len(boxes))
    while len(boxes) > 1:
        overlap = np.triu(iou(boxes[:, None], boxes[None]), k=1)
        pair = np.unravel_index(overlap.argmax(), overlap.shape)
        if overlap[pair] < MERGE_IOU:
            break
        pair = list(pair)
        merged = np.average(boxes[pair], axis=0, weights=weights[pair])
        boxes = np.concatenate([np.delete(boxes, pair, axis=0), merged[None]])
        scores = np.append(np.delete(scores, pair), scores[pair].sum())
        weights = np.append(np.delete(weights, pair), weights[pair].sum())
    order = np.argsort(-scores, kind="stable")
    return Merged(boxes[order], scores[order])
