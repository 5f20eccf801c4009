"""This process among its ranks: its device, its group, and collectives.

Those that the training maths needs are differentiable.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

_thread = threading.local()


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
