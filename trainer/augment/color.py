"""ADA's colour transforms.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020), section
2.2 and appendix B. Each is a function of draws u ~ U(0, 1) or n ~ N(0, 1), [B], that returns the
affine map of the colours, [B, 3, 4]. v = (1, 1, 1) / sqrt(3) is the axis of the greys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer.augment.affine import identity, where_applied
from realness.trainer.randomness import Draws, Purpose

BRIGHTNESS_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0
"""Standard deviations of the brightness, and of the base-2 logarithms of the other two."""


def brightness(n: Tensor) -> Tensor:
    """Add 0.2 n to all channels."""
    shift = (BRIGHTNESS_STD * n)[:, None, None].expand(-1, 3, 1)
    return identity(3, n) + F.pad(shift, (3, 0))


def contrast(n: Tensor) -> Tensor:
    """Multiply all channels by 2^(0.5 n)."""
    return torch.exp2(CONTRAST_STD * n)[:, None, None] * identity(3, n)


def luma_flip(u: Tensor) -> Tensor:
    """Reflect the luma, I - 2 v v^T, with probability 1/2."""
    flips = (2 * u).floor()[:, None, None]
    return identity(3, u) - 2 * flips * _grey_part(u)


def hue(u: Tensor) -> Tensor:
    """Rotate about v by theta ~ U(-pi, pi) (Rodrigues' formula)."""
    theta = (math.pi * (2 * u - 1))[:, None, None]
    eye = identity(3, u)
    # v x y: the cyclic permutation of y minus its inverse, over sqrt(3).
    cross = (eye.roll(1, 0) - eye.roll(-1, 0)) / math.sqrt(3)
    return eye + (theta.cos() - 1) * (eye - _grey_part(u)) + theta.sin() * cross


def saturation(n: Tensor) -> Tensor:
    """Multiply the differences from grey by 2^n."""
    eye = identity(3, n)
    factor = torch.exp2(SATURATION_STD * n)[:, None, None]
    return eye + (factor - 1) * (eye - _grey_part(n))


def color(draws: Draws, p: Tensor) -> list[Tensor]:
    """The maps [B, 3, 4] of the five colour transforms, in order, each with probability p."""
    u = draws.uniform(Purpose.COLOR, 7)
    n = draws.normal(Purpose.COLOR_NORMAL, 3)
    maps = [
        brightness(n[:, 0]),
        contrast(n[:, 1]),
        luma_flip(u[:, 5]),
        hue(u[:, 6]),
        saturation(n[:, 2]),
    ]
    return where_applied(u[:, :5] < p, maps)


def _grey_part(like: Tensor) -> Tensor:
    """[v v^T | 0], [3, 4]: the projection onto the greys."""
    return F.pad(torch.full((3, 3), 1 / 3, dtype=like.dtype, device=like.device), (0, 1))
