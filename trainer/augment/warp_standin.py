"""Sampling on an affine grid by bilinear interpolation: replaced by `realness.kernels.warp`."""

from __future__ import annotations

import torch
from torch import Tensor


def warp(images: Tensor, inverse: Tensor, color: Tensor | None = None) -> Tensor:
    """Images [B, 3, H, W] at the positions inverse [B, 2, 3] with colours mapped by [B, 3, 4].

    Positions are pixels from the centre. Images continue by reflection.
    """
    height, width = images.shape[2:]
    working = torch.promote_types(images.dtype, torch.float32)

    def axis(size: int) -> Tensor:
        return torch.arange(size, device=images.device, dtype=working) - (size - 1) / 2

    x, y = axis(width)[None, None], axis(height)[None, :, None]
    at = inverse.to(working)[:, :, :, None, None]
    source_x = at[:, 0, 0] * x + at[:, 0, 1] * y + at[:, 0, 2] + (width - 1) / 2
    source_y = at[:, 1, 0] * x + at[:, 1, 1] * y + at[:, 1, 2] + (height - 1) / 2
    pixels = images.to(working).flatten(2)
    result = torch.zeros_like(pixels)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = source_x.floor() + dx, source_y.floor() + dy
            weight = (1 - (source_x - column).abs()) * (1 - (source_y - row).abs())
            index = _reflected(row, height) * width + _reflected(column, width)
            index = index.flatten(1)[:, None].expand(-1, 3, -1)
            result = result + weight.flatten(1)[:, None] * pixels.gather(2, index)
    if color is not None:
        color = color.to(working)
        result = (color[:, :, :3, None] * result[:, None]).sum(2) + color[:, :, 3:]
    return result.view(images.shape).to(images.dtype)


def _reflected(position: Tensor, size: int) -> Tensor:
    period = 2 * (size - 1)
    return ((position.long() + size - 1) % period - (size - 1)).abs()
