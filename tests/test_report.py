import io
import json

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


def test_results_are_json_that_any_reader_takes(tmp_path):
    report.write(RESULT, tmp_path / "result.json")
    keys = json.loads((tmp_path / "result.json").read_text(encoding="utf-8")).keys()
    assert {"claim", "command", "commit", "machine", "data", "seeds"} < keys
    assert {"seconds", "published", "arms", "verdict"} < keys
