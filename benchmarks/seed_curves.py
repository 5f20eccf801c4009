"""Curves over training with a spread between seeds: medians, ranges, tables' cells and panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]


def curve(
    rows: Sequence[Row], measure: str, time: str = "kimg", **only: object
) -> tuple[list[float], np.ndarray]:
    """Times [T] and a measure [seeds, T] of the rows whose columns have the values `only`.

    NaN where a value is missing.
    """
    own = [row for row in rows if all(row[key] == value for key, value in only.items())]
    times = sorted({row[time] for row in own})
    seeds = sorted({row["seed"] for row in own})
    values = np.full((len(seeds), len(times)), np.nan)
    for row in own:
        if row[measure] != "":
            values[seeds.index(row["seed"]), times.index(row[time])] = float(row[measure])
    return times, values


def spread(values: np.ndarray, form: str) -> str:
    """`median (least to most)` of one value per seed; a dash if one is missing."""
    if np.isnan(values).any():
        return "–"
    middle = f"{np.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle} ({values.min():{form}} to {values.max():{form}})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


class Panel(NamedTuple):
    """One panel: for each arm its times [T] and values [seeds, T]."""

    title: str
    curves: Mapping[str, tuple[Sequence[float], np.ndarray]]
    logarithmic: bool = False


def draw(
    path: Path,
    grid: Sequence[Sequence[Panel]],
    colours: Mapping[str, str],
    time: str = "thousands of images",
) -> None:
    """Rows of panels: the median over seeds, in the band from smallest to largest."""
    from matplotlib.figure import Figure

    columns = max(map(len, grid))
    figure = Figure(figsize=(4.2 * columns, 3.1 * len(grid)), layout="constrained", dpi=120)
    axes = figure.subplots(len(grid), columns, squeeze=False)
    for row_of_axes, panels in zip(axes, grid, strict=True):
        for ax, panel in zip(row_of_axes, panels, strict=False):
            for arm, (times, values) in panel.curves.items():
                if not len(times) or np.isnan(values).any():
                    continue
                ax.plot(
                    times, np.median(values, 0), "o-", color=colours[arm], markersize=3, label=arm
                )
                ax.fill_between(times, values.min(0), values.max(0), color=colours[arm], alpha=0.15)
            ax.set_title(panel.title, fontsize=10, loc="left")
            ax.set_xlabel(time)
            if panel.logarithmic:
                ax.set_yscale("log")
            else:
                ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        row_of_axes[0].legend(fontsize=8, frameon=False)
        for ax in row_of_axes[len(panels) :]:
            ax.set_axis_off()
    figure.savefig(path)
