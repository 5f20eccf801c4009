"""How long a step waited for its data: on the host, or on a GPU its stream's idle time."""

from __future__ import annotations

import time
from collections import deque

import torch


class WaitClock:
    """Adds up the time between `start` and `stop`, in seconds.

    On the CPU that is the caller's own waiting. On a GPU the caller runs ahead of the device, so
    what counts is the time the device's current stream stood still in between: measured by
    events, read when they have passed, so that nothing is synchronised for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._started = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """Called before a batch is asked for."""
        if self._device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(torch.cuda.current_stream(self._device))
            self._events.append((begin, end))
        else:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Called when the batch is there."""
        if self._device.type == "cuda":
            self._events[-1][1].record(torch.cuda.current_stream(self._device))
        else:
            self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """The sum so far; on a GPU without the batches that the device has not reached."""
        while self._events and self._events[0][1].query():
            begin, end = self._events.popleft()
            self._seconds += begin.elapsed_time(end) / 1000
        return self._seconds
