"""The results page, the scoreboard, and plots."""

import alexnet_decay
import alexnet_pool
import made
import matplotlib.image
import numpy as np
import pytest
import report
import vgg_head
from _ablation import result_of

from alexvgg_jax import page, paper, plots
from alexvgg_jax.results import TEST, TRAINING


def pool(better: float):
    """A result of pooling whose paper's arm is better by this many points."""
    experiment = alexnet_pool.EXPERIMENT
    shift = {alexnet_pool.PAPER: 0.0, alexnet_pool.OTHER: better}
    records = [
        made.record(experiment, arm, seed, error=30 + 0.1 * seed + points)
        for arm, points in shift.items()
        for seed in range(3)
    ]
    return result_of(experiment, records)


@pytest.mark.parametrize("path", [report.PAGE, report.README], ids=lambda p: str(p))
def test_the_page_and_the_scoreboard_are_those_of_the_records(path):
    """If not: python experiments/report.py"""
    assert path.read_text(encoding="utf8") == report.render()[path]


def test_every_plot_is_shown():
    shown = report.PAGE.read_text(encoding="utf8")
    names = {experiment.name for experiment in report.EXPERIMENTS}
    for picture in report.RESULTS.glob("*.png"):
        if picture.stem.partition("-")[0] in names:
            assert f"](results/{picture.name})" in shown


def test_a_claim_and_its_experiment_are_on_the_page():
    text = page.render([pool(5.0)], {"alexnet_pool": ["results/alexnet_pool.png"]})
    assert (
        "| AlexNet §3.4 | Overlapping pooling lowers the error | -0.4 points | " in text
    )
    assert "| -5.00 ± 0.00 points | [agrees](#alexnet_pool) | alexnet-small, " in text
    assert "50,000 images, 30.1 / 30.1% training / test error, 3 seeds |" in text
    assert "    | top-1 error" not in text
    assert "| top-1 error | -0.4 points | -5.00 ± 0.00 points |" in text
    assert "`python experiments/alexnet_pool.py --data cifar10`" in text
    assert "![alexnet_pool](results/alexnet_pool.png)" in text
    assert "- **VGG Table 3**: " in text and "JPEG copy" not in text


def test_the_scoreboard_counts_every_claim_once():
    board = page.scoreboard([pool(-5.0)])
    assert (
        "agrees **0**, sign only **0**, contradicts here **1**, undecided **0**, "
        in board
    )
    assert "not tested **45**" in board
    assert "VGG's claims about errors are not measured yet" in board
    lines = [line for line in board.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(paper.CLAIMS)
    assert all(len(line) <= 120 for line in board.splitlines())


def test_an_experiment_without_a_claim_shows_its_figures():
    """The errors, and what it measures beside them."""
    experiment = vgg_head.EXPERIMENT
    parameters = {vgg_head.PARAMETERS: 445.5}
    records = [made.record(experiment, arm, **parameters) for arm in experiment.arms]
    text = page.render([result_of(experiment, records)], {})
    assert f"| arm | {TEST} | {TRAINING} | " in text
    assert f" | {vgg_head.PARAMETERS} | {vgg_head.MEMORY} |" in text
    assert "| global average | 40% | 40% | 40% | 40% | 445.5 | 40 |" in text


def test_what_a_claim_needs_is_said():
    """VGG §3.3, VGG Table 7: no small experiment can test them."""
    text = " ".join(page.render([], {}).split())
    assert "2 to 3 weeks. It needs four GPUs. No experiment." in text
    assert "It needs ImageNet. No experiment." in text


def test_a_jpeg_copy_is_named():
    experiment = alexnet_decay.EXPERIMENT
    data = made.CIFAR10 | {"set": "TFDS cifar10/3.0.2, JPEG images", "digest": ""}
    arms = experiment.arms
    records = [
        made.record(experiment, arm, seed, data=data) for arm in arms for seed in (0, 1)
    ]
    records += made.tries(experiment, data=data)
    shown = page.render([result_of(experiment, records)], {})
    assert "from a JPEG copy of it." in shown
    exact = [made.record(experiment, arm, seed) for arm in arms for seed in (0, 1)]
    exact += made.tries(experiment)
    assert "JPEG" not in page.render([result_of(experiment, exact)], {})
    other = result_of(alexnet_pool.EXPERIMENT, pool(5.0).records)
    both = page.render([result_of(experiment, records), other], {})
    assert "copy of it.\nThese are from the original: AlexNet §3.4." in both
    assert "converted from older result files" in shown


def test_the_scoreboard_goes_between_its_markers():
    readme = "before\n<!-- board -->\nold\n<!-- /board -->\nafter\n"
    assert page.insert(readme, "board", "new") == readme.replace("old", "new")


def test_plots_are_drawn(tmp_path):
    result = pool(5.0)
    plots.plot_arms(result.arms, tmp_path / "a.png", text="t", figures=(TEST,))
    lines = {"relu": [([0.5, 1.5], [60.0, 30.0])], "tanh": [([0.5], [70.0])]}
    plots.plot_curves(lines, tmp_path / "b.png", text="t", y=TEST, level=25.0)
    for name in "ab":
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_full_disk_leaves_the_earlier_plot(largest_file, tmp_path):
    path = tmp_path / "it.png"
    path.write_text("earlier")
    largest_file(100)
    with pytest.raises(OSError, match=r"it\.png: "):
        plots.plot_arms(pool(5.0).arms, path, text="t", figures=(TEST,))
    largest_file(None)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_filters_of_two_towers(tmp_path):
    """AlexNet Figure 3: one scale for all kernels, a panel a tower."""
    kernel = np.zeros((5, 5, 3, 8), np.float32)
    kernel[..., 0], kernel[0, 0, 0, 4:] = -1.0, 1.0
    plots.draw_filters(kernel, 2, tmp_path / "filters.png")
    image = matplotlib.image.imread(tmp_path / "filters.png")[..., :3]
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 3
    tiles = plots.tile_filters(np.zeros((2, 2, 3, 3)), across=2)
    assert tiles.shape == (5, 5, 3)
    assert (tiles[2] == 1).all() and (tiles[:2, :2] == 0).all()
    assert (tiles[3:, 3:] == 1).all()  # a place without a kernel


def test_the_readme_lists_every_script():
    lines = report.experiments(report.shown()).splitlines()[2:]
    scripts = {line.split("`")[1] for line in lines}
    assert scripts == {
        path.name
        for path in report.HERE.glob("*.py")
        if path.name.startswith(("alexnet_", "cifar_", "vgg_"))
    }
    hours = {line.split("`")[1]: line.split("|")[-2].strip() for line in lines}
    assert hours["alexnet_towers.py"] == "2.0" and hours["alexnet_relu.py"] == "-"
