"""What a converted model keeps besides its weights: origin, centre of W, fixed noise."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from realness.trainer.storage.origin import Origin, read_origin, write_origin
from realness.trainer.storage.weights import read_weights, write_weights

KEPT_FILE = "origin.safetensors"
SAID: set[str] = set()
"""What this process has said already."""

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class Kept:
    """What belongs to weights that come from another program.

    centre: the centre of W [w_dim], as that program measured it; None once the weights have been
    trained further. noise: the fixed noise of all convolutions [noise_dim], or None.
    """

    origin: Origin
    centre: Tensor | None = None
    noise: Tensor | None = None


def write_kept(folder: Path, kept: Kept) -> None:
    """Write the files into a run folder or an export."""
    tensors = {"centre": kept.centre, "noise": kept.noise}
    found = {name: value for name, value in tensors.items() if value is not None}
    if found:
        write_weights(folder / KEPT_FILE, found, {})
    write_origin(folder, kept.origin)


def read_kept(
    folder: Path, device: torch.device | str = "cpu", *, trained_further: bool = False
) -> Kept | None:
    """What a run folder or an export keeps; None if its weights have no other origin.

    Says, once per process, if the weights are not for commercial use. Raises ConfigError and
    WeightsError for damaged files.
    """
    origin = read_origin(folder)
    if origin is None:
        return None
    if origin.notice and origin.notice not in SAID:
        SAID.add(origin.notice)
        log.warning("%s", origin.notice)
    tensors: dict[str, Tensor] = {}
    if (folder / KEPT_FILE).is_file():
        tensors, _ = read_weights(folder / KEPT_FILE)
    tensors = {name: value.to(device) for name, value in tensors.items()}
    centre = None if trained_further else tensors.get("centre")
    return Kept(origin, centre, tensors.get("noise"))
