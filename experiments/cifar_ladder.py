"""cuda-convnet 80sec: the original program's CIFAR-10 nets, from 26% error to 11%.

The original program is cuda-convnet, Krizhevsky's code of 2012. Each of its nets is
trained with the rates, decays and augmentation of its own files. Where these give no
schedule, it comes from another source:

| claim                           | epochs | drops after | source of the schedule  |
|---------------------------------|--------|-------------|-------------------------|
| cuda-convnet 80sec              | 10     | 8           | Caffe's copy of the net |
| cuda-convnet 19pct              | 140    | 120, 130    | the 18% net's file      |
| cuda-convnet 18pct              | 140    | 120, 130    | its own file            |
| cuda-convnet 19pct translations | 140    | 120, 130    | the 18% net's file      |
| cuda-convnet 13pct              | 140    | 120, 130    | the page "Methodology"  |
| cuda-convnet 11pct              | 450    | 430, 440    | its own file            |

Two things differ from the program. It trains the last two nets without a fifth of the
images at first; ours train on all images, for fewer epochs. It takes the images in the
same order every epoch, and each 10,000 images end with a batch of 16; ours are shuffled
in every epoch, and batches run on across epochs.

Nets on crops are tested with the centre crop, with nine views (`convdata_cifar.py`) and
with ten, as in other copies of the program. Ten views decide, as on the page
"Methodology", which shows a run of the 13% net at 12.6%. The program's 12% net is the
13% net, layer for layer, at the rates that end its training. So one claim has both
figures.

The 80-second net has three seeds by default. Six are recorded, because three did not
decide. The other nets take hours and have one seed. `--arms` chooses nets, and
`--seeds` sets another number.

Verdict: by the rule in `alexvgg_jax/results.py` for test errors, on CIFAR-10 only.

    python experiments/cifar_ladder.py --data cifar10
    python experiments/cifar_ladder.py --data cifar10 --arms cifar-80sec
    python experiments/cifar_ladder.py                  # digits
"""

from pathlib import Path

from _ablation import Experiment
from _runs import TEN, VIEWS, recipe
from _session import main

from alexvgg_jax import paper, plots, results
from alexvgg_jax.results import TEST, TRAINING, Arms, Finding, Result

LADDER = {
    "cuda-convnet 80sec": "cifar-80sec",
    "cuda-convnet 19pct": "cifar-19pct",
    "cuda-convnet 18pct": "cifar-18pct",
    "cuda-convnet 19pct translations": "cifar-14pct",
    "cuda-convnet 13pct": "cifar-13pct",
    "cuda-convnet 11pct": "cifar-11pct",
}
ARMS = {net: recipe(net) for net in LADDER.values()}


def judge(arms: Arms) -> dict[str, Finding]:
    """Apply the rule above to the nets that have records."""
    findings = {}
    for tag, net in LADDER.items():
        if net not in arms:
            continue
        records = arms[net]
        compared = TEN if ARMS[net].augment.crop else TEST
        errors = results.values(records, compared)
        ours = {"test error": results.estimate(errors)}
        for figure in (*VIEWS.values(), TRAINING):
            if figure in records[0].figures:
                ours[figure] = results.estimate(results.values(records, figure))
        if compared == TEN:
            centre = results.values(records, TEST)
            ours["test error of the centre"] = results.estimate(centre)
        published = paper.claim(tag).published["test error"].value
        images = records[0].data["test"]
        decided = results.reaches(published, errors, images)
        findings[tag] = Finding(ours, decided, (net,))
    return findings


def draw(result: Result, path: Path) -> None:
    """Draw the published error of every net, and ours."""
    published = [paper.claim(tag).published["test error"].value for tag in LADDER]
    ours = {
        place: result.findings[tag].figures["test error"]
        for place, tag in enumerate(LADDER)
        if tag in result.findings
    }
    figure = plots.new_figure(9.6, 4.4)
    axes = figure.subplots()
    axes.plot(published, "k_", markersize=36, label="published")
    means = [error.value for error in ours.values()]
    bars = [error.margin or 0.0 for error in ours.values()]
    axes.errorbar(list(ours), means, bars, fmt="C0.", label="ours, 95% interval")
    for place, tag in enumerate(LADDER):
        if tag in result.findings:
            word = result.findings[tag].verdict.word
            axes.annotate(word, (place, 0.5), ha="center", fontsize="x-small")
    names = [tag.removeprefix("cuda-convnet ").replace(" ", "\n") for tag in LADDER]
    axes.set_xticks(range(len(LADDER)), names)
    sets = dict.fromkeys(record.data["set"] for record in result.records)
    axes.set(title="\n".join(["cuda-convnet's nets", *sets]), ylabel="test error, %")
    axes.set_ylim(0, 1.1 * max([*published, *means]))
    axes.legend(frameon=False, markerscale=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    plots.write_figure(figure, path)


EXPERIMENT = Experiment(
    "cifar_ladder",
    __doc__,
    arms=ARMS,
    judge=judge,
    draw=draw,
    few_seeds={net: 1 for net in ARMS if net != "cifar-80sec"},
    views=(9, 10),
    independent=True,
    cifar10=tuple(LADDER),
)

if __name__ == "__main__":
    main(EXPERIMENT)
