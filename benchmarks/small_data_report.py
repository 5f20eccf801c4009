"""Table and figure of benchmarks/small_data.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seed_curves import Panel, Row, curve, draw, spread, table

COLOURS = {"none": "#c0362c", "ada": "#2f6fd0", "diffaugment": "#12866f"}
HEAD = (
    *("Images", "Augmentation", "Seeds", "Thousand images", "FD at the end", "Lowest FD"),
    *("KID at the end", "Precision", "Recall", "r_t"),
)
PANELS = (("FD", "FD"), ("KID", "KID"), ("r_t", "r_t: 1 if D has memorised the images"))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A Markdown table: median over seeds, with the range, at the best and at the last point."""
    lines = [
        "# Few images, with and without augmentation",
        "",
        "Written by `benchmarks/small_data.py`, whose first lines say what was trained. FD and KID",
        "of 1,000 images of the moving average against all training images, in the features of",
        "EfficientNet-lite0; lower is better. Median over seeds (smallest to largest).",
        "",
    ]
    cells = []
    for name in dict.fromkeys(row["set"] for row in rows):
        for arm in dict.fromkeys(row["arm"] for row in rows if row["set"] == name):
            own = {"set": name, "arm": arm}
            times, distances = curve(rows, "FD", **own)
            last = [curve(rows, m, **own)[1][:, -1] for m in ("KID", "precision", "recall")]
            row = [
                *(name, arm, str(len(distances)), f"{times[-1]:g}"),
                *(spread(distances[:, -1], ".1f"), spread(distances.min(1), ".1f")),
                *(spread(values, ".3f") for values in last),
                spread(curve(rows, "r_t", **own)[1][:, -1], ".2f"),
            ]
            cells.append(row)
    lines += table(HEAD, cells)
    lines += ["", "![FD, KID and r_t over training](small_data.png)", ""]
    path.write_text("\n".join(lines))


def write_figure(path: Path, rows: Sequence[Row]) -> None:
    """A row of panels per set: the median over seeds, in the band from smallest to largest."""
    grid = [
        [
            Panel(
                f"{name}: {label}",
                {arm: curve(rows, measure, set=name, arm=arm) for arm in COLOURS},
            )
            for measure, label in PANELS
        ]
        for name in dict.fromkeys(row["set"] for row in rows)
    ]
    draw(path, grid, COLOURS)
