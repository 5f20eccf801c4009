"""Values that move during a run, as functions of the number of images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from realness.trainer.config.base import not_negative

if TYPE_CHECKING:
    from torch import Tensor

Shape = Literal["cosine", "linear"]
SHAPES = ("cosine", "linear")


@dataclass(frozen=True)
class ScheduleConfig:
    """Length and shape of the schedules of all values that have an end value."""

    schedule_kimg: float = 0.0
    """Thousands of images in which scheduled values move to their end values, and after which they
    are constant: those with a flag --...-final, the learning rates with --lr-decay linear or
    cosine, and p of --augment scheduled; 0 for the whole run."""
    schedule_shape: Shape = "cosine"
    """How the values with a flag --...-final move: along half a period of a cosine, or linearly."""

    def __post_init__(self) -> None:
        not_negative(self, "schedule_kimg")


@dataclass(frozen=True)
class Schedule:
    """A value that moves from `start` to `end` during `images` images, and then stays there.

    With t images seen and s = min(t / images, 1), the value is (1 - w) start + w end, where w = s
    (linear) or w = (1 - cos(pi s)) / 2 (cosine; Huang et al., "The GAN is dead; long live the
    GAN!", NeurIPS 2024, in its published code). It has no state, so a resumed run continues it.
    """

    start: float
    end: float
    images: float
    shape: Shape = "cosine"

    def progress(self, seen: int) -> float:
        """w in [0, 1] after `seen` images."""
        share = min(1.0, max(0.0, seen / self.images))
        return (1 - math.cos(math.pi * share)) / 2 if self.shape == "cosine" else share

    def at(self, seen: int) -> float:
        """The value after `seen` images."""
        w = self.progress(seen)
        return (1 - w) * self.start + w * self.end

    def on(self, device: Any, seen: int | Tensor) -> Tensor:
        """The value after `seen` images, a number or an int64 scalar, as a float32 scalar on
        `device`. It is computed there, so that a CUDA graph computes it again in every replay."""
        import torch

        # Added on the device, so that a number and a tensor give the same result.
        images = torch.zeros((), dtype=torch.float64, device=device) + seen
        w = (images / self.images).clamp(0, 1)
        if self.shape == "cosine":
            w = (1 - (math.pi * w).cos()) / 2
        return ((1 - w) * self.start + w * self.end).float()
