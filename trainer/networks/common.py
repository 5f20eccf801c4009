"""Shared by all image networks: sizes, checks of inputs, the activation, precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

START_SIZE = 4
"""Side length in pixels at which generators start and discriminators end."""
IMAGE_CHANNELS = 3
LEAK = 0.2
"""Slope of leaky ReLUs below 0."""


def count_doublings(resolution: int) -> int:
    """Number of doublings from 4 pixels to `resolution`: 3 at 32, 8 at 1024.

    Raises:
        ValueError: unless `resolution` is a power of two from 32 to 1024.
    """
    if not 32 <= resolution <= 1024 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution} must be a power of two from 32 to 1024")
    return (resolution // START_SIZE).bit_length() - 1


def check_images(images: Tensor, resolution: int) -> None:
    """Raise ValueError unless images are [B, 3, R, R]."""
    expected = (IMAGE_CHANNELS, resolution, resolution)
    if tuple(images.shape[1:]) != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [B, *{expected}]")


def check_noise(noise: Tensor, batch: int, dim: int) -> None:
    """Raise ValueError unless noise is [batch, dim]."""
    if tuple(noise.shape) != (batch, dim):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {(batch, dim)}")


def rectify(x: Tensor, leak: float) -> Tensor:
    """Leaky ReLU, or ReLU for a leak of 0."""
    return F.leaky_relu(x, leak) if leak else F.relu(x)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute matrix products in their operands' precision, even inside a bf16 autocast region."""
    # Nothing is computed there. (torch 2.11 cannot compile the check for autocast on a device.)
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
