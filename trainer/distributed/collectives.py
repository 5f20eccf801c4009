"""Collectives: differentiable sums over ranks, and actions that succeed or fail on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from realness.trainer.distributed.ranks import rank, world_size

Result = TypeVar("Result")


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x. Its adjoint is the same sum, so gradients of any order work."""

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

    The loss of the run is the mean of the ranks' losses, and gradients are averaged over ranks, so
    summing the incoming gradients is exactly the adjoint.
    """
    return x if world_size() == 1 else _SumOverRanks.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over all ranks, differentiable."""
    return sum_over_ranks(x) / world_size()


def global_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the global batch from those of this rank's equal share.

    mean, variance: [C]; returns the same shapes. With equal counts,
    mean = E_r[mean_r] and variance = E_r[variance_r + (mean_r - mean)^2] (Chan et al., 1979), which
    unlike E[x^2] - E[x]^2 does not suffer from cancellation. One collective: each rank writes its
    moments into its own row of a zero table, and the table is summed.
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


def on_all_ranks(
    action: Callable[[], Result],
    *,
    failure: type[Exception],
    what: str = "",
    group: dist.ProcessGroup | None = None,
) -> Result:
    """Run `action` on every rank and return this rank's result; collective over `group`.

    If it raises on any rank, `failure` is raised on every rank, with each distinct message once, so
    that no rank is left waiting in the next collective.
    """
    result: Result | None = None
    problem, caught = "", None
    try:
        result = action()
    except Exception as error:
        problem, caught = str(error) or repr(error), error
    problems: dict[str, list[int]] = {}
    for number, message in enumerate(gather(problem, group)):
        if message:
            problems.setdefault(message, []).append(number)
    if problems:
        raise failure(what + _describe(problems)) from caught
    return cast(Result, result)


def _describe(problems: dict[str, list[int]]) -> str:
    if all(len(ranks) == world_size() for ranks in problems.values()):
        return next(iter(problems))
    return "; ".join(
        f"rank {', '.join(map(str, ranks))}: {problem}" for problem, ranks in problems.items()
    )


def gather(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """`value` of every rank, in rank order, on every rank (small Python objects).

    `group`: another group of all ranks, such as `background_group()`; default: the main group.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values
