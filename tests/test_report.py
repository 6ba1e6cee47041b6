import io
import json

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from alexvgg_jax import report

RESULT = report.Result(
    name="alexnet_relu",
    claim="AlexNet §3.1",
    command="python experiments/alexnet_relu.py",
    commit="0" * 40,
    machine=report.machine(),
    data={"set": "digits"},
    seeds=[0, 1],
    seconds=1.5,
    published={"speed-up to 25% training error, times": 6.0},
    ours={"speed-up to 25% training error, times": report.spread([4.0, 6.0])},
    arms={"relu": [{"seed": 0}, {"seed": 1}]},
    verdict="reproduced",
)


def test_a_result_comes_back_from_its_file(tmp_path):
    report.write(RESULT, tmp_path / "new" / "result.json")
    assert report.read(tmp_path / "new" / "result.json") == RESULT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]
    assert "§" in (tmp_path / "new" / "result.json").read_text(encoding="utf-8")


def test_the_table_shows_published_ours_and_the_gap():
    page = io.StringIO()
    Console(width=120, file=page).print(report.table(RESULT))
    printed = page.getvalue()
    for shown in ("AlexNet §3.1", "6 │ 5.00 ± 1.41 │ -1.00", "digits, 2 seeds"):
        assert shown in printed


def test_one_seed_has_no_deviation():
    assert report.spread([3.0]) == {"mean": 3.0}
    assert report.spread([1.0, 3.0]) == pytest.approx(
        {"mean": 2.0, "deviation": 2**0.5}
    )


def test_a_plot_is_drawn(tmp_path):
    curves = [
        report.Curve(
            "relu", "-", [[(0.0, 90.0), (1.0, 30.0)], [(0.0, 90.0), (1.0, 20.0)]]
        )
    ]
    path = tmp_path / "plot.png"
    report.plot_curves(curves, path, title="t", x="epochs", y="error", level=25.0)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_filters_of_two_towers_are_two_panels(tmp_path):
    """AlexNet Figure 3: "the kernels learned on GPU 1" and "on GPU 2"."""
    kernel = np.zeros((11, 11, 3, 96), np.float32)
    kernel[..., 0, :48] = 1.0  # red on GPU 1
    path = tmp_path / "filters.png"
    report.draw_filters(kernel, 2, path)
    pixels = matplotlib.image.imread(path)[..., :3]
    red = (pixels == [1, 0, 0]).all(axis=2)
    black = (pixels == 0).all(axis=2)
    middle = pixels.shape[1] // 2
    assert red[:, :middle].sum() > 10_000 > 100 > red[:, middle:].sum()
    assert black[:, middle:].sum() > 10_000


def test_filters_are_tiles_in_their_order():
    kernel = np.broadcast_to(np.arange(5.0), (2, 2, 3, 5))
    page = report._tiles(kernel, 2)
    assert page.shape == (8, 5, 3)
    assert page[::3, ::3, 0].tolist() == [[0, 1], [2, 3], [4, 1]]


def test_results_are_json_that_any_reader_takes(tmp_path):
    report.write(RESULT, tmp_path / "result.json")
    keys = json.loads((tmp_path / "result.json").read_text(encoding="utf-8")).keys()
    assert {"claim", "command", "commit", "machine", "data", "seeds"} < keys
    assert {"seconds", "published", "arms", "verdict"} < keys
