import ast
import pkgutil
import re
from pathlib import Path

import pytest

from alexvgg_jax import paper, report
from alexvgg_jax.config import RECIPES
from alexvgg_jax.models import build
from alexvgg_jax.models.layers import Conv, Dense, Local
from alexvgg_jax.models.vgg import TABLE1

ROOT = Path(__file__).parents[1]
WITH_CODE = [row for row in paper.CLAIMS if row.code]
WITH_EXPERIMENT = [row for row in paper.CLAIMS if row.experiment]


def script(row: paper.Claim) -> str:
    return row.experiment.split()[0]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or ""


def test_one_row_a_tag():
    tags = [row.tag for row in paper.CLAIMS]
    assert sorted(set(tags)) == sorted(tags)
    assert all(paper.claim(tag).tag == tag for tag in tags)


@pytest.mark.parametrize("row", WITH_CODE, ids=lambda row: row.tag)
def test_the_code_of_a_claim_has_its_tag(row):
    assert row.tag in (pkgutil.resolve_name(row.code).__doc__ or "")


@pytest.mark.parametrize("row", WITH_EXPERIMENT, ids=lambda row: row.tag)
def test_the_experiment_of_a_claim_opens_with_its_tag(row):
    """Or with that of the first of its claims, if it has more."""
    words = " ".join(docstring(ROOT / "experiments" / script(row)).split())
    others = [other.tag for other in WITH_EXPERIMENT if script(other) == script(row)]
    assert any(words.startswith(f"{tag}: ") for tag in others)
    assert row.tag in words


def test_every_experiment_is_that_of_a_claim():
    files = {f.name for f in (ROOT / "experiments").glob("[!_]*.py")}
    benchmarks = {"mixed_precision.py", "throughput.py", "communication.py"}
    benchmarks |= {"tpu_ahead_of_time.py", "tpu_scaling.py", "alexnet_search.py"}
    assert files - benchmarks == {script(row) for row in WITH_EXPERIMENT}


def test_the_small_net_of_the_experiments_sees_the_papers_share_of_an_image():
    """AlexNet §4.1 crops: 28 of 32 pixels are 224 of 256."""
    small, paper_ = RECIPES["alexnet-small"][1], RECIPES["alexnet-paper"][1]
    assert small.augment.crop * paper_.data.size == (
        paper_.augment.crop * small.data.size
    )
    assert small.batch == paper_.batch
    assert (small.optim.rate, small.optim.weight_decay) == (0.01, 0.0005)


def test_every_claim_with_code_has_a_test():
    docstrings = [
        " ".join((ast.get_docstring(node) or "").split())
        for file in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    # A tag can be the beginning of another: "cuda-convnet 19pct translations".
    tags = [row.tag for row in paper.CLAIMS]
    longest_first = "|".join(map(re.escape, sorted(tags, key=len, reverse=True)))
    tested = {t for text in docstrings for t in re.findall(longest_first, text)}
    assert tested >= {row.tag for row in WITH_CODE}


def test_every_tag_in_the_tree_has_a_row():
    """`grep -rn` of a tag finds the published figure too."""
    tag = re.compile(r"(?:AlexNet|VGG) (?:§\d(?:\.\d)?|Table \d|Figure \d)")
    rows = "\n".join(row.tag for row in paper.CLAIMS)
    for folder in ("alexvgg_jax", "experiments", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for found in tag.findall(file.read_text(encoding="utf8")):
                assert found in rows, f"{file.name}: {found}"


def test_an_unknown_tag_names_the_closest():
    tag = "AlexNet \N{SECTION SIGN}3.3"
    with pytest.raises(ValueError, match=re.escape(tag)):
        paper.claim("AlexNet 3.3")


def test_published_errors_are_percentages():
    for row in paper.CLAIMS:
        for name, figure in row.published.items():
            if re.search(r"top-[15]( val| test)?$", name):
                assert 0 < figure < 100, (row.tag, name)
                top1 = name.replace("top-5", "top-1")
                assert figure <= row.published.get(top1, 100), (row.tag, name)


def test_committed_results_have_the_published_figures():
    for name, result in report.read_all(ROOT / "experiments" / "results").items():
        for tag, finding in result.findings.items():
            assert finding.published == dict(paper.claim(tag).published), (name, tag)


def test_crops_and_mirrors_make_the_published_number_of_images():
    """AlexNet §4.1 crops: (256 - 224)^2 places and their mirror images are 2048."""
    recipe = RECIPES["alexnet-paper"][1]
    assert recipe.augment.mirror
    places = (recipe.data.size - recipe.augment.crop) ** 2
    published = paper.claim("AlexNet §4.1 crops").published
    assert 2 * places == published["training set, times"]


def test_the_recipe_has_the_papers_hyper_parameters():
    """AlexNet §5 decay, AlexNet §5 schedule: the figures of section 5."""
    recipe = RECIPES["alexnet-paper"][1]
    decay = paper.claim("AlexNet §5 decay").published
    assert recipe.batch == decay["batch"]
    assert recipe.optim.momentum == decay["momentum"]
    assert recipe.optim.weight_decay == decay["weight decay"]
    schedule = paper.claim("AlexNet §5 schedule").published
    assert recipe.optim.rate == schedule["first learning rate"]
    assert recipe.optim.drops == schedule["divisions by 10"]
    assert recipe.epochs == schedule["epochs, about"]


def test_vgg_recipes_have_the_papers_hyper_parameters():
    """VGG §3.1: batch, momentum, decay, rate and length of training."""
    published = paper.claim("VGG §3.1").published
    for name in ("vgg-a", "vgg-d"):
        recipe = RECIPES[name][1]
        assert recipe.batch == published["batch"]
        assert recipe.optim.momentum == published["momentum"]
        assert recipe.optim.weight_decay == published["weight decay"]
        assert recipe.optim.rate == published["first learning rate"]
        assert recipe.optim.drops == published["divisions by 10"]
        assert recipe.epochs == published["epochs"]


@pytest.mark.parametrize("column", TABLE1)
def test_columns_have_the_published_depth(column):
    """VGG Table 1: weight layers, the three fully-connected ones included."""
    published = paper.claim("VGG Table 1").published
    convolutions = sum(len(block) for block in TABLE1[column])
    assert convolutions + 3 == published[f"{column}, weight layers"]


def test_exact_counts_round_to_the_published_millions():
    """VGG Table 2: parameters in millions; AlexNet §3.5: 60 million."""
    for net, millions in paper.VGG_PARAMETERS_MILLIONS.items():
        assert round(paper.PARAMETERS[f"vgg-{net.lower()}"] / 1e6) == millions
    published = paper.claim("AlexNet §3.5").published
    millions = paper.PARAMETERS["alexnet-paper"] / 1e6
    assert abs(millions - published["parameters"] / 1e6) < 1


def test_neurons_are_the_published_number():
    """AlexNet §3.5: 650,000 neurons need the 55 x 55 x 96 that conv1 really has."""
    height, width, maps = paper.ALEXNET_SHAPES["conv1"]
    neurons = sum(paper.ALEXNET_NEURONS.values())
    neurons += height * width * maps - paper.ALEXNET_NEURONS["conv1"]
    published = paper.claim("AlexNet §3.5").published["neurons"]
    assert abs(neurons - published) < 10_000


@pytest.mark.parametrize(
    ("name", "decays", "crop", "drops", "epochs"),
    [
        ("cifar-80sec", (0.004, 0.004, 0.004, 0.03, 0.03), 0, (8, 10), 10),
        ("cifar-19pct", (0.004, 0.004, 0.004, 3.0), 0, (120, 130), 140),
        ("cifar-18pct", (0.004, 0.004, 0.004, 1.0), 0, (120, 130), 140),
        ("cifar-14pct", (0.0, 0.0, 0.0, 0.0), 24, (120, 130), 140),
        ("cifar-13pct", (0.0, 0.0, 0.004, 0.004, 0.004), 24, (120, 130), 140),
        ("cifar-11pct", (0.0, 0.0, 0.004, 0.004, 0.01), 24, (430, 440), 450),
    ],
)
def test_cifar_recipes_are_those_of_the_files(name, decays, crop, drops, epochs):
    """cuda-convnet 80sec, cuda-convnet 19pct, cuda-convnet 18pct, cuda-convnet 19pct
    translations, cuda-convnet 13pct, cuda-convnet 11pct: epsW, epsB and each layer's
    wc."""
    recipe = RECIPES[name][1]
    optim, net = recipe.optim, build(recipe.model.name)
    layers = [row.name for row in net.rows if isinstance(row, Conv | Local | Dense)]
    found = [optim.layer_decay.get(layer, optim.weight_decay) for layer in layers]
    assert tuple(found) == decays
    assert (optim.rate, optim.rate * optim.bias_rate) == (0.001, 0.002)
    assert (recipe.augment.crop, recipe.augment.mirror) == (crop, crop > 0)
    assert recipe.augment.crop in (0, 24)
    assert optim.drop_epochs == tuple(drop for drop in drops if drop < epochs)
    local = name in ("cifar-13pct", "cifar-11pct")  # these two lower epsW alone
    assert optim.drop_biases != local
    assert (recipe.batch, recipe.epochs) == (128, epochs)
