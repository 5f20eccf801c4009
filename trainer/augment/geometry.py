"""ADA's geometric transforms: `blit`, which keeps pixels as they are, and `geom`.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020), section
2.2 and appendix B. Each transform is a function of draws u ~ U(0, 1) or n ~ N(0, 1) that returns
its inverse, [B, 2, 3]: the map from positions in the transformed image to those in the original.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from realness.trainer.augment.affine import matrix, where_applied
from realness.trainer.randomness import Draws, Purpose

SHIFT = 0.125
"""Largest integer translation, and standard deviation of the fractional one, per side."""

SCALE_STD = 0.2
"""Standard deviation of the base-2 logarithm of both scales."""


def x_flip(u: Tensor) -> Tensor:
    """Mirror left and right with probability 1/2; u: [B]."""
    return matrix([[1 - 2 * (2 * u).floor(), 0, 0], [0, 1, 0]], u)


def quarter_turn(u: Tensor) -> Tensor:
    """Rotate anticlockwise by i = floor(4 u) quarters of a turn; u: [B]."""
    quarters = (4 * u).floor()
    # Exact zeros and ones, so that the pixels stay where they are on their grid.
    cos = (quarters == 0).to(u) - (quarters == 2).to(u)
    sin = (quarters == 1).to(u) - (quarters == 3).to(u)
    return matrix([[cos, -sin, 0], [sin, cos, 0]], u)


def integer_translation(u: Tensor, size: tuple[int, int]) -> Tensor:
    """Shift by whole pixels, up to 1/8 of each side; u: [B, 2] for x and y, size: (H, W)."""
    height, width = size
    share = SHIFT * (2 * u - 1)
    x, y = (share[:, 0] * width).round(), (share[:, 1] * height).round()
    return matrix([[1, 0, -x], [0, 1, -y]], x)


def isotropic_scale(n: Tensor) -> Tensor:
    """Enlarge by s = 2^(0.2 n); n: [B]."""
    shrink = torch.exp2(-SCALE_STD * n)
    return matrix([[shrink, 0, 0], [0, shrink, 0]], n)


def rotation(u: Tensor) -> Tensor:
    """Rotate clockwise by theta ~ U(-pi, pi); u: [B]."""
    theta = math.pi * (2 * u - 1)
    cos, sin = theta.cos(), theta.sin()
    return matrix([[cos, sin, 0], [-sin, cos, 0]], u)


def anisotropic_scale(n: Tensor) -> Tensor:
    """Enlarge x by s = 2^(0.2 n) and y by 1/s; n: [B]."""
    return matrix([[torch.exp2(-SCALE_STD * n), 0, 0], [0, torch.exp2(SCALE_STD * n), 0]], n)


def fractional_translation(n: Tensor, size: tuple[int, int]) -> Tensor:
    """Shift by N(0, 0.125^2) of each side; n: [B, 2] for x and y, size: (H, W)."""
    height, width = size
    return matrix([[1, 0, -SHIFT * width * n[:, 0]], [0, 1, -SHIFT * height * n[:, 1]]], n[:, 0])


def blit(draws: Draws, p: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """The inverses [B, 2, 3] of the transforms of `blit`, in order, each with probability p."""
    u = draws.uniform(Purpose.BLIT, 7)
    maps = [x_flip(u[:, 3]), quarter_turn(u[:, 4]), integer_translation(u[:, 5:], size)]
    return where_applied(u[:, :3] < p, maps)


def geom(draws: Draws, p: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """The inverses [B, 2, 3] of the transforms of `geom`, in order, each with probability p.

    The image is rotated before and after the anisotropic scale, each with the probability p_rot for
    which P(either) = p: 1 - sqrt(1 - p), here in a form without cancellation.
    """
    u = draws.uniform(Purpose.GEOMETRY, 7)
    n = draws.normal(Purpose.GEOMETRY_NORMAL, 4)
    maps = [
        isotropic_scale(n[:, 0]),
        rotation(u[:, 5]),
        anisotropic_scale(n[:, 1]),
        rotation(u[:, 6]),
        fractional_translation(n[:, 2:], size),
    ]
    p_rot = p / (1 + (1 - p).sqrt())
    return where_applied(u[:, :5] < torch.stack([p, p_rot, p, p_rot, p]), maps)
