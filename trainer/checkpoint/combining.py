"""Weighted sums of networks that are stored in several checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from realness.trainer.checkpoint.format import CheckpointError, read_manifest
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.checkpoint.reader import load, read_tensors
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.storage.checkpoint_folder import list_checkpoints


@dataclass(frozen=True)
class Term:
    """`coefficient` times the network `name` in the checkpoint `folder`."""

    folder: Path
    name: str
    coefficient: float


def readable_before(root: Path, images: int, report: Callable[[str], None]) -> list[Path]:
    """The undamaged checkpoints in `root` before `images` images, oldest first; collective.

    Each file's size and checksum are verified. `report` gets a message for every damaged one.
    """
    names = gather([path.name for path in list_checkpoints(root) if int(path.name) < images])[0]
    found = []
    for folder in (root / name for name in names):
        try:
            load(folder, [])
            found.append(folder)
        except CheckpointError as error:
            report(f"left out: {error}")
    return found


def load_sum(terms: Sequence[Term], targets: dict[str, Tensor]) -> None:
    """Fill tensors, by their names in the networks, with the sum of the terms; collective.

    The sum is computed in float64 on the CPU. Raises CheckpointError on every rank if a term cannot
    be read.
    """
    on_all_ranks(
        lambda: _sum(terms, targets), failure=CheckpointError, what="could not read a network: "
    )


def _sum(terms: Sequence[Term], targets: dict[str, Tensor]) -> None:
    total = {name: torch.zeros(item.shape, dtype=torch.float64) for name, item in targets.items()}
    part = {name: torch.empty_like(item, device="cpu") for name, item in targets.items()}
    for term in terms:
        manifest = read_manifest(term.folder)
        read_tensors(term.folder, manifest, replicated(f"{term.name}.model", part))
        for name, value in part.items():
            total[name].add_(value, alpha=term.coefficient)
    for name, value in targets.items():
        value.copy_(total[name])
