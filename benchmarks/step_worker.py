"""One rank of `benchmarks/train_step.py`.

The task is read as JSON from standard input; rank 0 writes a JSON list of results to the file that
the task names.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from realness import kernels
from realness.data_pipeline import open_catalog
from realness.launch.train_ffhq import parse
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.collectives import mean_over_ranks
from realness.trainer.distributed.device import pick_device
from realness.trainer.distributed.numerics import set_numerics
from realness.trainer.distributed.ranks import (
    rank,
    start_process_group,
    stop_process_group,
)
from realness.trainer.distributed.streams import open_stream, rank_share
from realness.trainer.planning.flops import with_penalties, without_penalties
from realness.trainer.randomness import Stream
from realness.trainer.updates.cuda_graphs import (
    NUM_WARM_UPDATES,
    capturing_stream,
)
from realness.trainer.updates.iteration import choose_updates, run_iteration
from realness.trainer.updates.sharded_gan import ShardedGan, build_gan

Times = dict[str, list[float]]
NUM_KERNELS = 40
"""Lines of the table of the longest kernels."""


class Clock:
    """Measures seconds between marks, waiting for the device at each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = 0.0

    def mark(self) -> float:
        """Seconds since the last mark."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed


class Timed:
    """A network whose optimiser steps are timed."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._inner = network
        self._device = device
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *inputs: Any) -> Tensor:
        return self._inner(*inputs)

    def step(self, loss: Tensor) -> None:
        clock = Clock(self._device)
        clock.mark()
        self._inner.step(loss)
        self.seconds += clock.mark()


class Level:
    """One configuration, ready to train."""

    def __init__(self, name: str, config: TrainConfig, device: torch.device) -> None:
        self.name, self.config, self.device = name, config, device
        set_numerics(self.config.engine)
        with kernels.implementation(config.engine.impl):
            self.gan = build_gan(config, device)
        catalog = open_catalog(config.data.data)
        optimizer, wants_real = config.optimizer, self.gan.objective.needs_real_in_g_step
        batches = {Stream.D_REAL: (optimizer.k_d, config.num_real)}
        if wants_real:
            batches[Stream.G_REAL] = (optimizer.k_g, config.batch_size)
        self.streams = {
            stream: open_stream(
                config.data,
                catalog,
                stream,
                rank_share(batch),
                seed=config.seed,
                device=device,
            )
            for stream, (_, batch) in batches.items()
        }
        self._updates = choose_updates(config.engine)
        self._num_warm = NUM_WARM_UPDATES + 1 if config.engine.cuda_graphs else 1
        self.images = 0
        self.first_losses: list[float] = []
        self.seconds: Times = defaultdict(list)
        self.peak_bytes = 0

    def real(self, stream: Stream, first_sample: int) -> Tensor | None:
        """The next real batch, or None for an objective that needs none."""
        if stream not in self.streams:
            return None
        return self.gan.normalise(next(self.streams[stream]), stream, first_sample)

    def _wanted_real(self, stream: Stream, first_sample: int) -> Tensor:
        return cast(Tensor, self.real(stream, first_sample))

    def iteration(self, gan: ShardedGan) -> dict[str, Tensor]:
        """The loop's iteration, with `gan`'s penalties."""
        stats: dict[str, Tensor] = {}
        for report in run_iteration(gan, self._updates, self._wanted_real, self.images):
            stats |= report
        self.images += self.config.batch_size
        self.gan.update_average(self.images)
        return stats

    def warm_up(self) -> None:
        """Run rounds that are not counted: libraries choose algorithms, updates are captured."""
        for _ in range(self._num_warm):
            self.play()
        self.seconds.clear()

    def play(self) -> None:
        """Run a round: a whole iteration, then one without and one with penalties, by part."""
        set_numerics(self.config.engine)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        plain = replace(self.gan, config=without_penalties(self.config))
        clock = Clock(self.device)
        clock.mark()
        stats = self.iteration(plain)
        self.seconds["iteration"].append(clock.mark())
        if not self.first_losses:
            losses = torch.stack([stats["loss_d"], stats["loss_g"]]).float()
            self.first_losses = mean_over_ranks(losses).tolist()
        self._take_apart(plain, "")
        if plain.config != self.config:
            full = replace(self.gan, config=with_penalties(self.config))
            self._take_apart(full, " penalised")
        if self.device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self.device))

    def _take_apart(self, gan: ShardedGan, suffix: str) -> None:
        clock, optimizer = Clock(self.device), self.config.optimizer
        first_d, first_g = self.images * optimizer.k_d, self.images * optimizer.k_g
        g, d = Timed(gan.g, self.device), Timed(gan.d, self.device)
        if not self.config.engine.cuda_graphs:  # a captured update cannot be divided
            gan = replace(gan, g=cast(Any, g), d=cast(Any, d))

        def run(part: str, update: Callable[[], object]) -> None:
            before = g.seconds + d.seconds
            clock.mark()
            update()
            stepping = g.seconds + d.seconds - before
            self.seconds[part + suffix].append(clock.mark() - stepping)
            self.seconds[f"{part}, optimiser"].append(stepping)

        def load(stream: Stream) -> Tensor | None:
            clock.mark()
            images = self.real(stream, self.images)
            self.seconds[f"data, {stream.name}"].append(clock.mark())
            return images

        real_d = cast(Tensor, load(Stream.D_REAL))
        run("D", lambda: self._updates.d(gan, real_d, first_d))
        real_g = load(Stream.G_REAL)
        run("G", lambda: self._updates.g(gan, real_g, first_g))
        self.images += self.config.batch_size
        run("average", lambda: self.gan.update_average(self.images))

    def communication(self, trace: Path) -> tuple[float, int]:
        """Seconds and number of a plain iteration's collectives; its profile goes to `trace`."""
        set_numerics(self.config.engine)
        plain = replace(self.gan, config=without_penalties(self.config))
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiled:
            self.iteration(plain)
            Clock(self.device).mark()
        if rank() == 0:
            trace.parent.mkdir(parents=True, exist_ok=True)
            profiled.export_chrome_trace(str(trace))
            kind = "device" if self.device.type == "cuda" else "cpu"
            table = profiled.key_averages().table(f"self_{kind}_time_total", NUM_KERNELS)
            trace.with_name(f"{trace.name.partition('.')[0]}.txt").write_text(table)
        events = [
            event
            for event in profiled.key_averages()
            if event.key.startswith(("gloo:", "nccl:", "nccl_"))
        ]
        on_device = self.device.type == "cuda"
        total_us = sum(
            event.device_time_total if on_device else event.cpu_time_total for event in events
        )
        return total_us / 1e6, sum(event.count for event in events)

    def result(self, communication: tuple[float, int]) -> dict[str, Any]:
        """The report of rank 0; seconds are the minimum over the rounds."""
        return {
            "level": self.name,
            "seconds": {name: min(values) for name, values in self.seconds.items()},
            "communication": communication[0],
            "num_collectives": communication[1],
            "first_losses": self.first_losses,
            "peak_bytes": self.peak_bytes,
        }

    def close(self) -> None:
        """Release engines and streams."""
        for stream in self.streams.values():
            stream.close()
        self.gan.close()


def matmul_rate(device: torch.device, config: TrainConfig) -> float:
    """Operations per second of a big matrix product in the level's precision, the best of five."""
    set_numerics(config.engine)
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock, times = Clock(device), []
    for _ in range(6):
        clock.mark()
        torch.mm(a, b)
        times.append(clock.mark())
    return 2 * side**3 / min(times[1:])


def reduce_seconds(device: torch.device, num_bytes: int) -> float:
    """Seconds of an all-reduce of `num_bytes` over all ranks, the best of ten."""
    data, clock, times = torch.zeros(num_bytes // 4, device=device), Clock(device), []
    for _ in range(10):
        clock.mark()
        torch.distributed.all_reduce(data)
        times.append(clock.mark())
    return min(times)


def measure(task: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
    """Measure all levels of a task.

    On a CPU all levels are open at once and take turns, round by round, so that other load on the
    machine affects them alike. On a GPU they run one after the other, to fit into its memory.
    """
    configs = {name: parse([*task["flags"], *flags]).config for name, flags in task["levels"]}
    device = pick_device(next(iter(configs.values())).engine.device)
    start_process_group(device)
    bar = progress.add_task(task["title"], total=(task["rounds"] + 1) * len(configs))
    names = list(configs)
    together = [[name] for name in names] if device.type == "cuda" else [names]
    results = []
    for group in together:
        capturing = [configs[name] for name in group if configs[name].engine.cuda_graphs]
        with capturing_stream(capturing[0], device) if capturing else nullcontext():
            levels = [Level(name, configs[name], device) for name in group]
            for number in range(task["rounds"] + 1):
                for level in levels:
                    with kernels.implementation(level.config.engine.impl):
                        level.play() if number else level.warm_up()
                    progress.advance(bar)
            results += [measured(level, Path(task["traces"])) for level in levels]
        del levels
        if device.type == "cuda":
            torch.cuda.empty_cache()
    stop_process_group()
    return results


def measured(level: Level, traces: Path) -> dict[str, Any]:
    """The result of a level that has run its rounds; closes the level."""
    trace = traces / f"{level.name.replace(' ', '_')}.json.gz"
    with kernels.implementation(level.config.engine.impl):
        result = level.result(level.communication(trace))
    result["matmul_rate"] = matmul_rate(level.device, level.config)
    for name, num_bytes in (("reduce_64mib_s", 1 << 26), ("reduce_4b_s", 4)):
        result[name] = reduce_seconds(level.device, num_bytes)
    level.close()
    return result


def main() -> None:
    """Run the task on standard input."""
    task = json.load(sys.stdin)
    with Progress(transient=True, disable=task["rank"] != 0) as progress:
        results = measure(task, progress)
    if task["rank"] == 0:
        Path(task["result"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
