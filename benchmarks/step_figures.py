"""The figure of `benchmarks/train_step.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw a panel per system: a bar of milliseconds per image for each level and rank count.

    Communication is contained in the other parts, so it is written next to the bar.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    systems = list(dict.fromkeys(row["system"] for row in rows))
    parts = [name for name in rows[0] if name.startswith("ms ") and name != "ms communication"]
    height = 1.2 + 0.36 * max(sum(row["system"] == name for row in rows) for name in systems)
    figure, axes = plt.subplots(
        1, len(systems), figsize=(6.4 * len(systems), height), squeeze=False
    )
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for axis, system in zip(axes[0], systems, strict=True):
        own = [row for row in rows if row["system"] == system]
        labels = [f"{row['level']}, {row['ranks']} rank(s)" for row in own]
        left = [0.0] * len(own)
        for part, colour in zip(parts, colours, strict=False):
            values = [row[part] for row in own]
            axis.barh(labels, values, left=left, color=colour, label=part.removeprefix("ms "))
            left = [start + value for start, value in zip(left, values, strict=True)]
        for label, end, row in zip(labels, left, own, strict=True):
            note = f" {row['img_per_s']:.1f} img/s"
            if row["ranks"] > 1:
                note += f", {row['ms communication']:.1f} ms comm."
            axis.text(end, label, note, va="center", fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.3)
        axis.set_title(f"{system}, {own[0]['resolution']} px, batch {own[0]['batch_size']}")
        axis.set_xlabel("milliseconds per image (less is better)")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=len(names), fontsize=8,
                  bbox_to_anchor=(0.5, 0.0))  # fmt: skip
    figure.savefig(path, dpi=110, bbox_inches="tight")
