"""The two halves of feature resampling in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def logit_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """See `realness.kernels.logit_moments`."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    mean = logits.mean(0)
    return mean, (logits - mean).square().mean(0)


def resample_from_moments(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """See `realness.kernels.resample_from_moments`."""
    constant = variance == 0  # sqrt has no derivative there: the outcome passes no gradient
    deviation = torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())
    return mean + deviation * noise.to(mean.dtype)
