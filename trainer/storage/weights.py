"""A network in one safetensors file, with a text header that describes it.

Safetensors files contain only numbers and text, so loading an untrusted file executes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realness.trainer.storage.files import staged_path

GENERATOR_FILE = "generator.safetensors"
DISCRIMINATOR_FILE = "discriminator.safetensors"
"""The networks of an exported folder."""


class WeightsError(ValueError):
    """A file of weights that cannot be read; the message names it."""


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write `tensors` by name with the header `about`, atomically and synced to disk.

    Raises OSError if the disk is full; `path` is then unchanged.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with staged_path(path) as staged:
        save_tensors(staged, whole, about)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: Mapping[str, str]) -> None:
    """safetensors' `save_file`, but with the default permissions of new files.

    (`save_file` makes files that only their owner can read.) Raises OSError if the disk is full.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=dict(about) or None)
    path.chmod(mode)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name and the header of a file.

    Raises:
        WeightsError: if the file is missing, damaged, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a valid safetensors file: {error}") from error
