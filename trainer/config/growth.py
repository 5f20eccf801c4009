"""Progressive growing of both networks: its settings and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realness.trainer.config.base import not_negative, require

START_SIDE = 8
"""The smallest side: DCGAN's first image is made from features at 4x4."""


class GrowthStage(NamedTuple):
    """How far the networks have grown: images of `side` pixels a side.

    alpha: share of that side; 1 - alpha is the share of half the side, in a transition.
    """

    side: int
    alpha: float


@dataclass(frozen=True)
class GrowthConfig:
    """Progressive growing (Karras et al., "Progressive Growing of GANs", ICLR 2018)."""

    grow_kimg: float = 0.0
    """Progressive growing: thousands of images of each transition to twice the side, and of the
    training at each side; 800 in the paper. 0 disables it: both networks have the full resolution
    from the start."""
    grow_from: int = START_SIDE
    """Side at which progressive growing starts, in pixels."""

    def __post_init__(self) -> None:
        not_negative(self, "grow_kimg")

    def check(self, resolution: int) -> None:
        """Raise ConfigError unless the networks can grow from --grow-from to `resolution`."""
        sides = self._sides(resolution)
        require(
            not self.grow_kimg or self.grow_from in sides[:-1],
            f"--grow-from={self.grow_from} is not a side below --resolution={resolution} that is a "
            f"power of two; use {', '.join(map(str, sides[:-1]))}, or --grow-kimg 0",
        )

    def warning(self, resolution: int, num_images: int) -> str:
        """What to say at the start of a run that ends before it has grown; empty otherwise."""
        if not self.grow_kimg:
            return ""
        sides = self._sides(resolution)
        needed = 2 * (len(sides) - 1 - sides.index(self.grow_from)) * self.grow_kimg * 1000
        if needed < num_images:
            return ""
        return (
            f"--grow-kimg={self.grow_kimg:g} takes {needed / 1000:,g} kimg to grow from "
            f"{self.grow_from} to {resolution} pixels, but the run ends after "
            f"{num_images / 1000:,g}: its images will not have the full resolution"
        )

    @staticmethod
    def _sides(resolution: int) -> list[int]:
        return [START_SIDE << k for k in range((resolution // START_SIDE).bit_length())]

    def at(self, images: int, resolution: int) -> GrowthStage:
        """The stage after `images` images: a period of grow_kimg at the first side, then for each
        further side one of transition, in which alpha rises linearly, and one of training."""
        if not self.grow_kimg:
            return GrowthStage(resolution, 1.0)
        period = self.grow_kimg * 1000
        number, rest = divmod(images, period)
        side = self.grow_from << int(number + 1) // 2
        if side > resolution:
            return GrowthStage(resolution, 1.0)
        return GrowthStage(side, rest / period if number % 2 else 1.0)
