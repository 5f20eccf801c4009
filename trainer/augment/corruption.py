"""ADA's corruptions: noise and cutout.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020), appendix
B. Images to which they do not apply stay as they are, to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels import format_of
from realness.trainer.randomness import Draws, Purpose

NOISE_STD = 0.1
"""Standard deviation of the noise's own standard deviation, before its absolute value."""

CUTOUT_SIDE = 0.5
"""Side of the hole relative to the image's."""


def noise(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Add normal noise of deviation 0.1 |n| to the values of images [B, ...]; n ~ N(0, 1)."""
    applied = draws.uniform(Purpose.PIXEL_NOISE, 1) < p
    sigma = NOISE_STD * draws.normal(Purpose.PIXEL_NOISE_LEVEL, 1).abs()
    values = draws.normal(Purpose.PIXEL_NOISE_VALUE, images[0].numel())
    added = (sigma * values).view(images.shape).contiguous(memory_format=format_of(images))
    noisy = (images + added).to(images.dtype)
    return torch.where(applied[:, :, None, None], noisy, images)


def cutout(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Set a rectangle of half of each side, with its centre anywhere in the image, to 0.

    images: [B, C, H, W].
    """
    u = draws.uniform(Purpose.CUTOUT, 3)
    covered = [
        (_middles(size, u) - u[:, axis, None]).abs() < CUTOUT_SIDE / 2
        for axis, size in ((1, images.shape[3]), (2, images.shape[2]))
    ]
    hole = covered[0][:, None, :] & covered[1][:, :, None] & (u[:, :1] < p)[:, :, None]
    return torch.where(hole[:, None], 0, images)


def _middles(size: int, like: Tensor) -> Tensor:
    """Positions of the middles of `size` pixels on an axis of length 1."""
    return (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size
