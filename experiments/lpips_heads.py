"""Write LPIPS' heads, version 0.1, from the installed package `lpips`.

    pip install -e '.[parity]' && python experiments/lpips_heads.py

The heads have a weight for each map of five layers of a net. Zhang et al. 2018 fitted
them to people's judgements. The package has the 2-clause BSD licence, which is written
beside the heads.
"""

import importlib.metadata
import io
from pathlib import Path

import numpy as np

from alexvgg_jax import perceptual
from alexvgg_jax.errors import InputError, one_line
from alexvgg_jax.files import write_bytes

FOLDER = Path(perceptual.__file__).parent


def main() -> None:
    try:
        import torch

        package = importlib.metadata.distribution("lpips")
    except ImportError as error:
        raise InputError(f"{error}: pip install -e '.[parity]'") from None
    heads: dict[str, np.ndarray] = {}
    for net, layers in perceptual.LPIPS_LAYERS.items():
        file = Path(str(package.locate_file(f"lpips/weights/v0.1/{net}.pth")))
        state = torch.load(file, "cpu", weights_only=True)
        for number, layer in enumerate(layers):
            weight = state[f"lin{number}.model.1.weight"]
            heads[f"{net}/{layer}"] = weight.numpy().reshape(-1)
    buffer = io.BytesIO()
    np.savez(buffer, **heads)  # pyrefly: ignore[bad-argument-type]
    write_bytes(buffer.getvalue(), FOLDER / "lpips_heads.npz")
    licence = package.read_text("LICENSE")
    assert licence
    write_bytes(licence.encode(), FOLDER / "lpips_heads.LICENSE")
    print(f"{sum(head.size for head in heads.values())} weights")


if __name__ == "__main__":
    with one_line():
        main()
