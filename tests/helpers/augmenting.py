"""Draws, images and bounds for the tests of augmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from realness.trainer.randomness import Draws, Stream, batch_draws

ALL_OPS = ("b", "g", "c", "f", "n", "x", "bgcfnx", "color", "translation,cutout")
"""Augmentations that use every transform, alone and together."""


def draws_of(count: int, first: int = 0, device: str = "cpu") -> Draws:
    """The draws of `count` real images."""
    return batch_draws(5, Stream.D_REAL, first, count, device=device)


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform images in [-1, 1]."""
    generator = torch.Generator().manual_seed(11)
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul(2).sub(1).to(dtype)


def number(value: float) -> Tensor:
    """A probability as the augmentation takes it."""
    return torch.tensor(value)


def as_share_of(count: int, hits: int, probability: float) -> bool:
    """Whether `hits` of `count` are within 6 standard deviations of a binomial's mean."""
    deviation = math.sqrt(count * probability * (1 - probability))
    return abs(hits - count * probability) <= 6 * deviation
