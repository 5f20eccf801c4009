"""What the ranks report about themselves, and what follows from it: nobody is silent or stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True)
class Report:
    """One rank's word: `beat` differs from the last one's; its main thread has stood at `place`
    for `still_s` seconds."""

    beat: int
    place: str
    still_s: float


class MainThread:
    """Where this process's main thread is, and since when."""

    def __init__(self) -> None:
        self._position: tuple[tuple[int, int], ...] = ()
        self._since = 0.0

    def see(self, frame: FrameType, now: float) -> tuple[str, float]:
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
    """`trainer.updates.step, line 57 (update_d)`, or nothing for a frame of another package."""
    package, _, module = frame.f_globals.get("__name__", "").partition(".")
    return (
        f"{module}, line {frame.f_lineno} ({frame.f_code.co_name})" if package == "realness" else ""
    )


class Roster:
    """All ranks' reports over time, as one of them receives them.

    silence_s: a rank not heard of for so long is given up; stall_s: so is a run in which no main
    thread has moved for so long.
    """

    def __init__(self, silence_s: float, stall_s: float) -> None:
        self._silence_s = silence_s
        self._stall_s = stall_s
        self._reports: list[Report] = []
        self._heard: list[float] = []

    def take(self, reports: Sequence[Report], now: float) -> None:
        """Take in the newest report of every rank, in rank order, at time `now` in seconds."""
        if not self._reports:
            self._heard = [now] * len(reports)
        else:
            self._heard = [
                now if new.beat != old.beat else heard
                for new, old, heard in zip(reports, self._reports, self._heard, strict=True)
            ]
        self._reports = list(reports)

    def forgive(self, now: float) -> None:
        """Count silence from `now` on: this process stood still itself."""
        self._heard = [now] * len(self._heard)

    def silent(self, now: float, limit_s: float) -> str:
        """Which ranks were not heard of for `limit_s`, and where they were; empty for none."""
        return "; ".join(
            f"rank {rank} has not been heard of for {now - heard:.0f} s: its process is stopped or "
            f"lost, or its network is down (it was in {report.place or 'no code of ours'})"
            for rank, (report, heard) in enumerate(zip(self._reports, self._heard, strict=True))
            if now - heard > limit_s
        )

    def judge(self, now: float) -> str:
        """Why the run cannot go on, naming the ranks; empty while it can."""
        if not self._reports:
            return ""
        if silent := self.silent(now, self._silence_s):
            return silent
        still_s = min(report.still_s for report in self._reports)
        if still_s > self._stall_s:
            return f"no rank has moved for {still_s:.0f} s: {self.places()}"
        return ""

    def places(self) -> str:
        """Where each rank was when it was last heard of: `rank 0, 2: …; rank 1: …`."""
        ranks: dict[str, list[str]] = {}
        for rank, report in enumerate(self._reports):
            ranks.setdefault(report.place or "no code of ours", []).append(str(rank))
        return "; ".join(f"rank {', '.join(which)}: {place}" for place, which in ranks.items())
