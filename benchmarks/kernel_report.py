"""What benchmarks/kernels.py writes: rows of a CSV file, a screen at the end, a figure."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
TOLERANCE = 1.05
"""Ours loses if it takes longer than the best other by more than this."""


def provenance(device: torch.device) -> Row:
    """The machine and the versions with which the numbers were measured."""
    described = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            described, capture_output=True, text=True, cwd=folder, check=False
        ).stdout.strip()
    except FileNotFoundError:  # git is not installed
        commit = ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "commit": commit or "unknown",
    }


def append_csv(path: Path, rows: list[Row]) -> None:
    """Append rows, after a header if the file is new."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def case(row: Row) -> tuple[str, ...]:
    """What the contenders of one comparison have in common."""
    return tuple(row[name] for name in ("op", "shape", "dtype", "layout", "pass"))


def comparisons(rows: list[Row]) -> list[Row]:
    """Ours with the best of the others, case by case; a ratio above 1 means that ours is faster."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[case(row)].append(row)
    found = []
    for group in groups.values():
        others = [row for row in group if row["impl"] != "ours"]
        for ours in (row for row in group if row["impl"] == "ours" and others):
            best = min(others, key=lambda row: row["median_ms"])
            ratio = best["median_ms"] / ours["median_ms"]
            found.append(
                ours | {"best": best["impl"], "best_ms": best["median_ms"], "ratio": ratio}
            )
    return found


def print_summary(rows: list[Row]) -> None:
    """One line per op and dtype: the worst case of each pass; then the cases that ours loses."""
    table = Table(box=None)
    names = ("op", "dtype", "forward", "against", "with backward", "against", "of bandwidth")
    for name in names:
        table.add_column(name, no_wrap=True)
    found = comparisons(rows)
    for op, dtype in dict.fromkeys((row["op"], row["dtype"]) for row in found):
        cells, own = [op, dtype], [r for r in found if (r["op"], r["dtype"]) == (op, dtype)]
        for direction in ("forward", "forward+backward"):
            cases = [row for row in own if row["pass"] == direction]
            worst = min(cases, key=lambda row: row["ratio"], default=None)
            cells += [f"{worst['ratio']:.2f}", worst["best"]] if worst else ["", ""]
        cells.append(f"{max(row['share_of_copy'] for row in own):.0%}")
        table.add_row(*cells)
    console = Console(width=120)
    console.print("times faster than the best other, in the worst of all shapes and layouts:")
    console.print(table)
    for row in found:
        if row["ratio"] * TOLERANCE < 1:
            console.print(
                f"ours loses: {' '.join(case(row))}: {row['median_ms']:.3f} ms, "
                f"{row['best']} {row['best_ms']:.3f} ms"
            )
    if found and all(row["ratio"] * TOLERANCE >= 1 for row in found):
        console.print("ours loses nowhere by more than 5 %")


def plot(path: Path, rows: list[Row]) -> None:
    """Plots the speed of each candidate relative to eager, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    def name(row: Row) -> str:
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
