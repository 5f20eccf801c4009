"""The process group: joining and leaving it, this process's rank, and the number of ranks."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from realness.trainer.config.base import ConfigError
from realness.trainer.distributed.launcher import check_launcher

_thread = threading.local()


def launched_as() -> tuple[int, int]:
    """(rank, number of ranks) that the launcher gave this process; (0, 1) without a launcher."""
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def start_process_group(
    device: torch.device, timeout_s: float = 600.0, store: dist.Store | None = None
) -> None:
    """Join the launcher's process group, or create a group of one if there is no launcher.

    timeout_s: limit for one collective; torch's default is 30 minutes. store: one that all ranks
    have connected to already; by default they meet at the launcher's address here. Raises
    ConfigError if the launcher's variables are not valid, or if the port of the rendezvous is in
    use.
    """
    check_launcher()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    options: dict[str, Any] = {"backend": backend, "timeout": timedelta(seconds=timeout_s)}
    if store is not None or "RANK" not in os.environ:
        number, size = launched_as()
        options.update(store=store or dist.HashStore(), rank=number, world_size=size)
    with naming_port_in_use():
        dist.init_process_group(**options)


@contextlib.contextmanager
def naming_port_in_use() -> Iterator[None]:
    """Raises ConfigError with the remedy if the ranks cannot meet because of a port in use."""
    try:
        yield
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"port {os.environ['MASTER_PORT']}, at which the ranks meet, is in use by another "
            "program, perhaps another run; give the launcher another one: --master_port 29501"
        ) from error


def background_group() -> dist.ProcessGroup | None:
    """Create a second group of all ranks with separate connections, for a thread; collective.

    Collectives of one group must be issued in the same order on all ranks, which two threads cannot
    guarantee. The timeout is long, because a rank may write its file for minutes while others wait.
    None in a single process.
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
    return dist.is_initialized() and not getattr(_thread, "is_single_rank", False)


@contextlib.contextmanager
def as_single_rank() -> Iterator[None]:
    """Make this thread act as the only rank in the block, so that nothing in it is collective.

    A rank may then fail in the block, or do something different from the others. Other threads are
    not affected.
    """
    _thread.is_single_rank = True
    try:
        yield
    finally:
        _thread.is_single_rank = False
