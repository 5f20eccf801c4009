"""Collectives that the training maths needs, differentiable where the maths is."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x. The adjoint is the same sum, so any order of gradient works."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverRanks.apply(grad.contiguous())


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, differentiable; `x` itself in a single process.

    With the loss of the run defined as the mean of the ranks' losses, and gradients averaged over
    ranks, summing the incoming gradients is exactly the adjoint.
    """
    return x if world_size() == 1 else _SumOverRanks.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over all ranks, differentiable."""
    return sum_over_ranks(x) / world_size()


def global_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the global batch from those of this rank's equal share.

    mean, variance: [C]; returns the same shapes. With equal counts,
    mean = E_r[mean_r] and variance = E_r[variance_r + (mean_r - mean)^2] (Chan et al., 1979), which
    does not cancel as E[x^2] - E[x]^2 does. One collective: each rank puts its moments into its own
    row of a zero table, and the table is summed.
    """
    size = world_size()
    if size == 1:
        return mean, variance
    row = torch.zeros(size, 1, 1, device=mean.device, dtype=mean.dtype)
    row[rank()] = 1
    table = sum_over_ranks(row * torch.stack([mean, variance]))
    means, variances = table.unbind(1)
    merged = means.mean(0)
    return merged, (variances + (means - merged).square()).mean(0)
