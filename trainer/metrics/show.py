"""Terminal tables of scores, and a figure of scores over training."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from realness.trainer.metrics.reference import Progress
from realness.trainer.storage.files import atomic_writer
from realness.trainer.storage.scores import (
    CLASS_METRICS_FILE,
    Record,
    Summary,
    append_records,
    chart_of,
    curves,
    describe,
    is_of_class,
    read_records,
    summarise,
)

FIGURE_FILE = "metrics.png"
SUMMARY_FILE = "metrics_summary.csv"
MAX_CLASS_ROWS = 20
"""Scores of more classes than this are not printed."""


def open_progress(cleanup: ExitStack, *, enabled: bool) -> Progress:
    """A progress bar with the remaining time, which restarts with each stage."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("remaining"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Bar(*columns, console=Console(stderr=True), transient=True, disable=not enabled)
    cleanup.enter_context(bar)
    task = bar.add_task("loading", total=None)
    stage = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal stage, task
        if what != stage:
            bar.remove_task(task)
            stage, task = what, bar.add_task(what, total=total)
        bar.update(task, completed=done)
        if done == total:
            stage = ""

    return show


def report_scores(run: Path, records: Sequence[Record], from_iteration: int) -> None:
    """Add scores to the run's `metrics.csv`; print and plot them with earlier ones like them.

    The summary over checkpoints begins at `from_iteration`, or at 0 if there are none from there.
    """
    earlier = read_records(run)
    new = [record for record in records if record not in earlier]
    path = append_records(run, new)
    of_classes = [record for record in records if is_of_class(record.metric)]
    whole = [record for record in records if not is_of_class(record.metric)]
    print_scores(records if len(of_classes) <= MAX_CLASS_ROWS else whole)
    settings = {record.settings for record in whole}
    alike = [record for record in [*earlier, *new] if record.settings in settings]
    # Several widths of one average are not a curve over training.
    if len({record.weights for record in alike}) == 1 < len({item.images for item in alike}):
        first, note = from_iteration, f"from iteration {from_iteration:,} on"
        summaries = summarise(alike, first)
        if not summaries:
            note, first = f"all are before {first:,} iterations", 0
            summaries = summarise(alike)
        print_summary(summaries, note)
        print(write_summary(summaries, run, first))
        print(write_figure(alike, run))
    print(f"{path}: {len(new) - len(of_classes)} rows added")
    if of_classes:
        print(f"{run / CLASS_METRICS_FILE}: {len(of_classes)} rows of single classes added")


def print_scores(records: Sequence[Record]) -> None:
    """Print a table with one row per score."""
    table = Table("images seen", "weights", Column("metric", no_wrap=True), "value")
    for name in ("generated", "real", "network", "resize", "s"):
        table.add_column(name)
    for record in records:
        table.add_row(
            f"{record.images:,}", record.weights, record.metric, f"{record.value:.5g}",
            f"{record.num_images:,}", f"{record.num_real:,}", record.network, record.resize,
            f"{record.seconds:.0f}",
        )  # fmt: skip
    Console().print(table)


def print_summary(summaries: Sequence[Summary], note: str) -> None:
    """Print minimum, maximum, mean and SD over checkpoints, as in the papers' tables."""
    table = Table(
        "metric", "min", "max", "mean", "SD", "checkpoints", title=f"Over training, {note}"
    )
    for item in summaries:
        numbers = (item.least, item.greatest, item.mean, item.deviation)
        table.add_row(item.metric, *(f"{number:.5g}" for number in numbers), str(item.count))
    Console().print(table)


def write_summary(summaries: Sequence[Summary], run: Path, from_iteration: int) -> Path:
    """Write the same table to `metrics_summary.csv` in the run folder; returns its path."""
    path = run / SUMMARY_FILE
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "min", "max", "mean", "sd", "checkpoints", "from_iteration"])
        for item in summaries:
            numbers = (item.least, item.greatest, item.mean, item.deviation)
            writer.writerow([item.metric, *numbers, item.count, from_iteration])
    return path


def write_figure(records: Sequence[Record], run: Path) -> Path:
    """Plot each metric over thousands of images to `metrics.png` in the run folder.

    Returns its path. Records of one metric must agree in their settings. Levels of SWD share a
    chart, and so do precision and recall; standard deviations are drawn as error bars.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    charts: dict[str, list[list[Record]]] = {}
    lines = {curve[0].metric: curve for curve in curves(records)}
    for name, curve in lines.items():
        if chart_of(name):
            charts.setdefault(chart_of(name), []).append(curve)
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows), layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, (title, parts) in zip(axes, charts.items(), strict=False):
        for curve in parts:
            kimg = [record.images / 1000 for record in curve]
            spread = {item.images: item.value for item in lines.get(f"{curve[0].metric}-sd", [])}
            bars = [spread.get(record.images, 0.0) for record in curve] if spread else None
            ax.errorbar(
                kimg, [record.value for record in curve], bars,
                label=curve[0].metric, marker="o", markersize=3, linewidth=1.4, capsize=2,
            )  # fmt: skip
        ax.set_title(f"{title}\n{describe(parts[0][0])}", fontsize=10)
        ax.set_xlabel("thousands of images")
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        if len(parts) > 1:
            ax.legend(fontsize=8, frameon=False)
    for ax in list(figure.axes)[len(charts) :]:
        ax.set_visible(False)
    path = run / FIGURE_FILE
    with atomic_writer(path) as file:
        figure.savefig(file, format="png")
    return path
