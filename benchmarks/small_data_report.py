"""Table and figure of benchmarks/small_data.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"none": "#c0362c", "ada": "#2f6fd0", "diffaugment": "#12866f"}
PANELS = (("FD", "FD"), ("KID", "KID"), ("r_t", "r_t: 1 if D has memorised the images"))

Row = dict[str, Any]


def curve(rows: Sequence[Row], name: str, arm: str, measure: str) -> tuple[list[float], np.ndarray]:
    """Thousands of images [T], and a measure [seeds, T], of one set and arm; NaN if missing."""
    own = [row for row in rows if (row["set"], row["arm"]) == (name, arm)]
    times = sorted({row["kimg"] for row in own})
    seeds = sorted({row["seed"] for row in own})
    values = np.full((len(seeds), len(times)), np.nan)
    for row in own:
        if row[measure] != "":
            values[seeds.index(row["seed"]), times.index(row["kimg"])] = float(row[measure])
    return times, values


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A Markdown table: median over seeds, with the range, at the best and at the last point."""
    lines = [
        "# Few images, with and without augmentation",
        "",
        "Written by `benchmarks/small_data.py`, whose first lines say what was trained. FD and KID",
        "of 1,000 images of the moving average against all training images, in the features of",
        "EfficientNet-lite0; lower is better. Median over seeds (smallest to largest).",
        "",
        "| Images | Augmentation | Seeds | Thousand images | FD at the end | Lowest FD | "
        "KID at the end | Precision | Recall | r_t |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        for arm in dict.fromkeys(row["arm"] for row in rows if row["set"] == name):
            times, distances = curve(rows, name, arm, "FD")
            last = [curve(rows, name, arm, m)[1][:, -1] for m in ("KID", "precision", "recall")]
            cells = [
                *(name, arm, str(len(distances)), f"{times[-1]:g}"),
                *(_spread(distances[:, -1], ".1f"), _spread(distances.min(1), ".1f")),
                *(_spread(values, ".3f") for values in last),
                _spread(curve(rows, name, arm, "r_t")[1][:, -1], ".2f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "![FD, KID and r_t over training](small_data.png)", ""]
    path.write_text("\n".join(lines))


def _spread(values: np.ndarray, form: str) -> str:
    if np.isnan(values).any():
        return "–"
    middle = f"{np.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle} ({values.min():{form}} to {values.max():{form}})"


def write_figure(path: Path, rows: Sequence[Row]) -> None:
    """A row of panels per set: the median over seeds, in the band from smallest to largest."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = Figure(figsize=(4.2 * len(PANELS), 3.1 * len(sets)), layout="constrained", dpi=120)
    axes = figure.subplots(len(sets), len(PANELS), squeeze=False)
    for row_of_axes, name in zip(axes, sets, strict=True):
        for ax, (measure, label) in zip(row_of_axes, PANELS, strict=True):
            for arm, colour in COLOURS.items():
                times, values = curve(rows, name, arm, measure)
                if not times or np.isnan(values).any():
                    continue
                ax.plot(times, np.median(values, 0), "o-", color=colour, markersize=3, label=arm)
                ax.fill_between(times, values.min(0), values.max(0), color=colour, alpha=0.15)
            ax.set_title(f"{name}: {label}", fontsize=10, loc="left")
            ax.set_xlabel("thousands of images")
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        row_of_axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path)
