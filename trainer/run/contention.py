"""Time that this process waited for a core, and advice on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path

BUSY = 0.3
"""Share of waiting from which training is called slowed down."""
MIN_SECONDS = 10.0
"""Shortest interval over which the share is meaningful."""


class CoreWaits:
    """Share of time that this process's threads waited for a core while they could have run.

    The numbers are the kernel's (`/proc/PID/task/*/schedstat`: nanoseconds on a core, nanoseconds
    waiting for one). Where the kernel does not keep them, the share is 0.
    """

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._last = self._times()

    def read(self) -> float:
        """The share in [0, 1] since the last `read`; threads that have ended do not count."""
        times = self._times()
        before, self._last = self._last, times
        ran, waited = (
            sum(max(0, now[k] - before.get(thread, (0, 0))[k]) for thread, now in times.items())
            for k in (0, 1)
        )
        return waited / (ran + waited) if ran + waited else 0.0

    def _times(self) -> dict[str, tuple[int, int]]:
        times = {}
        for path in self._tasks.glob("*/schedstat"):
            try:
                ran, waited, _ = path.read_text().split()
            except (OSError, ValueError):
                continue  # The thread has just ended.
            times[path.parent.name] = int(ran), int(waited)
        return times


class BusyAdvice:
    """Advice, given once, when two intervals in a row were slowed down by waiting for a core."""

    def __init__(self) -> None:
        self._busy_before = self._given = False
        self._started = self._last = self._waited = 0.0

    def advise(self, share: float, elapsed: float) -> str | None:
        """The advice if it is due, given the share of waiting since the last call.

        elapsed: seconds since training started.
        """
        self._waited += share * (elapsed - self._last)
        self._last = elapsed
        seconds = elapsed - self._started
        if self._given or seconds < MIN_SECONDS:
            return None
        mean = self._waited / seconds
        self._started, self._waited = elapsed, 0.0
        self._given = self._busy_before and mean > BUSY
        self._busy_before = mean > BUSY
        return advice(mean) if self._given else None


def advice(share: float) -> str:
    """What to do about a share of time spent waiting for a core."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return (
        f"this machine is busy: training waited {share:.0%} of the time for a core (load "
        f"{load:.1f}, {cores} cores). Stop other programs, or start fewer threads with "
        "OMP_NUM_THREADS; if neither is possible, OMP_WAIT_POLICY=PASSIVE keeps threads from "
        "blocking each other"
    )
