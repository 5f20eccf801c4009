"""The sum of squares of every sample in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def squared_norm(x: Tensor) -> Tensor:
    """See `realness.kernels.squared_norm`."""
    return x.to(accumulation_dtype(x.dtype)).square().flatten(1).sum(1)
