"""Times every operator against plain PyTorch, torch.compile of that, and library functions.

    python benchmarks/kernels.py [--op squared_norm] [--impl ours eager] [--quick]

"eager" is the best formulation without our kernels that one would write, in the tensors' dtype;
"compile" is torch.compile of the same; "ours" is what a user gets (`impl="auto"`). Each contender
is first compared with the reference in float64; a wrong one is not timed. Contenders take turns,
with the last-level cache flushed in between. ms is the device's time on a GPU, and CPU time on a
CPU, by default on one thread; call_ms is the wall-clock time per call in a series of calls. Bytes
are the least that the operation must move: every input and output once; for the backward pass also
the saved input, the incoming and the outgoing gradient. GB/s and the share of the copy bandwidth,
which is measured first, follow from them.

The operators that a training step spends most on come first. Rows are appended to a CSV file as
they are measured; what is not reached in --minutes (14, or 1.6 with --quick) is named at the end. A
contender that fails or is wrong makes the exit status 1. On a CPU shapes are small.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kernel_report import Row, append_csv, plot, print_summary, provenance
from kernel_timing import Functions, Stopwatch, call_ms, copy_bandwidth, count_launches
from kernel_workloads import Workload, workloads
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from realness import kernels

RESULTS = Path(__file__).parent / "results" / "kernels.csv"
CANDIDATES = ("ours", "eager", "compile", "library")
COTANGENTS: dict[tuple[Any, ...], Tensor] = {}
SECONDS_TO_END = 10  # of the last comparison, which is not interrupted


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


def is_right(found: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> bool:
    """Whether the error against float64 is at most twice the reference's, plus rounding."""
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


class Comparison(NamedTuple):
    """Contenders that are timed together."""

    workload: Workload
    dtype: torch.dtype
    layout: str
    backward: bool


def comparisons(options: argparse.Namespace, *, small: bool) -> list[Comparison]:
    """All of them, in order; --quick keeps to one layout of images."""
    found = []
    for workload in workloads(small=small, quick=options.quick):
        if not workload.op.startswith(tuple(options.op)):
            continue
        layouts = ["channels_last", "contiguous"] if workload.has_layouts else ["contiguous"]
        for dtype in options.dtype:
            for layout in layouts[:1] if options.quick else layouts:
                for backward in [False, True][: 1 + bool(workload.differentiable)]:
                    found.append(Comparison(workload, getattr(torch, dtype), layout, backward))
    return found


@dataclass
class Bench:
    """Settings of a run, and how many contenders were wrong or failed."""

    watch: Stopwatch
    bandwidth: float
    impls: list[str]
    repeats: int
    quick: bool
    say: Callable[[str], None]
    failures: int = 0
    rows: list[Row] = field(default_factory=list)

    @property
    def ours(self) -> kernels.Impl:
        """The implementation that is timed as "ours"; on a GPU never silently the reference."""
        return "cuda" if self.watch.device.type == "cuda" else "auto"

    def candidates(self, comparison: Comparison) -> dict[str, Callable[..., Any]]:
        """The functions to call; all but "ours" run in the context of the reference."""
        workload = comparison.workload
        plain = workload.plain or workload.call
        every = {"ours": workload.call, "eager": plain, "library": workload.library}
        is_worth_it = workload.fusible and comparison.dtype == torch.float32
        if "compile" in self.impls and (is_worth_it or not self.quick):
            # Every workload recompiles; beyond a limit torch would run it uncompiled.
            torch.compiler.reset()
            every["compile"] = torch.compile(lambda *x: plain(*x), fullgraph=True, dynamic=False)
        return {name: f for name, f in every.items() if f is not None and name in self.impls}

    def checked(self, comparison: Comparison, inputs: list[Tensor], leaves: list[Tensor]) -> Any:
        """Calls of the contenders that compute the right thing, and the bytes they must move."""
        workload = comparison.workload
        wide = [x.detach().double() if x.is_floating_point() else x for x in inputs]
        wide_leaves = [wide[i].requires_grad_() for i in workload.differentiable if leaves]
        with kernels.implementation("reference"):
            exact = run(workload.call, wide, wide_leaves)
            plain = run(workload.call, inputs, leaves)
        found: Functions = {}
        for name, function in self.candidates(comparison).items():

            def call(function: Any = function, name: str = name) -> list[Tensor]:
                with kernels.implementation(self.ours if name == "ours" else "reference"):
                    return run(function, inputs, leaves)

            title = f"{workload.op} {workload.shape} {comparison.dtype} {comparison.layout}: {name}"
            try:
                is_other_stream = workload.op == "philox_normal" and name == "library"
                if is_other_stream or is_right(call(), plain, exact):
                    found[name] = call
                    continue
                self.say(f"{title} is less precise than the reference, and not timed")
            except RuntimeError as error:  # out of memory, or the compiler failed: run the others
                self.say(f"{title} failed: {error}")
            self.failures += 1
        return found, least_bytes(inputs, plain, leaves)

    def compare(self, comparison: Comparison) -> list[Row]:
        """The rows of all contenders."""
        COTANGENTS.clear()
        workload, device = comparison.workload, self.watch.device
        inputs = prepare(workload, comparison.dtype, device, comparison.layout)
        places = workload.differentiable if comparison.backward else ()
        leaves = [inputs[i].requires_grad_() for i in places]
        functions, moved = self.checked(comparison, inputs, leaves)
        timings = self.watch.measure(functions, self.repeats)
        rows = []
        for name, timing in timings.items():
            speed = moved / timing.median_ms / 1e6
            rows.append(
                {
                    "op": workload.op,
                    "shape": workload.shape,
                    "dtype": str(comparison.dtype).removeprefix("torch."),
                    "layout": comparison.layout,
                    "pass": "forward+backward" if leaves else "forward",
                    "impl": name,
                    "median_ms": round(timing.median_ms, 5),
                    "p20_ms": round(timing.p20_ms, 5),
                    "p80_ms": round(timing.p80_ms, 5),
                    "call_ms": round(call_ms(functions[name], device, self.repeats), 5),
                    "bytes": moved,
                    "gb_per_s": round(speed, 2),
                    "share_of_copy": round(speed / self.bandwidth, 4),
                    "launches": count_launches(functions[name], device),
                }
            )
        return rows


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
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small shapes, one layout, compiled only in float32 where that fuses anything",
    )
    parser.add_argument("--minutes", type=float, help="begin nothing new after this time")
    parser.add_argument("--csv", type=Path, default=RESULTS, help="rows are appended here")
    parser.add_argument("--plot", type=Path, help="write a figure (PNG, SVG or PDF)")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    minutes = options.minutes or (1.6 if options.quick else 14.0)
    end = time.monotonic() + 60 * minutes - SECONDS_TO_END
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(options.threads)
    small = options.quick or device.type == "cpu"
    repeats = 11 if device.type == "cpu" else 20 if small else 100
    watch = Stopwatch(device)
    bandwidth = copy_bandwidth(watch, 5)
    origin = provenance(device) | {"copy_gb_per_s": round(bandwidth, 2)}
    print(", ".join(f"{key} {value}" for key, value in origin.items()))
    every, left_out = comparisons(options, small=small), {}
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("", total=len(every))
        bench = Bench(
            watch, bandwidth, options.impl, repeats, options.quick, progress.console.print
        )
        for comparison in every:
            title = f"{comparison.workload.op} {comparison.workload.shape}"
            progress.update(bar, description=f"{title:<45}")
            if time.monotonic() > end:
                left_out[title] = None
            else:
                rows = bench.compare(comparison)
                append_csv(options.csv, [origin | row for row in rows])
                bench.rows += rows
            progress.advance(bar)
    if not bench.rows:
        raise SystemExit(f"no operator starts with {options.op}, or none was correct")
    print_summary(bench.rows)
    if left_out:
        print(f"not reached in {minutes:g} minutes: {', '.join(left_out)}; see --minutes and --op")
    if options.plot:
        plot(options.plot, bench.rows)
    if bench.failures:
        raise SystemExit(f"{bench.failures} candidates failed or were wrong; see above")


if __name__ == "__main__":
    main()
