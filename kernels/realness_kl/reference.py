"""KL(anchor || softmax(logits)) in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def realness_kl(logits: Tensor, anchor: Tensor) -> Tensor:
    """See `realness.kernels.realness_kl`."""
    dtype = accumulation_dtype(logits.dtype)
    anchor = anchor.detach().to(dtype)
    log_q = torch.log_softmax(logits.to(dtype), dim=1)
    # An outcome the anchor excludes costs nothing, even where log q is -inf.
    cross_entropy = torch.where(anchor > 0, -anchor * log_q, 0.0)
    return (torch.xlogy(anchor, anchor) + cross_entropy).sum(1)
