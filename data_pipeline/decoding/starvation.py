"""Measures how long steps wait for their data, and warns the user if it is too long."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

import torch

from realness.data_pipeline.catalog import Catalog


class WaitClock:
    """Adds up the time between `start` and `stop`, in seconds.

    On the CPU that is the caller's waiting time. On a GPU the caller runs ahead of the device, so
    what counts is the time for which the device's current stream was idle in between. It is
    measured by events that are read after they have completed, without any synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._started = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        """Called before a batch is requested."""
        if self._device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(torch.cuda.current_stream(self._device))
            self._events.append((begin, end))
        else:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Called when the batch has arrived."""
        if self._device.type == "cuda":
            self._events[-1][1].record(torch.cuda.current_stream(self._device))
        else:
            self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """The sum so far; on a GPU it leaves out batches that the device has not reached."""
        while self._events and self._events[0][1].query():
            begin, end = self._events.popleft()
            self._seconds += begin.elapsed_time(end) / 1000
        return self._seconds


class StarvationWatch:
    """Warns once if steps spend a large part of their time waiting for data, and says what helps.

    The share is computed over windows of at least WINDOW_SECONDS and WINDOW_BATCHES. The first
    window leaves out the first batches, which cannot be ready in time.
    """

    WINDOW_SECONDS = 30.0
    WINDOW_BATCHES = 20
    MAX_SHARE = 0.2

    def __init__(self, warn_once: Callable[[str], None], remedy: str, *, num_first: int) -> None:
        self._warn_once, self._remedy = warn_once, remedy
        self._num_batches = -num_first
        self._started = self._waited = 0.0

    def look(self, waited: float) -> None:
        """Called after each batch with the total seconds waited so far."""
        now = time.perf_counter()
        self._num_batches += 1
        if self._num_batches < 0:
            return
        seconds = now - self._started
        if self._num_batches == 0:
            self._started, self._waited = now, waited
        elif self._num_batches >= self.WINDOW_BATCHES and seconds >= self.WINDOW_SECONDS:
            share = (waited - self._waited) / seconds
            if share > self.MAX_SHARE:
                self._warn_once(f"training waits for data {share:.0%} of the time; {self._remedy}")
            self._num_batches, self._started, self._waited = 0, now, waited


def starvation_remedy(catalog: Catalog, resolution: int, num_threads: int) -> str:
    """Advice to the user for a slow stream that `num_threads` threads of this process feed."""
    remedies = []
    num_cores = len(os.sched_getaffinity(0))
    if num_threads < num_cores:
        remedies.append(
            f"use more decoding threads than {num_threads} (this process has {num_cores} cores)"
        )
    if catalog.raw is None:
        remedies.append(
            "store the images raw, which need no decoding, with "
            f"`{catalog.prepare_command(resolution, '--format', 'raw')}`"
        )
    else:
        remedies.append("move the data to a faster disk")
    return " or ".join(remedies)
