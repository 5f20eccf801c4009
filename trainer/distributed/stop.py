"""Stopping on request, agreed between all ranks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import torch
import torch.distributed as dist

from realness.trainer.distributed.exit_codes import EXIT_STOPPED, killed_by
from realness.trainer.distributed.launcher import Launcher
from realness.trainer.distributed.signals import StopSignals


class StopRequest(AbstractContextManager["StopRequest"]):
    """Whether the run was asked to stop, agreed between all ranks.

    In the block, the signals of STOP_SIGNALS request a checkpoint and an orderly end, and so does
    the death of the launcher, because its ranks must not keep training unnoticed. A signal may
    reach only one rank, so each poll starts a reduction over ranks whose result the next poll
    reads.

    Before `begin_training` there is nothing to save, and a request ends all ranks at once with
    EXIT_STOPPED. A repeated SIGTERM or SIGINT ends this process at once at any time.
    """

    def __init__(
        self, end_all: Callable[[str, int], None], end_process: Callable[[str, int], None]
    ) -> None:
        """Functions that end all ranks, or this process alone, given the reason and exit code.

        They are called in a thread.
        """
        self.reason = ""
        self._end_all, self._end_process = end_all, end_process
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None
        self._launcher = Launcher()
        self._signals = StopSignals(self._launcher, self._on_stop, self._on_insist)
        self._is_training = False
        self._transition = threading.Lock()

    def __enter__(self) -> StopRequest:
        self._signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signals.__exit__(kind, error, trace)

    def begin_training(self) -> None:
        """From here on, a request waits for `poll`."""
        with self._transition:
            self._is_training = True

    def _on_stop(self, number: int) -> None:
        with self._transition:
            self.reason = self.reason or signal.Signals(number).name
            if not self._is_training:
                reason = f"was stopped ({self.reason}) before training; the same command resumes"
                self._end_all(reason, EXIT_STOPPED)

    def _on_insist(self, number: int) -> None:
        name = signal.Signals(number).name
        self._end_process(f"a second {name} does not wait for a checkpoint", killed_by(number))

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
