"""Files of the Hugging Face Hub."""

import logging
import re
from pathlib import Path

from alexvgg_jax.errors import InputError

NAME = "model.safetensors"
SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".h5", ".caffemodel", ".onnx"}
ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_id(name: str) -> bool:
    """Whether this is the id of a repository (OWNER/NAME), not a path."""
    path = Path(name)
    local = path.exists() or path.parent.exists() or path.suffix in SUFFIXES
    return not local and ID.fullmatch(name) is not None


def download(repository: str) -> Path:
    """The repository's weights, downloaded to the hub's cache unless they are there.

    Raises InputError if it has none, or cannot be reached.
    """
    try:
        import huggingface_hub as library
    except ImportError:
        raise InputError(
            f"{repository}: no such file; to download it from the Hugging Face Hub: "
            "pip install huggingface_hub"
        ) from None
    try:
        fetch = library.hf_hub_download  # sets the level of what is logged
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # no retries
        if not isinstance(library.try_to_load_from_cache(repository, NAME), str):
            # Asks once. `fetch` would retry for 23 s if the hub cannot be reached.
            library.get_hf_file_metadata(library.hf_hub_url(repository, NAME))
        return Path(fetch(repository, NAME))
    except Exception as error:  # of the hub, of the network, or of the disk
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"{repository}: no such file, and not downloaded from the Hugging Face "
            f"Hub: {type(error).__name__}: {first}"
        ) from None
