"""Conversion between networks' images, in [-1, 1], and the grey levels of image files."""

from __future__ import annotations

import torch
from torch import Tensor

HALF_RANGE = 127.5
"""Grey levels per unit: 0 to 255 is a range of two units."""


def to_unit(levels: Tensor) -> Tensor:
    """Grey levels, uint8 or float in 0..255, as float32 in [-1, 1]; the shape is unchanged."""
    return levels / HALF_RANGE - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] rounded to grey levels, uint8; values outside are clipped."""
    return (images * HALF_RANGE + HALF_RANGE).round().clamp(0, 255).to(torch.uint8)
