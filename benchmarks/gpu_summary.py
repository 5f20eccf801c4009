"""The summary of benchmarks/gpu.py: the stages, and the most important figures, on one screen."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

WIDTH = 100
MOST_ROWS = 10
"""Rows of each kind of figure."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def step_lines(rows: list[dict[str, str]]) -> list[str]:
    """The latest row of every system and level of the training step."""
    latest = {(row["system"], row["level"]): row for row in rows}
    return [
        f"{row['system']} {row['resolution']}, {row['level']}: {float(row['img_per_s']):.1f} "
        f"images/s, {row['tflop_per_s']} TFLOP/s, {row['peak_memory_gib'] or '-'} GiB, passes of "
        f"{row['micro_batch']}"
        for row in latest.values()
    ]


def kernel_lines(rows: list[dict[str, str]]) -> list[str]:
    """Our share of the copy bandwidth and speed relative to eager, least of all shapes, by op."""
    keys = ("op", "shape", "dtype", "layout", "pass")
    latest = {(*(row[key] for key in keys), row["impl"]): row for row in rows}
    shares: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    for (*case, impl), row in latest.items():
        if impl != "ours":
            continue
        op = case[0].partition(" ")[0], case[2]
        shares.setdefault(op, []).append(float(row["share_of_copy"]))
        if eager := latest.get((*case, "eager")):
            ratio = float(eager["median_ms"]) / float(row["median_ms"])
            ratios.setdefault(op, []).append(ratio)
    return [
        f"{op} {dtype}: at least {100 * min(found):.0f} % of a copy's bandwidth"
        + (f", {min(ratios[op, dtype]):.1f} x eager" if (op, dtype) in ratios else "")
        for (op, dtype), found in shares.items()
    ]


def status(code: int | None) -> str:
    if code == 0:
        return "passed"
    return {None: "not reached", 124: "TIMED OUT"}.get(code, f"FAILED with {code}")


def summary(out: Path, records: dict[str, Any]) -> str:
    """At most 35 lines of at most 100 characters."""
    lines = []
    for name, record in records.items():
        text = f"{name:<14}{status(record['code'])} after {record['seconds']:.0f} s"
        lines.append(text if record["code"] in (0, None) else f"{text}: {record['last']}")
    for found in (
        step_lines(read_rows(out / "train_step.csv")),
        kernel_lines(read_rows(out / "kernels.csv")),
    ):
        lines += found[:MOST_ROWS]
        if len(found) > MOST_ROWS:
            lines.append(f"... {len(found) - MOST_ROWS} more in the archive")
    return "".join(line[:WIDTH] + "\n" for line in lines)
