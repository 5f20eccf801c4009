"""A network in one safetensors file, with a header of text that says what it is.

Safetensors hold numbers and nothing that could be executed, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realness.trainer.storage.files import staged_path


class WeightsError(ValueError):
    """A file of weights that cannot be read; the message names it."""


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write `tensors` by name, and the header `about`, atomically and synced to disk.

    Raises OSError where the disk is full; `path` then stays as it is.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with staged_path(path) as staged:
        save_tensors(staged, whole, about)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: Mapping[str, str]) -> None:
    """safetensors' own `save_file`, but with the permissions that new files have here.

    (Its files may be read by their owner alone.) Raises OSError where the disk is full.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=dict(about) or None)
    path.chmod(mode)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name and the header of a file.

    Raises:
        WeightsError: for a file that is missing, damaged, or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no readable safetensors file: {error}") from error
