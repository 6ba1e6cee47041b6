"""Confusion matrices and the worst mistakes."""

import cv2
import numpy as np
import pytest

from alexvgg_jax import mistakes
from alexvgg_jax.data.sources import Source

# True classes 0 0 1 2; predicted 0 2 1 1, the last one with the most certainty.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.3, 0.4, 0.3], [0.0, 0.9, 0.1]], np.float32
)
LABELS = np.array([0, 0, 1, 2])


def test_who_is_taken_for_whom():
    expected = [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert mistakes.confusion(PROBABILITIES, LABELS).tolist() == expected
    assert mistakes.worst(PROBABILITIES, LABELS).tolist() == [3, 1]


def test_only_the_most_confused_of_many_classes(tmp_path):
    """Pairs with more mistakes first; the picture does not grow."""
    counts = np.diag(np.full(1000, 50))
    counts[7, 900] = 3
    for i in range(100, 140, 2):
        counts[i, i + 1] = 2
    shown = mistakes.most_confused(counts)
    assert shown == [7, *range(100, 118), 900]
    names = tuple(f"a class with a long name, {i}" for i in range(1000))
    mistakes.draw_confusion(counts, names, tmp_path / "many.png")
    image = cv2.imread(str(tmp_path / "many.png"))
    assert image is not None and max(image.shape) < 2000
    assert mistakes.most_confused(counts[:3, :3]) == [0, 1, 2]


@pytest.mark.parametrize("bad", [(), (0, 3)], ids=["good", "damaged"])
def test_the_pictures_are_those_that_were_predicted(bad, tmp_path, monkeypatch):
    """Damaged images have no prediction."""
    count = len(LABELS) + len(bad)
    labels = np.full(count, -1)
    labels[[i for i in range(count) if i not in bad]] = LABELS
    images = (
        np.zeros((count, 8, 8, 3), np.uint8) + np.arange(count)[:, None, None, None]
    )
    source = Source(
        "four",
        count,
        ("ant", "bee", "cow"),
        lambda numbers: (images[numbers], labels[numbers]),
        lambda: labels,
        "",
        pictures=lambda *_: [],
    )
    shown = []
    monkeypatch.setattr(mistakes, "draw_pictures", lambda *drawn: shown.extend(drawn))
    line = mistakes.draw(source, PROBABILITIES, LABELS, tmp_path)
    assert line.startswith("accuracy 50.00%: 2 of 4; drawn: ")
    pixels, titles, *_ = shown
    assert pixels[:, 0, 0, 0].tolist() == [
        np.flatnonzero(labels >= 0)[i] for i in (3, 1)
    ]
    assert titles == ["bee 90%\ntrue: cow", "cow 70%\ntrue: ant"]
    assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_no_mistakes_are_drawn_too(tmp_path):
    mistakes.draw_pictures(
        np.zeros((0, 8, 8, 3), np.uint8), [], "all", tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
