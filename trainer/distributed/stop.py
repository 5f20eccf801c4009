"""Stopping on request, agreed between all ranks."""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

from realness.trainer.distributed.launcher import Launcher


class StopRequest:
    """Whether the run was asked to stop, agreed between all ranks.

    SIGTERM, SIGUSR1 and a first Ctrl-C request a checkpoint and an orderly end, and so does the
    death of the launcher, because its ranks must not keep training unnoticed. A signal may reach
    only one rank, so each poll starts a reduction over ranks whose result the next poll reads.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None
        self._launcher = Launcher()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def poll(self) -> bool:
        """True on all ranks in the same iteration after any was asked to stop; collective."""
        if not self.reason and self._launcher.has_died():
            self.reason = "the launcher has died"
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return bool(self.reason)
        agreed = self.settle()
        self._flag = torch.tensor([int(bool(self.reason))], dtype=torch.int32)
        self._pending = dist.all_reduce(self._flag, dist.ReduceOp.MAX, async_op=True)
        return agreed

    def settle(self) -> bool:
        """Wait for the pending reduction and return its result."""
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._flag.item())
