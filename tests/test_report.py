import dataclasses
import io
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from alexvgg_jax import paper, report
from alexvgg_jax.errors import InputError

RESULT = report.Result(
    name="alexnet_relu",
    command="python experiments/alexnet_relu.py",
    commit="0" * 40,
    machine=report.machine(),
    data={"set": "digits", "epochs": 0},
    seeds=[0, 1],
    seconds=1.5,
    findings={
        "AlexNet §3.1": report.Finding(
            published={"speed-up to 25% training error, times": 6.0},
            ours={"speed-up to 25% training error, times": report.spread([4.0, 6.0])},
            verdict="reproduced",
        )
    },
    arms={"relu": [{"seed": 0}, {"seed": 1}]},
)


def test_a_result_comes_back_from_its_file(tmp_path):
    report.write(RESULT, tmp_path / "new" / "result.json")
    assert report.read(tmp_path / "new" / "result.json") == RESULT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]
    assert "§" in (tmp_path / "new" / "result.json").read_text(encoding="utf-8")


def test_the_table_shows_published_ours_and_the_gap():
    page = io.StringIO()
    Console(width=120, file=page).print(report.tables(RESULT))
    printed = page.getvalue()
    for shown in ("AlexNet §3.1", "6 │ 5.00 ± 1.41 │ -1.00", "digits, 2 seeds"):
        assert shown in printed


def test_what_was_not_tested_has_no_gap():
    (found,) = RESULT.findings.values()
    elsewhere = dataclasses.replace(found, verdict="not tested: other data")
    assert [row[3] for row in report.figures(found)] == ["-1.00"]
    assert [row[3] for row in report.figures(elsewhere)] == ["-"]


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


def test_what_a_full_disk_leaves(largest_file, tmp_path):
    """The plot and the table that were there, and nothing half-written."""
    curve = report.Curve("relu", "-", [[(0.0, 90.0), (1.0, 30.0)]])
    plot, table = tmp_path / "it.png", tmp_path / "it.txt"
    for path in (plot, table):
        path.write_text("earlier")
    largest_file(100)
    with pytest.raises(OSError, match="it.png: File too large"):
        report.plot_curves([curve], plot, title="t", x="epochs", y="error")
    with pytest.raises(OSError, match="it.txt: File too large"):
        report.write_table(report.tables(RESULT), table)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"earlier"}
    assert len(list(tmp_path.iterdir())) == 2


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
    assert {"findings", "command", "commit", "machine", "data", "seeds"} < keys
    assert {"seconds", "arms"} < keys


def test_a_difference_has_the_standard_error_of_the_variance_within_arms():
    """Student's t for two, as scipy computes it; of more, the mean square of its F."""
    errors = {"a": [30.0, 31.0, 32.5], "b": [28.0, 28.5, 28.0], "c": [40.0, 40.1, 43.0]}
    arms = {arm: [{"e": value} for value in values] for arm, values in errors.items()}
    wild = [{"e": 90.0, "diverged": True}] * 3  # which says nothing of the others
    two = {"a": arms["a"], "b": arms["b"], "wild": wild}
    found = report.difference(two, "a", "b", "e")
    t = scipy.stats.ttest_ind(errors["a"], errors["b"]).statistic
    assert found["mean"] / found["error"] == pytest.approx(t)
    means = [np.mean(values) for values in errors.values()]
    within = (
        3 * np.var(means, ddof=1) / scipy.stats.f_oneway(*errors.values()).statistic
    )
    found = report.difference(arms, "a", "b", "e")
    assert found["error"] == pytest.approx(np.sqrt(within * 2 / 3))
    found = report.difference(arms, ["a", "c"], "b", "e")
    assert found["mean"] == pytest.approx((means[0] + means[2]) / 2 - means[1])
    assert found["error"] == pytest.approx(np.sqrt(within * (1 / 6 + 1 / 3)))
    one = {"a": [{"e": 3.0}], "b": [{"e": 1.0}]}
    assert report.difference(one, "a", "b", "e") == {"mean": 2.0}
    # Chance in all seeds is as sure as can be; in one, no error describes it.
    sure = report.difference(two, "wild", "b", "e")["error"]
    assert sure == report.difference(two, "a", "b", "e")["error"]
    mixed = {**two, "a": [*arms["a"][:2], wild[0]]}
    found = report.difference(mixed, "a", "b", "e")
    assert found == {
        "mean": pytest.approx(np.mean([30, 31, 90]) - np.mean(errors["b"]))
    }
    assert report.verdict(found).startswith("undecided: no standard error")
    assert report.estimate([1.0, 3.0]) == {"mean": 2.0, "error": 1.0}


def test_the_error_of_counting_is_binomial():
    images = 400
    deviation = scipy.stats.binom(images, 0.1).std() / images
    assert report.counted(10.0, images) == pytest.approx(100 * deviation)


@pytest.mark.parametrize(
    ("mean", "error", "above", "found"),
    [
        (1.0, 0.4, 0.0, "reproduced"),
        (1.0, 0.6, 0.0, "undecided"),
        (-1.0, 0.6, 0.0, "undecided"),
        (-1.0, 0.4, 0.0, "not reproduced"),
        (2.0, 0.2, 1.5, "reproduced"),
        (1.6, 0.2, 1.5, "undecided"),
    ],
)
def test_verdicts_need_two_standard_errors(mean, error, above, found):
    assert report.verdict({"mean": mean, "error": error}, above) == found


def test_what_has_no_claim_shows_its_arms():
    errors = [
        {"seed": i, "test error, %": error} for i, error in enumerate((20.0, 22.0))
    ]
    arms = {"best found": errors, "trials": [{"number": 0, "error, %": 30.0}]}
    result = dataclasses.replace(RESULT, findings={}, arms=arms)
    page = report.page({"alexnet_search": result}, "results", {})
    assert page.endswith(
        "\n| arm | test error, % |\n|---|---:|\n| best found | 21.00 ± 1.41 |\n"
    )


def test_one_seed_decides_nothing():
    assert report.verdict({"mean": 100.0}).startswith("undecided")


def test_the_page_has_every_claim_and_says_which_was_not_run():
    drawn = {"alexnet_relu": ["alexnet_relu.png", "alexnet_relu_more.png"]}
    result = dataclasses.replace(RESULT, commit=", ".join(["0" * 40, "1" * 40 + "+"]))
    page = report.page({"alexnet_relu": result}, "results", drawn)
    lines = {
        line.split("|")[1].strip(): line
        for line in page.splitlines()
        if line.startswith("| ")
    }
    assert {claim.tag for claim in paper.CLAIMS} < lines.keys()
    assert "[reproduced](#alexnet_relu)" in lines["AlexNet §3.1"]
    command = "python experiments/alexnet_lrn.py --data cifar10 --out"
    assert f"not run: `{command} experiments/results`" in lines["AlexNet §3.3"]
    assert "not tested" in lines["AlexNet §6 Fall 2009"]
    assert "67.4" in lines["AlexNet §6 Fall 2009"]
    assert (
        "times: 6 | speed-up to 25% training error, times: 5.00 ±"
        in (lines["AlexNet §3.1"])
    )
    assert "| 6 | 5.00 ± 1.41 | -1.00 |" in page
    assert lines["AlexNet §3.1"].endswith(
        "| digits | [reproduced](#alexnet_relu) | 2 |"
    )
    assert "![alexnet_relu](results/alexnet_relu.png)" in page
    assert "![alexnet_relu](results/alexnet_relu_more.png)" in page
    assert f"commit {'0' * 12}, {'1' * 12}+." in page
    assert "reproduced" not in report.page({}, "results", {})


def test_the_pictures_of_a_result_are_those_of_its_name(tmp_path):
    for name in ("a.png", "a_filters.png", "ab.png", "a.json"):
        (tmp_path / name).touch()
    assert report.pictures(["a"], tmp_path) == {"a": ["a.png", "a_filters.png"]}


def test_figures_as_they_are_shown():
    assert report.show({"mean": 0.0005}) == "0.0005"
    assert report.show({"mean": 28.126, "deviation": 0.3}) == "28.13 ± 0.30"
    assert report.show({"mean": -1.5, "error": 0.25}) == "-1.50 ± 0.25 (s.e.)"
    assert report.show(None) == "-"


def test_a_file_that_holds_no_result_is_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"findings": {}, "name": "x"}')
    with pytest.raises(InputError, match="broken.json: not an experiment's result"):
        report.read_all(tmp_path)
    path.write_text('{"findings": {')
    with pytest.raises(InputError, match="broken.json: not JSON"):
        report.read_all(tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="broken.json: not an experiment's result"):
        report.read_all(tmp_path)
    for wrong in ({"published": {"figure": "x"}}, {"verdict": 5}):
        fields = dataclasses.asdict(RESULT)
        fields["findings"]["AlexNet §3.1"] |= wrong
        report.write_json(fields, path)
        with pytest.raises(InputError, match="broken.json: not an experiment's result"):
            report.read_all(tmp_path)
    whole = dataclasses.asdict(RESULT)
    report.write_json(whole, path)
    assert report.read_all(tmp_path) == {"broken": RESULT}
    without = {key: value for key, value in whole.items() if key != "findings"}
    for wrong in (without, {}):
        report.write_json(wrong, path)
        with pytest.raises(InputError, match="broken.json: not an experiment's result"):
            report.read_all(tmp_path)
    path.write_text('{"name": "a benchmark"}')
    assert report.read_all(tmp_path) == {}


@pytest.mark.parametrize("arms", [[], {"relu": [5]}])
def test_arms_that_are_none_are_no_result(tmp_path, arms):
    """In a program of its own: the tests' type checker would refuse them as well."""
    path = tmp_path / "broken.json"
    report.write_json(dataclasses.asdict(RESULT) | {"arms": arms}, path)
    reads = "import pathlib, sys, alexvgg_jax.report as report\n"
    reads += "report.read(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", reads, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=report.ROOT)
    assert "broken.json: not an experiment's result" in done.stderr


def test_a_claim_has_one_result(tmp_path):
    for name in ("one", "two"):
        report.write(RESULT, tmp_path / f"{name}.json")
    with pytest.raises(InputError, match="two.json and one.json: both of AlexNet §3.1"):
        report.read_all(tmp_path)
