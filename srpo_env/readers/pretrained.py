"""Reads published models: folders or downloads with JSON and safetensors files, never pickles.

``transformers`` gets sizes and weights from here, and not the folder: other entries of
``config.json`` and other files can make it load adapters, kernels and code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_env.readers.arrays import read_safetensors
from srpo_env.system.files import read_json
from srpo_env.system.text import one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DATA_FILES = ("*.json", "*.safetensors")
"""files that hold data, not code"""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""file of the weights, or of the list of their files"""


def is_hub_id(name: str | Path) -> bool:
    """Returns whether a name has the form of an id of the Hugging Face hub, ``OWNER/NAME``."""
    return isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "~", "/"))


def download(name: str, needed: str, patterns: Sequence[str] = DATA_FILES) -> Path:
    """Downloads files of a repository of the Hugging Face hub.

    Args:
        name: Id of the repository.
        needed: The files to copy without network, for the error message.
        patterns: Names of the files to download, with wildcards.

    Returns:
        Folder of the files; the same without network if they were downloaded before.

    Raises:
        ConnectionError: If the download fails.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the library, its HTTP client and the socket raise different types
        raise ConnectionError(
            f"there is no folder {name!r}, and https://huggingface.co/{name} could not "
            f"be downloaded ({type(error).__name__}: {one_line(error)}). Without network, copy "
            f"{needed} from another machine and pass their folder"
        ) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads ``model.safetensors``, or the files that ``model.safetensors.index.json`` lists.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged.
    """
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(
            f"the weights of a checkpoint must be {WEIGHTS}, and {str(folder)!r} has no "
            "such file; other formats can run code and are not read"
        )
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        for name in names.values()
    ):
        raise ValueError(f"{index} must have a `weight_map` of *.safetensors files next to it")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        weights |= read_safetensors(folder / name)
    return weights


def load_weights(
    model_class: Any,
    config: Any,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    source: str,
    not_needed: tuple[str, ...] = (),
    not_used: tuple[str, ...] = (),
) -> Any:
    """Builds a model of ``transformers`` with given sizes and weights.

    Args:
        model_class: Class of the model.
        config: Its sizes.
        weights: Its weights.
        dtype: Data type of the model.
        source: What an error calls the checkpoint.
        not_needed: Begin of the names of weights that may be missing.
        not_used: Begin of the names of weights that the model does not have.

    Raises:
        ValueError: If sizes and weights do not belong together.
    """
    with quiet_transformers():
        try:
            model, loading = model_class.from_pretrained(
                None, config=config, state_dict=dict(weights), dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{source} cannot be read: its weights and its config.json do not belong together "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
    # Missing weights would be random, and others would be left out, without an error.
    missing = [name for name in loading["missing_keys"] if not name.startswith(not_needed)]
    unexpected = [name for name in loading["unexpected_keys"] if not name.startswith(not_used)]
    size = f"a {model_class.__name__} of the size in its config.json"
    if missing:
        raise ValueError(
            f"the weights of {source} must be those of {size}, and lack {len(missing)} tensors, "
            f"such as {min(missing)}"
        )
    if unexpected:
        raise ValueError(
            f"the weights of {source} must be those of {size}, and have {len(unexpected)} tensors "
            f"more, such as {min(unexpected)}"
        )
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turns off the log and the progress bars of ``transformers`` in a block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
