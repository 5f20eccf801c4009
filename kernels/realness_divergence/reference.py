"""KL(softmax(p) || softmax(q)) in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def realness_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """See `realness.kernels.realness_divergence`."""
    dtype = accumulation_dtype(logits_p.dtype)
    log_p = torch.log_softmax(logits_p.to(dtype), dim=1)
    log_q = torch.log_softmax(logits_q.to(dtype), dim=1)
    p = log_p.exp()
    # `p == 0` rather than `p > 0`, so that NaN is kept.
    log_ratio = torch.where(p == 0, 0.0, log_p - log_q)
    return (p * log_ratio).sum(1)
