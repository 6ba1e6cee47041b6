"""Digits pasted on photographs: pictures with known boxes.

scikit-learn's digits, 8x8 pixels, scaled to a side of 40 to 80 and painted in a light
colour on a square of its two photographs, darkened by half. Size, place, colour and
square are random, and the same in every run. Test pictures have other digits, and
squares of the photographs' right halves; training pictures have the left ones.
"""

import functools
import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.datasets import load_sample_image

from alexvgg_jax.config import Data
from alexvgg_jax.data.sources import open_source

SIDE = 96  # pixels of a picture
DIGIT = 40, 80  # pixels: the sides of a digit with its margins

photograph = functools.cache(load_sample_image)


class Pictures(NamedTuple):
    """Pictures of one digit each, and the boxes of its strokes in pixels."""

    images: UInt8[np.ndarray, "pictures side side 3"]
    boxes: Float[np.ndarray, "pictures 4"]  # centre x and y, width, height
    labels: Int[np.ndarray, " pictures"]


def background(rng: np.random.Generator, test: bool) -> np.ndarray:
    """Return a random square of half a photograph."""
    photo = photograph(rng.choice(["china.jpg", "flower.jpg"]))
    half = np.array_split(photo, 2, axis=1)[test]
    side = rng.integers(SIDE, 2 * SIDE)
    top, left = rng.integers(0, np.array(half.shape[:2]) - side + 1)
    square = half[top : top + side, left : left + side] // 2
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def paste(
    rng: np.random.Generator, picture: np.ndarray, digit: np.ndarray
) -> np.ndarray:
    """Paint a digit into the picture, and return the box of its strokes."""
    side = int(rng.integers(DIGIT[0], DIGIT[1] + 1))
    ink = cv2.resize(digit[..., 0], (side, side)) / 255
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, None]
    height, width = ink.shape[:2]
    top, left = rng.integers(0, [SIDE - height + 1, SIDE - width + 1])
    place = picture[top : top + height, left : left + width]
    place[:] = ink * rng.integers(128, 256, 3) + (1 - ink) * place
    return np.array([left + width / 2, top + height / 2, width, height])


def pictures(count: int, test: bool) -> Pictures:
    """Return the first training or test pictures. Each digit of the split is used once
    before one is used again."""
    source = open_source(Data("digits"), "test" if test else "train")
    seeds = np.random.SeedSequence(int(test)).spawn(1 + count)
    of_order, *of_pictures = map(np.random.default_rng, seeds)
    digits, labels = source.fetch(np.resize(of_order.permutation(source.count), count))
    images, boxes = [], []
    for rng, digit in zip(of_pictures, digits, strict=True):
        images.append(background(rng, test))
        boxes.append(paste(rng, images[-1], digit))
    return Pictures(np.stack(images), np.array(boxes, np.float32), labels)


@functools.cache
def digest(train: int, test: int) -> str:
    """Return a digest of the first `train` training pictures and `test` test pictures.
    It changes with anything that they are made by or from."""
    digest = hashlib.sha256()
    for array in (*pictures(train, test=False), *pictures(test, test=True)):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
