"""DiffAugment's policies.

Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training" (NeurIPS 2020), section
3.2. The paper applies each to every image, i.e. with p = 1. Draws u ~ U(0, 1) are [B, 1, 1, 1] for
images [B, 3, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from realness.kernels import warp
from realness.trainer.augment.affine import matrix
from realness.trainer.randomness import Draws, Purpose

SHIFT = 1 / 8
"""Largest translation relative to each side."""

CUTOUT_SIDE = 1 / 2
"""Side of the hole relative to the image's."""


def brightness(images: Tensor, u: Tensor) -> Tensor:
    """Add U(-0.5, 0.5) to all values."""
    return images + (u - 0.5)


def saturation(images: Tensor, u: Tensor) -> Tensor:
    """Multiply each pixel's differences from its mean over channels by U(0, 2)."""
    mean = images.mean(1, keepdim=True)
    return (images - mean) * (2 * u) + mean


def contrast(images: Tensor, u: Tensor) -> Tensor:
    """Multiply the differences from the image's mean by U(0.5, 1.5)."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (u + 0.5) + mean


def color(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Brightness, saturation and contrast, all three with probability p."""
    u = draws.uniform(Purpose.POLICY_COLOR, 4)[:, :, None, None, None]
    changed = images.to(torch.promote_types(images.dtype, torch.float32))
    for number, change in enumerate((brightness, saturation, contrast), start=1):
        changed = change(changed, u[:, number])
    return torch.where(u[:, 0] < p, changed.to(images.dtype), images)


def translation(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Shift by whole pixels, up to round(side / 8) both ways, with zeros beyond the border."""
    height, width = images.shape[2:]
    u = draws.uniform(Purpose.POLICY_TRANSLATION, 3)
    applied = u[:, 0] < p
    x, y = (
        torch.where(applied, _whole(u[:, axis], 2 * reach + 1) - reach, 0)
        for axis, reach in ((1, _rounded(SHIFT * width)), (2, _rounded(SHIFT * height)))
    )
    shifted = warp(images, matrix([[1, 0, -x], [0, 1, -y]], x))
    inside = [
        (source >= 0) & (source < size)
        for shift, size in ((x, width), (y, height))
        for source in [torch.arange(size, device=x.device) - shift[:, None]]
    ]
    return torch.where((inside[0][:, None, :] & inside[1][:, :, None])[:, None], shifted, 0)


def cutout(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Set a rectangle of half of each side to 0; its centre is uniform over the image."""
    u = draws.uniform(Purpose.POLICY_CUTOUT, 3)
    covered = []
    for axis, size in ((1, images.shape[3]), (2, images.shape[2])):
        side = _rounded(CUTOUT_SIDE * size)
        # An even side is centred between two pixels, or on the border.
        start = _whole(u[:, axis], size + 1 - side % 2) - side // 2
        from_start = torch.arange(size, device=u.device) - start[:, None]
        covered.append((from_start >= 0) & (from_start < side))
    hole = covered[0][:, None, :] & covered[1][:, :, None] & (u[:, :1] < p)[:, :, None]
    return torch.where(hole[:, None], 0, images)


POLICIES: dict[str, Callable[[Tensor, Draws, Tensor], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}
"""The policies by name: functions of images [B, 3, H, W], draws, and the probability p."""


def _whole(u: Tensor, count: int) -> Tensor:
    """Uniform whole numbers 0 .. count - 1, as floats."""
    return (count * u).floor()


def _rounded(length: float) -> int:
    """The nearest integer, with halves rounded up."""
    return math.floor(length + 0.5)
