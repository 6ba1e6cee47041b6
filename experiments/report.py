"""Render the results page, the README's scoreboard and all plots from the records.

python experiments/report.py
"""

import operator
from collections.abc import Mapping
from pathlib import Path

import alexnet_augment
import alexnet_batch
import alexnet_decay
import alexnet_depth
import alexnet_dropout
import alexnet_ensemble
import alexnet_imagenet
import alexnet_init
import alexnet_lrn
import alexnet_pool
import alexnet_relu
import alexnet_retrieval
import alexnet_search
import alexnet_towers
import cifar_ladder
import cifar_lrn
import ilsvrc_history
import network_sizes
import testing_views
import vgg_depth
import vgg_features
import vgg_head
import vgg_init
import vgg_localise
import vgg_small_filters
import vgg_testing
from _ablation import Experiment, result_of
from _session import draw, pictures

from alexvgg_jax import page, plots, results
from alexvgg_jax.errors import one_line
from alexvgg_jax.files import write_text

HERE = Path(__file__).parent
RESULTS, PAGE, README = HERE / "results", HERE / "README.md", HERE.parent / "README.md"

EXPERIMENTS: tuple[Experiment, ...] = (
    alexnet_relu.EXPERIMENT,
    alexnet_towers.EXPERIMENT,
    alexnet_lrn.EXPERIMENT,
    alexnet_pool.EXPERIMENT,
    alexnet_augment.EXPERIMENT,
    alexnet_dropout.EXPERIMENT,
    alexnet_decay.EXPERIMENT,
    alexnet_init.EXPERIMENT,
    alexnet_depth.EXPERIMENT,
    alexnet_batch.EXPERIMENT,
    alexnet_ensemble.EXPERIMENT,
    alexnet_retrieval.EXPERIMENT,
    *alexnet_imagenet.EXPERIMENTS,
    alexnet_search.EXPERIMENT,
    cifar_lrn.EXPERIMENT,
    cifar_ladder.EXPERIMENT,
    vgg_depth.EXPERIMENT,
    vgg_small_filters.EXPERIMENT,
    vgg_init.EXPERIMENT,
    vgg_head.EXPERIMENT,
    vgg_localise.EXPERIMENT,
    vgg_features.EXPERIMENT,
    vgg_testing.EXPERIMENT,
)


# Hours of one CPU core, from the speed of a first epoch, until records have seconds.
ESTIMATED = {
    "alexnet_augment": 7,
    "alexnet_depth": 14,
    "alexnet_dropout": 4.2,
    "alexnet_lrn": 6,
    "alexnet_pool": 5.6,
    "vgg_depth": 7.6,
    "vgg_head": 3,
    "vgg_init": 3.4,
}


def shown() -> dict[str, results.Result]:
    """Return what the committed records of each experiment show."""
    return {
        each.name: result_of(each, results.read(RESULTS / f"{each.name}.jsonl"))
        for each in EXPERIMENTS
    }


def experiments(shown: Mapping[str, results.Result]) -> str:
    """Return a table with one line a script: what it tests, and what that costs."""
    lines = {}
    for each in EXPERIMENTS:
        records = shown[each.name].records
        script = f"{each.name.removesuffix('_2010').removesuffix('_2012')}.py"
        claim = (each.about or "").partition("\n")[0].rstrip(".")
        seconds = [record.seconds for record in records]
        hours = f"about {estimate:g}" if (estimate := ESTIMATED.get(each.name)) else "-"
        if records and None not in seconds:
            cores = [record.machine["cores"] for record in records]
            hours = f"{sum(map(operator.mul, seconds, cores)) / 3600:.1f}"
        lines[script] = (f"`{script}`", claim, hours)
    columns = ("script", "claim", "hours of one CPU core")
    return "\n".join(page.table(columns, list(lines.values())))


def measured(every: Mapping[str, results.Result]) -> list[results.Result]:
    """Return the results that have records, and what is counted without any."""
    trained = [result for result in every.values() if result.arms]
    return [*trained, network_sizes.result(), testing_views.result()]


def render() -> dict[Path, str]:
    """Return the text of the page and of the README."""
    every = shown()
    board = measured(every)
    linked = {
        name: [f"results/{picture.name}" for picture in pictures(name, RESULTS)]
        for name in (*every, testing_views.NAME, page.FOREST)
    }
    readme = README.read_text(encoding="utf8")
    readme = page.insert(readme, "scoreboard", page.scoreboard(board))
    readme = page.insert(readme, "experiments", experiments(every))
    return {PAGE: page.render(board, linked), README: readme}


def main() -> None:
    for each, result in zip(EXPERIMENTS, shown().values(), strict=True):
        draw(each, result, RESULTS)
    effects = page.effects(measured(shown()))
    plots.plot_forest(effects, RESULTS / f"{page.FOREST}.png")
    ilsvrc_history.draw(RESULTS / "ilsvrc_history.png")
    testing_views.draw(RESULTS / f"{testing_views.NAME}.png")
    for path, text in render().items():
        write_text(text, path)
        print(f"wrote {path}")


if __name__ == "__main__":
    with one_line():
        main()
