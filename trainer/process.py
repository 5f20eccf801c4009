"""A training process among its peers: stopping on request, and ending when its launcher ends."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

PR_SET_PDEATHSIG = 1
LAUNCHER_MODULE = "deepspeed.launcher.launch"


class StopRequest:
    """Whether the run was asked to stop, agreed between all ranks.

    SIGTERM, SIGUSR1 and a first Ctrl-C ask for a checkpoint and an orderly end, and so does the
    death of the launcher: its ranks must not train on unseen. The signal may reach one rank only,
    so each poll starts a reduction over ranks whose result the next poll reads.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None
        self._launchers = _launcher_pids()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._launchers:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def poll(self) -> bool:
        """True on all ranks in the same iteration once any was asked to stop; collective."""
        if not self.reason and _launcher_pids() != self._launchers:
            self.reason = "the launcher has died"
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return bool(self.reason)
        agreed = self.settle()
        self._flag = torch.tensor([int(bool(self.reason))], dtype=torch.int32)
        self._pending = dist.all_reduce(self._flag, dist.ReduceOp.MAX, async_op=True)
        return agreed

    def settle(self) -> bool:
        """Wait for the reduction under way and return its result."""
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._flag.item())


def _launcher_pids() -> tuple[int, ...]:
    """Process ids of the launcher above this rank: none, the parent, or parent and grandparent.

    `deepspeed` is two processes: the command, and one `deepspeed.launcher.launch` a node.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ and "LOCAL_SIZE" not in os.environ:
        return ()
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
        status = Path(f"/proc/{parent}/stat").read_text()
    except OSError:
        return (parent,)
    if LAUNCHER_MODULE not in command:
        return (parent,)
    return (parent, int(status.rpartition(")")[2].split()[1]))
