"""Runs the cases on emulated kernels that were compiled with sanitizers.

    python -m tests.helpers.sanitized_kernels LIBRARY NAMESPACE:OP ...

Prints a JSON object: for every NAMESPACE:OP null, or the first fault. Each check runs in a separate
process, because a sanitizer ends it. Run with libasan preloaded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from realness.kernels import library
from tests.helpers.kernel_cases import CASES, PHILOX_CASES, VECTORISED, Case
from tests.helpers.kernel_checks import error, results

SEEDS = ("0", "1", "2")
# Error allowed for results of order one, and the schedules to run; 16-bit dtypes take other paths
# through loads and stores, but meet at the same barriers.
RUNS = (
    ("contiguous", torch.float32, 1e-4, SEEDS),
    ("strided", torch.float32, 1e-4, SEEDS[:1]),
    ("offset", torch.float32, 1e-4, SEEDS[:1]),
    ("contiguous", torch.bfloat16, 0.05, SEEDS[1:2]),
)


def first_difference(namespace: str, op: str) -> str | None:
    """Compares emulated and reference results of all the op's cases, in three schedules."""
    runs = [run for run in RUNS if namespace == "realness_emu" or run[1] == torch.float32]
    if op not in VECTORISED:
        runs = [run for run in runs if run[0] != "offset"]
    for case in (c for c in (*CASES, *PHILOX_CASES) if c.name.startswith(op)):
        for layout, dtype, tolerance, schedules in runs:
            if difference := compare(case, layout, dtype, tolerance, schedules):
                return difference
    return None


def compare(
    case: Case, layout: str, dtype: torch.dtype, tolerance: float, schedules: tuple[str, ...]
) -> str | None:
    """The first wrong result of a case, in any of the schedules."""
    inputs = case.inputs(dtype, torch.device("cpu"), layout)
    exact = results(case, "reference", inputs)
    for seed in schedules:
        os.environ["REALNESS_EMU_SEED"] = seed
        for i, (ours, truth) in enumerate(zip(results(case, "emu", inputs), exact, strict=True)):
            scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
            allowed = tolerance * scale if truth.is_floating_point() else 0.0
            if not error(ours, truth.double()) <= allowed:
                return f"{case.name}: {dtype} result {i} differs with seed {seed}"
    return None


def check(namespace: str, op: str) -> str | None:
    """first_difference in a child process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        library._namespace = lambda impl, device: namespace if impl == "emu" else None
        try:
            found = first_difference(namespace, op)
        except RuntimeError as failure:
            found = str(failure).partition("\n")[0]
        if found:
            print(found, flush=True)
        os._exit(1 if found else 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        output = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = [line for line in output.splitlines() if "WARNING: ASan" not in line]
    telling = [line for line in lines if "ERROR" in line or "runtime error" in line]
    return None if code == 0 else (telling or lines or [f"exit code {code}"])[0]


def main() -> None:
    path, *checks = sys.argv[1:]
    namespaces = {entry.partition(":")[0] for entry in checks}
    for namespace in sorted(namespaces):
        library.load(Path(path), namespace)
    print(json.dumps({entry: check(*entry.split(":")) for entry in checks}))


if __name__ == "__main__":
    main()
