"""The sum of squares of every sample in plain PyTorch."""

from __future__ import annotations

import math

from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def squared_norm(x: Tensor) -> Tensor:
    """See `realness.kernels.squared_norm`."""
    rows = x.to(accumulation_dtype(x.dtype)).reshape(x.shape[0], math.prod(x.shape[1:]))
    return rows.square().sum(1)
