"""A short tour: train a small AlexNet on handwritten digits, and check two claims.

`alexnet-small` is the paper's net for 32-pixel images, a quarter as wide. It trains on
scikit-learn's digits with three seeds: for 12 epochs with the paper's biases of 1, and
for the first 5 epochs with biases of 0. These claims, and epoch 5, were chosen after
pilots on digits, partly with the same seeds, so the verdicts are no independent test:

- AlexNet §5 biases: biases of 1 accelerate the early stages of learning. Here that is
  the training error during epoch 5.
- AlexNet §6 five nets: averaging the predictions of several nets (here three) lowers
  the test error of one. The standard error is over test images, not seeds.

A verdict is by the rule in `alexvgg_jax/results.py`. The
digits only illustrate the claims: `alexnet_init.py` and `alexnet_ensemble.py` test them
on CIFAR-10.

    python experiments/quickstart.py        # two minutes on two CPU cores
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from _runs import SMALL, predict, share_compiled, train_in, with_net
from rich.console import Console
from rich.table import Table

from alexvgg_jax import paper
from alexvgg_jax.config import Data, Run
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.loop import Trained
from alexvgg_jax.models import summary
from alexvgg_jax.plots import new_figure, scale_filters, tile_filters, write_figure
from alexvgg_jax.results import Finding, estimate, verdict

EPOCHS, EARLY = 12, 5
ON_DIGITS = replace(
    SMALL,
    data=Data("digits"),
    optim=replace(SMALL.optim, drop_epochs=()),
    epochs=EPOCHS,
    checkpoint_every=EPOCHS,
)
WITH_ONE = "biases of 1 (paper)"
WITH_ZERO = "biases of 0"
SHOWN = 8  # test images
PUBLISHED = {"AlexNet §6 five nets": "top-1 error, five nets"}  # the paper averages 5


@dataclass(frozen=True)
class Options:
    seeds: int = 3  # nets with each bias
    out: Path = Path("results/quickstart")  # folder for the runs and the picture


def train(run: Run, name: str, seeds: int, out: Path) -> list[Trained]:
    """One trained net a seed. A net that is trained already is read from `out`."""
    return [
        train_in(
            out / f"{name}-seed{seed}",
            replace(run, name=f"{name}, seed {seed}", seed=seed),
        )
        for seed in range(seeds)
    ]


def early_biases(ones: Sequence[Trained], zeros: Sequence[Trained]) -> Finding:
    """AlexNet §5 biases: the training error in epoch EARLY, in pairs of one seed."""
    lead = [
        zero.history[EARLY - 1].train_error - one.history[EARLY - 1].train_error
        for one, zero in zip(ones, zeros, strict=True)
    ]
    ours = estimate([-points for points in lead], "points")
    name = f"training error in epoch {EARLY}, biases of 1 minus 0"
    return Finding({name: ours}, verdict(estimate(lead, "points")))


def averaged_nets(nets: Sequence[Trained]) -> Finding:
    """AlexNet §6 five nets: the test error of averaged predictions minus one net's."""
    predictions = [predict(net) for net in nets]
    probabilities, labels = [p for p, _ in predictions], predictions[0][1]
    alone = np.mean([p.argmax(axis=1) != labels for p in probabilities], axis=0)
    together = np.mean(probabilities, axis=0).argmax(axis=1) != labels
    gain = (100 * (alone - together)).tolist()
    ours = estimate([-points for points in gain], "points")
    name = f"top-1 error, mean of {len(nets)} nets"
    return Finding({name: ours}, verdict(estimate(gain, "points")))


def table(findings: dict[str, Finding]) -> Table:
    """Published and ours, one line a claim."""
    drawn = Table(
        title="Published on ImageNet, ours on digits",
        caption="Pilots on digits chose these claims: they show, but do not test them.",
    )
    for heading in ("claim", "figure", "published", "ours", "verdict"):
        drawn.add_column(heading)
    for tag, finding in findings.items():
        claim = paper.claim(tag)
        for name, ours in finding.figures.items():
            published = str(claim.published.get(PUBLISHED.get(tag, name), "-"))
            drawn.add_row(
                f"{tag}: {claim.short}",
                name,
                published,
                str(ours),
                finding.verdict.word,
            )
    return drawn


def draw(nets: dict[str, list[Trained]], path: Path) -> None:
    """The training curves, the filters of conv1, and predictions on test images."""
    figure = new_figure(11, 7)
    top, bottom = figure.subfigures(2, 1, height_ratios=(2, 1))
    curves, filters = top.subplots(1, 2)
    for number, (name, trained) in enumerate(nets.items()):
        for net in trained:
            epochs = [epoch.epoch - 0.5 for epoch in net.history]
            label = name if net is trained[0] else None
            values = [epoch.train_error for epoch in net.history]
            curves.plot(epochs, values, color=f"C{number}", label=label)
    curves.set(title="training error, %", xlabel="epochs", ylim=(0, 100))
    curves.legend(frameon=False)
    net = nets[WITH_ONE][0]
    kernel = jax.device_get(net.params["conv1"]["kernel"])
    filters.imshow(
        tile_filters(scale_filters(kernel), across=6), interpolation="nearest"
    )
    filters.set(title="filters of conv1", xticks=[], yticks=[])
    draw_predictions(net, bottom.subplots(1, SHOWN))
    write_figure(figure, path)


def draw_predictions(net: Trained, panels: Any) -> None:
    """The first test images, each with the most probable class; red if it is wrong."""
    source = net.work.test_source
    probabilities, labels = predict(net)
    images, _ = source.fetch(np.arange(SHOWN))
    for panel, image, p, label in zip(
        panels, images, probabilities, labels, strict=False
    ):
        best = int(p.argmax())
        panel.imshow(image)
        panel.set(xticks=[], yticks=[])
        text = f"{source.classes[best]} ({p[best]:.0%})"
        panel.set_title(text, color="black" if best == label else "C3")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.seeds < 2:
        raise InputError(f"--seeds {options.seeds}: at least 2, for a standard error")
    share_compiled(options.out)
    console = Console()
    console.print(summary.table("alexnet-small", ON_DIGITS.net))
    without = replace(with_net(ON_DIGITS, bias_init=0.0), epochs=EARLY)
    nets = {
        WITH_ONE: train(ON_DIGITS, "biases-1", options.seeds, options.out),
        WITH_ZERO: train(without, "biases-0", options.seeds, options.out),
    }
    findings = {
        "AlexNet §5 biases": early_biases(nets[WITH_ONE], nets[WITH_ZERO]),
        "AlexNet §6 five nets": averaged_nets(nets[WITH_ONE]),
    }
    console.print(table(findings))
    picture = options.out / "quickstart.png"
    draw(nets, picture)
    print(f"The picture is {picture}. The nets are in {options.out}; try")
    print(f"    python -m alexvgg_jax eval {options.out}/biases-1-seed0")


if __name__ == "__main__":
    with one_line():
        main()
