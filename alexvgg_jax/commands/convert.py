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

    # a file, a run's folder, or OWNER/NAME of the Hugging Face Hub
    weights: tyro.conf.Positional[str]
    out: tyro.conf.Positional[Path]  # the file to write
    # format of OUT: ours and torchvision write .safetensors; stablehlo writes a program
    # that needs only jax
    to: Literal["ours", "torchvision", "stablehlo"] = "ours"
    net: str = ""  # model, such as vgg-d; needed only if several models fit the file
    # what the file's net takes: torch (RGB / 255), caffe (BGR) or rgb (0 to 255);
    # without it, what nets of the file's format take (required for ONNX)
    input: Input | None = None
    mean: Path | None = None  # mean image of Caffe's net, a .binaryproto

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
