"""The README's examples run, and its commands parse."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from safetensors.numpy import load_file, save_file
from weight_files import caffemodel, random_arrays, torch_state

from alexvgg_jax import __main__ as command_line
from alexvgg_jax import models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = README[README.index("## Trained weights") : README.index("## Training")]
CODE = re.findall(r"```python\n(.*?)```", README.replace(WEIGHTS, ""), re.DOTALL)
SHELL = README.replace("\\\n", " ")
COMMANDS = re.findall(r"^    python -m alexvgg_jax (.+)$", SHELL, re.MULTILINE)
SCRIPTS = set(re.findall(r"python (experiments/[\w/]+\.py)", README))
LINKS = re.findall(r"\]\((?!http|#)([^)#]+)", README)


@pytest.mark.usefixtures("optimized")
def test_the_examples_run_in_order():
    names: dict = {}
    for block in CODE:
        exec(compile(block, "README.md", "exec"), names)
    assert names["features"]["relu5"].shape == (1, 13, 13, 256)
    assert issubclass(names["Tagger"], nn.Module)


def test_the_examples_and_commands_of_weights_run_in_order(tmp_path, monkeypatch):
    """On a VGG-16 of few kernels and 32 pixels, with a fake of the hub."""
    small = replace(models.MODELS["vgg-d"], width=0.05, image_size=32)
    monkeypatch.setitem(models.MODELS, "vgg-d", small)
    monkeypatch.chdir(tmp_path)
    arrays = random_arrays(small)
    save_file(torch_state("vgg-d", arrays), "vgg16.safetensors")
    Path("vgg16.caffemodel").write_bytes(caffemodel(arrays, arrays, generation=1))
    cached = dict.fromkeys(
        ("hf_hub_download", "try_to_load_from_cache"), lambda *_: "vgg16.safetensors"
    )
    hub = SimpleNamespace(**cached)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for folder in (".", "photos", "more_photos"):
        Path(folder).mkdir(exist_ok=True)
        Image.fromarray(photo).save(Path(folder) / "photo.jpg")
    names: dict = {}
    text = WEIGHTS.replace("\\\n", " ")
    part = r"```python\n(.*?)```|^    python -m alexvgg_jax (.+?)$"
    for code, command in re.findall(part, text, re.DOTALL | re.MULTILINE):
        if code:
            exec(compile(code, "README.md", "exec"), names)
        else:
            command_line.parse(shlex.split(command))()
    assert names["images"].shape == (1, 32, 32, 3)
    assert names["logits"].shape == (2, 1000)
    assert names["name"] in Path(models.__file__).parents[1].joinpath(
        "weights/imagenet.txt"
    ).read_text(encoding="utf-8")
    assert load_file("mine.safetensors")["fc8.bias"].shape == (5,)
    units = arrays["fc7"][1].size
    assert load_file("photos.safetensors")["features"].shape == (1, units)
    theirs, ours = load_file("torch.safetensors"), load_file("vgg16.safetensors")
    assert {k: v.shape for k, v in theirs.items()} == {
        k: v.shape for k, v in ours.items()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command):
    assert command_line.parse(shlex.split(command, comments=True))


@pytest.mark.parametrize("path", sorted(SCRIPTS | set(LINKS)))
def test_the_files_exist(path):
    assert (ROOT / path).exists()


def test_the_table_of_networks_names_models():
    rows = [line for line in README.splitlines() if line.startswith('| `"')]
    names = {name for line in rows for name in re.findall(r'`"([\w-]+)"`', line)}
    assert len(names) > 8
    assert names <= set(models.MODELS)
