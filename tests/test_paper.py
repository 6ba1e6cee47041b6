import ast
import math
import pkgutil
import re
from pathlib import Path

import counts
import network_sizes
import pytest

from alexvgg_jax import paper
from alexvgg_jax.recipes import RECIPES

ROOT = Path(__file__).parents[1]
CODE = {tag: claim.code for tag, claim in paper.CLAIMS.items() if claim.code}
SCRIPT = {
    tag: claim.experiment.split()[0]
    for tag, claim in paper.CLAIMS.items()
    if claim.experiment
}


def words(docstring: str | None) -> str:
    """The docstring in one line."""
    return " ".join((docstring or "").split())


def test_a_figure_in_words():
    """With its unit, and its standard error if it has one."""
    assert str(paper.Figure(-3.5601, "points", 0.2458)) == "-3.56 ± 0.25 points"
    assert str(paper.Figure(28.0633, "%")) == "28.06%"
    assert str(paper.Figure(60_000_000)) == "60,000,000"
    assert str(paper.Figure(0.0005)) == "0.0005"


def test_claims_in_at_most_eight_words():
    for tag, claim in paper.CLAIMS.items():
        assert 0 < len(claim.short.split()) <= 8, tag


@pytest.mark.parametrize("tag", CODE)
def test_the_code_of_a_claim_has_its_tag(tag):
    assert tag in words(pkgutil.resolve_name(CODE[tag]).__doc__)


@pytest.mark.parametrize("tag", SCRIPT)
def test_the_experiment_of_a_claim_has_its_tag(tag):
    """Its docstring opens with the tag of one of its claims."""
    source = (ROOT / "experiments" / SCRIPT[tag]).read_text(encoding="utf8")
    about = words(ast.get_docstring(ast.parse(source)))
    assert tag in about
    assert about.startswith(tuple(t for t in SCRIPT if SCRIPT[t] == SCRIPT[tag]))


def test_every_experiment_measures_a_claim():
    files = {file.name for file in (ROOT / "experiments").glob("[!_]*.py")}
    others = {"alexnet_search.py", "report.py", "quickstart.py"}
    others |= {"style_transfer.py", "lpips_heads.py"}
    others |= {"vgg_head.py", "ilsvrc_history.py"}  # no claim; published figures
    assert files - others == set(SCRIPT.values())


def test_the_small_net_of_the_experiments_sees_the_papers_share_of_an_image():
    """AlexNet §4.1 crops: 28 of 32 pixels are 224 of 256."""
    small, paper_ = RECIPES["alexnet-small"].run, RECIPES["alexnet-paper"].run
    assert small.augment.crop * paper_.data.size == (
        paper_.augment.crop * small.data.size
    )
    assert small.batch == paper_.batch
    assert (small.optim.rate, small.optim.weight_decay) == (0.01, 0.0005)


def test_every_claim_with_code_has_a_test():
    docstrings = [
        words(ast.get_docstring(node))
        for file in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    # A tag can be the beginning of another: "cuda-convnet 19pct translations".
    tags = sorted(paper.CLAIMS, key=len, reverse=True)
    longest_first = "|".join(map(re.escape, tags))
    tested = {t for text in docstrings for t in re.findall(longest_first, text)}
    assert tested >= set(CODE)


def test_every_tag_in_the_tree_has_a_claim():
    """`grep -rn` of a tag finds the published figure too."""
    tag = re.compile(r"(?:AlexNet|VGG) (?:§\d(?:\.\d)?|Table \d|Figure \d)")
    known = "\n".join(paper.CLAIMS)
    for folder in ("alexvgg_jax", "experiments", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in tag.findall(file.read_text(encoding="utf8")):
                assert name in known, f"{file.name}: {name}"


def test_an_unknown_tag_names_the_closest():
    tag = "AlexNet \N{SECTION SIGN}3.3"
    with pytest.raises(ValueError, match=re.escape(tag)):
        paper.claim("AlexNet 3.3")


def test_published_errors_are_percentages():
    for tag, claim in paper.CLAIMS.items():
        errors = {n: f.value for n, f in claim.published.items() if f.unit == "%"}
        for name, error in errors.items():
            assert 0 < error < 100, (tag, name)
            if re.search(r"top-[15]( val| test)?$", name):
                top1 = name.replace("top-5", "top-1")
                assert error <= errors.get(top1, 100), (tag, name)


def test_crops_and_mirrors_make_the_published_number_of_images():
    """AlexNet §4.1 crops: (256 - 224)^2 places and their mirror images are 2048."""
    recipe = RECIPES["alexnet-paper"].run
    assert recipe.augment.mirror
    places = (recipe.data.size - recipe.augment.crop) ** 2
    published = paper.claim("AlexNet §4.1 crops").published
    assert 2 * places == published["times as many training images"].value


def test_the_recipe_has_the_papers_hyper_parameters():
    """AlexNet §5 decay, AlexNet §5 schedule: the figures of section 5."""
    recipe = RECIPES["alexnet-paper"].run
    decay = paper.claim("AlexNet §5 decay").published
    assert recipe.batch == decay["batch"].value
    assert recipe.optim.momentum == decay["momentum"].value
    assert recipe.optim.weight_decay == decay["weight decay"].value
    schedule = paper.claim("AlexNet §5 schedule").published
    assert recipe.optim.rate == schedule["first learning rate"].value
    assert recipe.optim.drops == schedule["divisions by 10"].value
    assert recipe.epochs == schedule["epochs, about"].value


def test_vgg_recipes_have_the_papers_hyper_parameters():
    """VGG §3.1: batch, momentum, decay, rate and length of training."""
    published = paper.claim("VGG §3.1").published
    for name in ("vgg-a", "vgg-d"):
        recipe = RECIPES[name].run
        assert recipe.batch == published["batch"].value
        assert recipe.optim.momentum == published["momentum"].value
        assert recipe.optim.weight_decay == published["weight decay"].value
        assert recipe.optim.rate == published["first learning rate"].value
        assert recipe.optim.drops == published["divisions by 10"].value
        assert recipe.epochs == published["epochs"].value


def test_sizes_are_the_published_ones():
    """AlexNet §3.5, One weird trick, VGG Table 1, VGG Table 2, VGG §2.3: against
    independent counts. The 650,000 neurons need the 55 x 55 x 96 outputs that conv1
    really has."""
    findings = network_sizes.result().findings
    assert {str(finding.verdict) for finding in findings.values()} == {"counted"}
    for tag, finding in findings.items():
        assert finding.figures.keys() == paper.claim(tag).published.keys()
        if tag.startswith("VGG"):  # the others round down: 60,965,224 and 659,272
            published = {n: f.value for n, f in paper.claim(tag).published.items()}
            assert {n: round(f.value) for n, f in finding.figures.items()} == published
    alexnet = findings["AlexNet §3.5"].figures
    assert alexnet["parameters"].value == counts.PARAMETERS["alexnet-paper"]
    printed = counts.ALEXNET_NEURONS
    conv1 = math.prod(counts.ALEXNET_SHAPES["conv1"])
    expected = sum(printed.values()) - printed["conv1"] + conv1
    assert alexnet["neurons"].value == expected
    # Torch's AlexNet: 37,752,832, 16,781,312 and 4,097,000 parameters in fc6 to fc8.
    computed, held = findings["One weird trick"].figures.values()
    assert held.value == pytest.approx(100 * 58_631_144 / 61_100_840)
    dense = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    convolutions = 55**2 * 64 * 363 + 27**2 * 192 * 1600
    convolutions += 13**2 * (384 * 1728 + 256 * 3456 + 256 * 2304)
    share = 100 * convolutions / (convolutions + dense)
    assert computed.value == pytest.approx(share)
    for net, figure in findings["VGG Table 2"].figures.items():
        assert figure.value == counts.PARAMETERS[f"vgg-{net.lower()}"] / 1e6


def test_a_wrong_size_contradicts():
    finding = network_sizes.judge("VGG Table 2", {"A": paper.Figure(129.0, "million")})
    assert finding.verdict.word == "contradicts here"


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
    recipe = RECIPES[name].run
    optim, layers = recipe.optim, recipe.net.param_shapes()
    ours = [dict(optim.layer_decay).get(name, optim.weight_decay) for name in layers]
    assert tuple(ours) == decays
    assert (optim.rate, optim.rate * optim.bias_rate) == (0.001, 0.002)
    assert (recipe.augment.crop, recipe.augment.mirror) == (crop, crop > 0)
    assert recipe.augment.crop in (0, 24)
    assert optim.drop_epochs == tuple(drop for drop in drops if drop < epochs)
    local = name in ("cifar-13pct", "cifar-11pct")  # these two lower epsW alone
    assert optim.drop_biases != local
    assert (recipe.batch, recipe.epochs) == (128, epochs)
