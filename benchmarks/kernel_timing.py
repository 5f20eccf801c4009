"""How benchmarks/kernels.py times a function: contenders in turns, with a cold cache."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FLUSH_BYTES = 256 << 20
CYCLES_PER_SECOND = 2e9  # an upper bound of a GPU's clock rate
WARM_UP = 2
Functions = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the 20th and 80th percentiles."""

    median_ms: float
    p20_ms: float
    p80_ms: float


class Stopwatch:
    """Milliseconds of calls: the device's time on a GPU, all threads' CPU time on a CPU.

    On a GPU the calls wait in the queue behind a pause that is longer than the host takes to issue
    them. CPU time is what other programs on the machine disturb least.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        size = FLUSH_BYTES if device.type == "cuda" else FLUSH_BYTES // 8
        self._room = torch.zeros(size, dtype=torch.int8, device=device)
        self._host_seconds: dict[str, float] = {}

    def once(self, name: str, function: Callable[[], Any]) -> float:
        """Milliseconds of one call, with a cold last-level cache."""
        # Reads, because lines that it wrote would be written back later.
        self._room.view(torch.int32).amax()
        if self.device.type != "cuda":
            begin = time.process_time()
            function()
            return 1e3 * (time.process_time() - begin)
        torch.cuda._sleep(int(2 * self._host_seconds.get(name, 0.0) * CYCLES_PER_SECOND))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin = time.perf_counter()
        start.record()
        function()
        end.record()
        self._host_seconds[name] = time.perf_counter() - begin
        end.synchronize()
        return start.elapsed_time(end)

    def measure(self, functions: Functions, repeats: int) -> dict[str, Timing]:
        """All functions in turns, so that other work on the machine meets them alike."""
        times: dict[str, list[float]] = {name: [] for name in functions}
        self._host_seconds.clear()
        for number in range(repeats + WARM_UP):
            for name, function in functions.items():
                elapsed = self.once(name, function)
                if number >= WARM_UP:
                    times[name].append(elapsed)
        found = {}
        for name, values in times.items():
            cuts = statistics.quantiles(values, n=5)
            found[name] = Timing(statistics.median(values), cuts[0], cuts[3])
        return found


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def call_ms(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Wall-clock milliseconds per call, for calls in immediate succession."""
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize(device)
    return 1e3 * (time.perf_counter() - begin) / repeats


def count_launches(function: Callable[[], Any], device: torch.device) -> int | None:
    """Number of device kernels per call, if there is a device."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        function()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("cat") == "kernel" for event in events)  # without copies and memsets


def copy_bandwidth(watch: Stopwatch, repeats: int) -> float:
    """GB/s of a large copy, reads and writes counted."""
    source = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=watch.device)
    target = torch.empty_like(source)
    timing = watch.measure({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    return 2 * FLUSH_BYTES / timing.median_ms / 1e6
