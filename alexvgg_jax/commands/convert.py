"""The command `convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from alexvgg_jax import weights
from alexvgg_jax.errors import InputError
from alexvgg_jax.weights import Input


@dataclass(frozen=True)
class Convert:
    """Convert weights: convert WEIGHTS OUT --to torchvision."""

    weights: tyro.conf.Positional[str]  # a file, a run's folder, or an id of the Hub
    out: tyro.conf.Positional[Path]  # the file to write
    # ours and torchvision: .safetensors. stablehlo: a program that needs only jax
    to: Literal["ours", "torchvision", "stablehlo"] = "ours"
    net: str = ""  # the model, if the file fits several: vgg-d, ...
    input: Input | None = None  # that the file's net takes, if its format does not tell
    mean: Path | None = None  # the mean image of Caffe, a .binaryproto

    def __call__(self) -> None:
        suffix = ".stablehlo" if self.to == "stablehlo" else ".safetensors"
        if self.out.suffix != suffix:
            raise InputError(f"{self.out}: name a {suffix} file")
        if self.out.exists():
            raise InputError(f"{self.out}: exists already")
        net, params, provenance = weights.load_net(
            self.weights, self.net, input=self.input, mean=self.mean
        )
        if self.to == "stablehlo":
            weights.export(params, self.out, net, provenance)
        else:
            weights.save(params, self.out, net, provenance, self.to)
        about = provenance.source or f"from {provenance.format}, source unknown"
        if provenance.licence:  # names of arrays do not tell whose weights they are
            licence = f"published weights are under {provenance.licence}"
            about = f"from the format of {provenance.format}, whose {licence}"
        print(f"wrote {self.out}: {about}")
