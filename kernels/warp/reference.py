"""Resampling images on affine grids in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype

# Daubechies' least asymmetric wavelet with 6 vanishing moments; the taps sum to sqrt(2).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
CENTRE = 5  # the tap that counts as the filter's centre
MAX_SCALE = 16.0  # limit of the matrix's entries, and of its translations in sides


def vector(device: torch.device, *values: float) -> Tensor:
    """The values in float64, made on the device, as capture in a CUDA graph requires."""
    return torch.stack([torch.full((), v, dtype=torch.float64, device=device) for v in values])


def bounded(inverse: Tensor, side: int) -> Tensor:
    """The matrix [B, 2, 3] in float64 as it is used: within the limits, and finite."""
    limit = vector(inverse.device, MAX_SCALE, MAX_SCALE, MAX_SCALE * side)
    finite = inverse.to(torch.float64).nan_to_num(0.0)
    return torch.maximum(torch.minimum(finite, limit), -limit)


def unfolded(x: Tensor, dim: int) -> Tensor:
    """One period of the reflected image along `dim`: 0, 1, ..., n - 1, n - 2, ..., 1."""
    size = x.shape[dim]
    return torch.cat([x, x.narrow(dim, 1, size - 2).flip(dim)], dim) if size > 2 else x


def upsampled(x: Tensor, dim: int) -> Tensor:
    """Twice the samples of a period: sample m is the sum over n of sqrt(2) sym6[m - 2n] x[n]."""
    gain = 2**0.5
    phases = [
        sum(gain * SYM6[2 * i + phase] * x.roll(i, dim) for i in range(len(SYM6) // 2))
        for phase in range(2)
    ]
    return torch.stack(phases, dim + 1).flatten(dim, dim + 1)  # type: ignore[arg-type]


def downsampled(x: Tensor, dim: int) -> Tensor:
    """Half the samples, by the flipped filter: j is the sum of sym6[t] x[2j + t] / sqrt(2)."""
    size = (x.shape[dim] - len(SYM6) + 2) // 2
    rows = torch.arange(size, device=x.device) * 2
    return sum(tap / 2**0.5 * x.index_select(dim, rows + t) for t, tap in enumerate(SYM6))  # type: ignore[return-value]


def gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x[b, c, rows[b, i, j], columns[b, i, j]], with indices counted modulo the size of x."""
    height, width = x.shape[2:]
    index = rows.remainder(height) * width + columns.remainder(width)
    index = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).unflatten(2, rows.shape[1:])


def positions(matrix: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Input positions [B, 2, H, W] (x, y) of a grid of output positions around the centre."""
    y, x = (
        torch.arange(n, dtype=torch.float64, device=device) - (n - 1) / 2 for n in (height, width)
    )
    grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)])
    return torch.einsum("bij,jhw->bihw", matrix[..., :2], grid) + matrix[..., 2, None, None]


def copied(x: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The images without filtering, and [B]: whether their pixels map onto pixels."""
    height, width = x.shape[2:]
    centre = vector(x.device, (width - 1) / 2, (height - 1) / 2)
    places = positions(matrix, height, width, x.device) + centre[:, None, None]
    nearest = places.round()
    linear = matrix[..., :2]
    permutes = (linear.abs().sum(1) == 1).all(1) & (linear.abs().sum(2) == 1).all(1)
    exact = permutes & (linear == linear.round()).all(2).all(1)
    exact &= (places == nearest).flatten(1).all(1)
    columns, rows = nearest.long().unbind(1)
    return gathered(unfolded(unfolded(x, 2), 3), rows, columns), exact


def sampled(x: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear samples on the grid of the doubled output, from the doubled input."""
    height, width = x.shape[2:]
    margin = len(SYM6) - 2
    # The grid's centre is the output's; the margin has one sample more on the right and below.
    grid = (2 * height + margin, 2 * width + margin)
    halves = matrix.clone()
    halves[..., 2] *= 2
    halves[..., 2] += (matrix[..., :2].sum(2)) * ((margin + 1) / 2 - CENTRE)
    centre = vector(x.device, width - 1 + CENTRE, height - 1 + CENTRE)
    places = positions(halves, *grid, x.device) + centre[:, None, None]
    first = places.floor()
    right, below = (places - first).to(x.dtype)[:, :, None].unbind(1)
    columns, rows = first.long().unbind(1)
    doubled = upsampled(upsampled(unfolded(unfolded(x, 2), 3), 2), 3)
    top, bottom = (
        gathered(doubled, rows + i, columns) * (1 - right)
        + gathered(doubled, rows + i, columns + 1) * right
        for i in range(2)
    )
    return top * (1 - below) + bottom * below


def warp(images: Tensor, inverse: Tensor, color: Tensor | None = None) -> Tensor:
    """See `realness.kernels.warp`."""
    x = images.to(accumulation_dtype(images.dtype))
    matrix = bounded(inverse, max(images.shape[2:]))
    plain, exact = copied(x, matrix)
    filtered = downsampled(downsampled(sampled(x, matrix), 2), 3)
    y = torch.where(exact[:, None, None, None], plain, filtered)
    known = inverse.isfinite().flatten(1).all(1)[:, None, None, None]
    y = torch.where(known, y, torch.full_like(y, torch.nan))
    if color is not None:
        color = color.to(y.dtype)
        y = torch.einsum("bij,bjhw->bihw", color[..., :3], y) + color[..., 3, None, None]
    return y.to(images.dtype, memory_format=torch.preserve_format)
