"""The Earth Mover's Distance on ordered outcomes in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def realness_emd(logits: Tensor, anchor: Tensor) -> Tensor:
    """See `realness.kernels.realness_emd`."""
    dtype = accumulation_dtype(logits.dtype)
    difference = torch.softmax(logits.to(dtype), dim=1) - anchor.detach().to(dtype)
    # Both cumulative sums end at one, so the last difference is rounding error only.
    return difference.cumsum(1)[:, :-1].abs().sum(1)
