"""The probability p with which images are augmented: fixed, scheduled, or adapted to overfitting.

Tensors are on the device, where they are also updated, in place: the host never needs their values,
and an update can be captured as a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from realness.trainer.config.schedule import SHAPES, Schedule, Shape
from realness.trainer.distributed.ranks import world_size

SAFE_P = 0.8
"""Below it augmentations do not leak: ADA, section 2.2."""

UPDATES_PER_STEP = 4
"""Updates of D per change of p: ADA, section 3.1."""


class Strength(Protocol):
    """The probability of augmentation during a run."""

    def p(self, images: int | Tensor) -> Tensor:
        """The probability, a scalar float32, when `images` images have been seen.

        images: a number, or an int64 scalar on the device.
        """
        ...

    def observe(self, score: Tensor) -> None:
        """Learn from D's update on this rank's real images, with scores [B]; collective."""
        ...

    def measures(self) -> dict[str, Tensor]:
        """Scalars to log besides p."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, equal on all ranks, to store and to load in place."""
        ...


class _NoState:
    """A probability that does not depend on D."""

    def observe(self, score: Tensor) -> None:
        return None

    def measures(self) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}


class FixedStrength(_NoState):
    """The same probability throughout. Raises ValueError if it is not in [0, 1]."""

    def __init__(self, p: float, device: torch.device | str = "cpu") -> None:
        _check_probability("p", p)
        self._p = torch.full((), p, device=device)

    def p(self, images: int | Tensor) -> Tensor:
        return self._p


@dataclass(frozen=True)
class ScheduledStrength(_NoState):
    """From p = `start` to p = `end` in `kimg` thousand images, and constant afterwards: `Schedule`.

    Raises ValueError if a probability is not in [0, 1], `kimg` not above 0 or the shape unknown.
    """

    start: float
    end: float
    kimg: float
    shape: Shape = "cosine"
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        _check_probability("start", self.start)
        _check_probability("end", self.end)
        if not self.kimg > 0:
            raise ValueError(f"kimg={self.kimg:g}; expected a length above 0")
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r}; use linear or cosine")

    def p(self, images: int | Tensor) -> Tensor:
        schedule = Schedule(self.start, self.end, self.kimg * 1000, self.shape)
        return schedule.on(self.device, images)


class AdaptiveStrength:
    """ADA's controller: p rises while D overfits, and falls while it does not.

    Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020),
    section 3.1. After every 4 updates, with r_t = E[sign(score(x) - undecided)] over their real
    images x on all ranks,

        p += sign(r_t - target) * 4 B / (1000 speed_kimg), clamped to [0, 1].

    Scores that are NaN do not count, and p stays if all are.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        target: float = 0.6,
        speed_kimg: float = 500.0,
        undecided: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """batch_size: B, images per update of D over all ranks. speed_kimg: thousands of images in
        which p can go from 0 to 1. undecided: the score at which D is undecided.

        Raises ValueError if the target is not in (-1, 1), or the speed not above 0.
        """
        if not -1 < target < 1:
            raise ValueError(
                f"target={target:g}; it is compared with a mean of signs: use a number between -1 "
                "and 1, for example 0.6"
            )
        if not speed_kimg > 0:
            raise ValueError(f"speed_kimg={speed_kimg:g}; use a number above 0, for example 500")
        self._step = UPDATES_PER_STEP * batch_size / (speed_kimg * 1000)
        self._target, self._undecided = target, undecided
        self._p = torch.zeros((), device=device)
        self._r_t = torch.zeros((), device=device)
        # The sum of the signs and their number, since the last change of p.
        self._signs = torch.zeros(2, device=device)
        self._num_updates = torch.zeros((), dtype=torch.int64, device=device)

    def p(self, images: int | Tensor) -> Tensor:
        return self._p

    @torch.no_grad()
    def observe(self, score: Tensor) -> None:
        signs = (score.float() - self._undecided).sign()
        counted = ~score.isnan()
        batch = torch.stack([torch.where(counted, signs, 0).sum(), counted.sum().float()])
        if world_size() > 1:
            dist.all_reduce(batch)
        # Whole numbers far below 2^24, so the order of the summation does not matter.
        self._signs += batch
        self._num_updates += 1
        due = self._num_updates % UPDATES_PER_STEP == 0
        total, number = self._signs.unbind()
        r_t = total / number.clamp_min(1)
        direction = (r_t - self._target).sign() * (number > 0)
        moved = (self._p + self._step * direction).clamp(0, 1)
        self._p.copy_(torch.where(due, moved, self._p))
        self._r_t.copy_(torch.where(due, r_t, self._r_t))
        self._signs.copy_(torch.where(due, 0, self._signs))

    def measures(self) -> dict[str, Tensor]:
        """`r_t` of the last 4 updates after which p changed."""
        return {"r_t": self._r_t.clone()}

    def tensors(self) -> dict[str, Tensor]:
        return {
            "p": self._p,
            "r_t": self._r_t,
            "signs": self._signs,
            "num_updates": self._num_updates,
        }


def leak_warning(p: float) -> str:
    """What it means that p is above `SAFE_P`, for the log; empty if it is not."""
    if p <= SAFE_P:
        return ""
    return (
        f"the probability of augmentation is {p:.2f}, above {SAFE_P:g}: D sees so few images "
        "without changes that G may learn to generate the changes, such as rotated or recoloured "
        "images. D has nearly memorised the training set, which is too small for so long a run: "
        "add images, or use a checkpoint from before"
    )


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}={p:g}; a probability lies between 0 and 1")
