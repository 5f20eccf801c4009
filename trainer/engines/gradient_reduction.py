"""Averaging the gradients of whole weights over ranks, in one collective per update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realness.trainer.distributed.ranks import world_size


@torch.no_grad()
def average_gradients(
    weights: Iterable[nn.Parameter], bad: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Replace the gradient of every weight by its mean over ranks; collective.

    A weight without a gradient gets zeros, so that all ranks send as much and optimisers treat it
    as they would if it had been used. bad: 1 if the update must be skipped, otherwise 0, a scalar.
    It travels with the gradients. dtype: in which to send and sum; by default that of the
    gradients. Returns 1 if it is 1 on any rank, otherwise 0.
    """
    gradients = []
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        gradients.append(weight.grad)
    if world_size() == 1:
        return bad
    bucket = torch.cat([*(gradient.reshape(-1) for gradient in gradients), bad.view(1)])
    bucket = bucket if dtype is None else bucket.to(dtype)
    dist.all_reduce(bucket)
    *sums, total_bad = bucket.split([*(gradient.numel() for gradient in gradients), 1])
    means = torch._foreach_mul(sums, 1 / world_size())
    torch._foreach_copy_(
        gradients, [mean.view(like.shape) for mean, like in zip(means, gradients, strict=True)]
    )
    return (total_bad[0] > 0).to(bad.dtype)
