"""The sum of squares of every sample in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def squared_norm(x: Tensor) -> Tensor:
    """See `realness.kernels.squared_norm`."""
    squares = x.to(accumulation_dtype(x.dtype)).square()
    return squares.sum(list(range(1, x.dim()))) if x.dim() > 1 else squares
