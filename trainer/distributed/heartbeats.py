"""Heartbeats of all ranks, and detection of ranks that are silent or stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True)
class Report:
    """Heartbeat of a rank.

    beat: a number that differs from that of the previous report. Its main thread has been at
    `place` without movement for `still_s` seconds.
    """

    beat: int
    place: str
    still_s: float


class MainThread:
    """Tracks where this process's main thread is, and since when."""

    def __init__(self) -> None:
        self._position: tuple[tuple[int, int], ...] = ()
        self._since = 0.0

    def locate(self, frame: FrameType, now: float) -> tuple[str, float]:
        """(place, seconds without movement), from the thread's innermost frame at time `now`."""
        position, place, walker = [], "", frame
        while walker is not None:
            position.append((id(walker.f_code), walker.f_lasti))
            place = place or _own_place(walker)
            walker = walker.f_back
        if tuple(position) != self._position:
            self._position, self._since = tuple(position), now
        return place, now - self._since


def _own_place(frame: FrameType) -> str:
    """Such as `trainer.updates.step, line 57 (update_d)`; empty for a frame of other packages."""
    package, _, module = frame.f_globals.get("__name__", "").partition(".")
    return (
        f"{module}, line {frame.f_lineno} ({frame.f_code.co_name})" if package == "realness" else ""
    )


class Heartbeats:
    """The reports of all ranks over time, as received by one rank.

    silence_s: seconds without a heartbeat after which a rank is declared lost. stall_s: seconds
    without movement of any main thread after which the run is declared stuck.
    """

    def __init__(self, silence_s: float, stall_s: float) -> None:
        self._silence_s = silence_s
        self._stall_s = stall_s
        self._reports: list[Report] = []
        self._heard: list[float] = []

    def record(self, reports: Sequence[Report], now: float) -> None:
        """Record the newest report of every rank, in rank order, at time `now` in seconds."""
        if not self._reports:
            self._heard = [now] * len(reports)
        else:
            self._heard = [
                now if new.beat != old.beat else heard
                for new, old, heard in zip(reports, self._reports, self._heard, strict=True)
            ]
        self._reports = list(reports)

    def reset_silence(self, now: float) -> None:
        """Restart counting silence at `now`, because this process itself was suspended."""
        self._heard = [now] * len(self._heard)

    def place(self, rank: int) -> str:
        """Where a rank was at its last report, if there was one."""
        return (self._reports[rank].place if self._reports else "") or "code outside realness"

    def silent(self, now: float, limit_s: float) -> str:
        """Which ranks sent no heartbeat for `limit_s`, and where they were; empty for none."""
        return "; ".join(
            f"rank {rank} has not been heard from for {now - heard:.0f} s: its process is stopped "
            f"or lost, or its network is down (it was in {self.place(rank)})"
            for rank, heard in enumerate(self._heard)
            if now - heard > limit_s
        )

    def diagnose(self, now: float) -> str:
        """Why the run cannot continue, naming the ranks; empty if it can."""
        if not self._reports:
            return ""
        if silent := self.silent(now, self._silence_s):
            return silent
        still_s = min(report.still_s for report in self._reports)
        if still_s > self._stall_s:
            return f"no rank has moved for {still_s:.0f} s: {self.places()}"
        return ""

    def places(self) -> str:
        """Where each rank was at its last report: `rank 0, 2: …; rank 1: …`."""
        ranks: dict[str, list[str]] = {}
        for rank in range(len(self._reports)):
            ranks.setdefault(self.place(rank), []).append(str(rank))
        return "; ".join(f"rank {', '.join(which)}: {place}" for place, which in ranks.items())
