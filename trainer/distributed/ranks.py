"""This process among its ranks: its device, its group, and collectives.

Those that the training maths needs are differentiable.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from realness.trainer.config import ConfigError

Result = TypeVar("Result")
_thread = threading.local()


def pick_device(requested: str) -> torch.device:
    """The device of this process, `cuda:LOCAL_RANK` or `cpu`. Raises ConfigError for no GPU."""
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "--device=cuda, but torch finds no CUDA device; use --device=cpu, or check the driver "
            "(nvidia-smi) and that this torch is a CUDA build"
        )
    index, count = local_rank(), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"local rank {index} has no GPU: this node has {count}; start {count} ranks here"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def local_rank() -> int:
    """This process's number on its node, as the launcher says; 0 without one."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def start_process_group(device: torch.device, timeout_s: float = 600.0) -> None:
    """Join the launcher's process group, or make a group of one when there is no launcher.

    timeout_s: limit for one collective; torch's own is half an hour.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    options: dict[str, Any] = {"backend": backend, "timeout": timedelta(seconds=timeout_s)}
    if "RANK" not in os.environ:
        options.update(store=dist.HashStore(), rank=0, world_size=1)
    dist.init_process_group(**options)


def background_group() -> dist.ProcessGroup | None:
    """All ranks once more, over connections of their own, for a thread; collective.

    Collectives of one group must be issued in the same order on all ranks, which two threads cannot
    promise. The limit is long: a rank may well write its file for minutes while others wait.
    """
    if world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=1))
    return cast(dist.ProcessGroup, group)


def stop_process_group() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if _in_group() else 1


def _in_group() -> bool:
    return dist.is_initialized() and not getattr(_thread, "alone", False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What this thread does in here it does as the only rank: nothing of it is collective.

    So a rank may fail in here, or do something else than the others. Other threads keep their rank.
    """
    _thread.alone = True
    try:
        yield
    finally:
        _thread.alone = False


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


def together(
    action: Callable[[], Result],
    *,
    failure: type[Exception],
    what: str = "",
    group: dist.ProcessGroup | None = None,
) -> Result:
    """Run `action` on every rank and return this rank's result; collective over `group`.

    When it raises on any rank, `failure` is raised on every rank, with each different message once:
    so no rank is left waiting in the next collective.
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

    `group`: all ranks over other connections, such as `background_group`; default: the usual ones.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values
