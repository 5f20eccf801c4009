"""The images of an update with all that belongs to their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realness.trainer.augment.input_augmentation import View
from realness.trainer.randomness import Draws

Condition = tuple[Tensor, ...]
"""What D takes besides images: the condition [B, num_classes] of a conditional run, or nothing."""


def rows_of(condition: Condition, rows: slice) -> Condition:
    """The condition of some rows."""
    return tuple(values[rows] for values in condition)


def joined(conditions: Sequence[Condition]) -> Condition:
    """The condition of several batches after each other."""
    return tuple(torch.cat(values) for values in zip(*conditions, strict=True))


@dataclass(frozen=True)
class Batch:
    """Images [B, ...] with their draws and their condition."""

    images: Tensor
    draws: Draws
    condition: Condition = ()

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(self.images[rows], self.draws[rows], rows_of(self.condition, rows))

    def seen(self, view: View) -> Tensor:
        """The images as D sees them."""
        return view(self.images, self.draws)
