"""Times every operator against eager PyTorch, torch.compile and the closest library function.

    python benchmarks/kernels.py [--op squared_norm] [--impl ours eager] [--quick]

Each candidate is first compared with the float64 reference; a wrong one is not timed. The
last-level cache is flushed between runs. ms is the device's time: on a GPU the calls wait in the
queue behind a pause that is longer than the host takes to issue them. call_ms is the wall-clock
time per call in a series of calls, including the host's share. Bytes are the least that the
operation must move: every input and output once; for the backward pass also the saved input, the
incoming and the outgoing gradient. GB/s and the share of the copy bandwidth, which is measured
first, follow from them. Rows are appended to a CSV file as they are measured; a candidate that
fails is named and makes the exit status 1. On the CPU shapes are small (as with --quick): that part
shows correctness and trend, not speed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kernel_workloads import Workload, workloads
from torch import Tensor

from realness import kernels

RESULTS = Path(__file__).parent / "results" / "kernels.csv"
FLUSH_BYTES = 256 << 20
CYCLES_PER_SECOND = 2e9  # an upper bound of a GPU's clock rate
CANDIDATES = ("ours", "eager", "compile", "library")
COTANGENTS: dict[tuple[Any, ...], Tensor] = {}


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the 20th and 80th percentiles."""

    median_ms: float
    p20_ms: float
    p80_ms: float


def as_list(value: Any) -> list[Tensor]:
    return [] if value is None else [value] if isinstance(value, Tensor) else list(value)


def run(function: Callable[..., Any], inputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of `leaves` for the sum of the outputs' sums."""
    outputs = as_list(function(*inputs))
    if not leaves:
        return outputs
    return outputs + list(torch.autograd.grad(outputs, leaves, [ones_like(y) for y in outputs]))


def ones_like(y: Tensor) -> Tensor:
    """The incoming gradient of an output: one per shape, made before the time is taken."""
    key = (y.shape, y.stride(), y.dtype, y.device)
    if key not in COTANGENTS:
        COTANGENTS[key] = torch.ones_like(y)
    return COTANGENTS[key]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(function: Callable[[], Any], device: torch.device, repeats: int) -> Timing:
    """Runs with a cold last-level cache."""
    size = FLUSH_BYTES if device.type == "cuda" else FLUSH_BYTES // 8
    room = torch.zeros(size, dtype=torch.int8, device=device)
    times, host_seconds = [], 0.0
    for i in range(repeats + 3):
        room.view(torch.int32).amax()  # reads: lines that it wrote would be written back later
        if device.type == "cuda":
            torch.cuda._sleep(int(2 * host_seconds * CYCLES_PER_SECOND))
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin = time.perf_counter()
            start.record()
            function()
            end.record()
            host_seconds = time.perf_counter() - begin
            end.synchronize()
            elapsed = start.elapsed_time(end)
        else:
            begin = time.perf_counter()
            function()
            elapsed = 1e3 * (time.perf_counter() - begin)
        if i >= 3:
            times.append(elapsed)
    cuts = statistics.quantiles(times, n=5)
    return Timing(statistics.median(times), cuts[0], cuts[3])


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


def copy_bandwidth(device: torch.device, repeats: int) -> float:
    """GB/s of a large copy, reads and writes counted."""
    source = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    timing = measure(lambda: target.copy_(source), device, repeats)
    return 2 * FLUSH_BYTES / timing.median_ms / 1e6


def is_right(found: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> bool:
    """Whether the error against float64 is at most twice the eager reference's, plus rounding."""
    for ours, theirs, truth in zip(found, plain, exact, strict=True):
        # A scalar loss is a difference of terms of order one.
        scale = max(truth.abs().max().item(), 1.0 if truth.dim() == 0 else 0.0)
        reference_error = (theirs.double() - truth).abs().max().item()
        eps = max(torch.finfo(ours.dtype).eps, torch.finfo(theirs.dtype).eps)
        # A bias gradient sums 10^5 values: a different summation order in float32 is not an error.
        sum_error = 1024 * torch.finfo(torch.float32).eps
        allowed = 2 * reference_error + (16 * eps + sum_error) * scale
        if not (ours.double() - truth).abs().max().item() <= allowed:
            return False
    return True


def candidates(workload: Workload, names: list[str]) -> dict[str, Callable[..., Any]]:
    """The function to call; all but "ours" run in the context of the reference."""

    def eager(*x: Tensor) -> Any:
        return workload.call(*x)

    # Every workload recompiles this function; beyond a limit torch would run it uncompiled.
    torch.compiler.reset()
    every = {
        "ours": workload.call,
        "eager": workload.call,
        "compile": torch.compile(eager, fullgraph=True),
        "library": workload.library,
    }
    return {name: every[name] for name in names if every[name] is not None}


def prepare(
    workload: Workload, dtype: torch.dtype, device: torch.device, layout: str
) -> list[Tensor]:
    """Makes the inputs, with the same values for every candidate."""
    torch.manual_seed(0)
    inputs = []
    for x in workload.make():
        x = x.to(device, dtype if x.is_floating_point() else None)
        if layout == "channels_last" and x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        inputs.append(x)
    return inputs


def least_bytes(inputs: list[Tensor], results: list[Tensor], leaves: list[Tensor]) -> int:
    """Bytes of every input and result once; with a backward, leaves and cotangents are read too."""
    moved = sum(x.nbytes for x in inputs) + sum(y.nbytes for y in results)
    if leaves:  # the results are then the outputs and one gradient per leaf
        moved += sum(x.nbytes for x in leaves)
        moved += sum(y.nbytes for y in results[: -len(leaves)])
    return moved


@dataclass
class Bench:
    """Settings of a run, and the rows it has produced."""

    device: torch.device
    bandwidth: float
    impls: list[str]
    repeats: int
    failures: int = 0

    @property
    def choice(self) -> kernels.Impl:
        """The implementation that is timed as "ours"."""
        return "cuda" if self.device.type == "cuda" else "cpu"

    def rows(self, workload: Workload, dtype: torch.dtype, layout: str) -> list[dict[str, Any]]:
        """Runs every candidate of a workload, forward and forward + backward."""
        COTANGENTS.clear()
        inputs = prepare(workload, dtype, self.device, layout)
        found = self.direction(workload, inputs, [], layout)
        if workload.differentiable:
            leaves = [inputs[i].requires_grad_() for i in workload.differentiable]
            found += self.direction(workload, inputs, leaves, layout)
        return found

    def direction(
        self, workload: Workload, inputs: list[Tensor], leaves: list[Tensor], layout: str
    ) -> list[dict[str, Any]]:
        """Checks and times every candidate, with a backward pass if there are leaves."""
        wide = [x.detach().double() if x.is_floating_point() else x for x in inputs]
        wide_leaves = [wide[i].requires_grad_() for i in workload.differentiable if leaves]
        with kernels.implementation("reference"):
            exact = run(workload.call, wide, wide_leaves)
            plain = run(workload.call, inputs, leaves)
        moved = least_bytes(inputs, plain, leaves)
        rows = []
        for name, function in candidates(workload, self.impls).items():
            row = {
                "op": workload.op,
                "shape": workload.shape,
                "dtype": str(inputs[-1].dtype).removeprefix("torch."),
                "layout": layout,
                "pass": "forward+backward" if leaves else "forward",
                "impl": name,
            }
            call = functools.partial(run, function, inputs, leaves)
            try:
                with kernels.implementation(self.choice if name == "ours" else "reference"):
                    is_other_stream = workload.op == "philox_normal" and name == "library"
                    if not is_other_stream and not is_right(call(), plain, exact):
                        print(f"less precise than the reference, not timed: {row}")
                        self.failures += 1
                        continue
                    timing = measure(call, self.device, self.repeats)
                    milliseconds = call_ms(call, self.device, self.repeats)
                    launches = count_launches(call, self.device)
            except RuntimeError as error:  # out of memory, or the compiler failed: run the others
                print(f"failed: {row}: {error}")
                self.failures += 1
                continue
            speed = moved / timing.median_ms / 1e6
            row |= {
                "median_ms": round(timing.median_ms, 5),
                "p20_ms": round(timing.p20_ms, 5),
                "p80_ms": round(timing.p80_ms, 5),
                "call_ms": round(milliseconds, 5),
                "bytes": moved,
                "gb_per_s": round(speed, 2),
                "share_of_copy": round(speed / self.bandwidth, 4),
                "launches": launches,
            }
            print_row(row)
            rows.append(row)
        return rows


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['op']:<29}{row['shape']:<24}{row['dtype']:<10}{row['layout']:<15}"
        f"{row['pass']:<18}{row['impl']:<9}{row['median_ms']:9.4f}{row['p20_ms']:9.4f}"
        f"{row['p80_ms']:9.4f}{row['call_ms']:9.4f}{row['gb_per_s']:9.2f}"
        f"{100 * row['share_of_copy']:7.1f}%"
        f"{row['launches'] or '-':>9}",
        flush=True,
    )


def provenance(device: torch.device) -> dict[str, Any]:
    """The machine and the versions with which the numbers were measured."""
    described = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            described, capture_output=True, text=True, cwd=folder, check=False
        ).stdout.strip()
    except FileNotFoundError:  # there is no git here
        commit = ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "commit": commit or "unknown",
    }


def append_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Plots the speed of each candidate relative to eager, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    def name(row: dict[str, Any]) -> str:
        layout = "" if row["layout"] == "contiguous" else f" {row['layout']}"
        return f"{row['op']}  {row['shape']} {row['dtype']}{layout}"

    eager = {(name(r), r["pass"]): r["median_ms"] for r in rows if r["impl"] == "eager"}
    names = list(dict.fromkeys(found for found, _ in eager))
    passes = list(dict.fromkeys(direction for _, direction in eager))
    figure, axes = plt.subplots(
        1,
        len(passes),
        figsize=(6 + 3 * len(passes), 1.2 + 0.22 * len(names)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    markers = {"library": "s", "compile": "D", "ours": "o"}
    for panel, direction in zip(axes[0], passes, strict=True):
        for impl, marker in markers.items():
            points = [
                (eager[key] / row["median_ms"], names.index(key[0]))
                for row in rows
                if row["impl"] == impl and row["pass"] == direction
                if (key := (name(row), direction)) in eager
            ]
            if points:
                panel.scatter(*zip(*points, strict=True), marker=marker, s=22, label=impl)
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.grid(True, which="major", alpha=0.3)
        panel.set_title(direction)
        panel.set_xlabel("times faster than eager PyTorch")
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    figure.savefig(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--op", nargs="*", default=[""], help="only ops whose names start with this"
    )
    parser.add_argument("--impl", nargs="*", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument(
        "--dtype", nargs="*", default=["float32", "bfloat16"], choices=("float32", "bfloat16")
    )
    parser.add_argument("--quick", action="store_true", help="small shapes, few repeats")
    parser.add_argument("--csv", type=Path, default=RESULTS, help="rows are appended here")
    parser.add_argument("--plot", type=Path, help="write a figure (PNG, SVG or PDF)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = arguments.quick or device.type == "cpu"
    repeats = 5 if device.type == "cpu" else 20 if small else 100
    bandwidth = copy_bandwidth(device, repeats)
    origin = provenance(device) | {"copy_gb_per_s": round(bandwidth, 2)}
    print(", ".join(f"{key} {value}" for key, value in origin.items()))
    print(
        f"{'op':<29}{'shape':<24}{'dtype':<10}{'layout':<15}{'pass':<18}{'impl':<9}"
        f"{'ms':>9}{'p20':>9}{'p80':>9}{'call':>9}{'GB/s':>9}{'copy':>8}{'launches':>9}"
    )
    bench = Bench(device, bandwidth, arguments.impl, repeats)
    rows: list[dict[str, Any]] = []
    for workload in workloads(small):
        if not workload.op.startswith(tuple(arguments.op)):
            continue
        layouts = ["contiguous"] + ["channels_last"] * workload.has_layouts
        for dtype in arguments.dtype:
            for layout in layouts:
                found = bench.rows(workload, getattr(torch, dtype), layout)
                append_csv(arguments.csv, [origin | row for row in found])
                rows += found
    if not rows:
        raise SystemExit(f"no operator starts with {arguments.op}, or none was correct")
    if arguments.plot:
        plot(arguments.plot, rows)
    if bench.failures:
        raise SystemExit(f"{bench.failures} candidates failed or were wrong; see above")


if __name__ == "__main__":
    main()
