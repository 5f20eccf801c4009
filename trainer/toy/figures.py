"""Figures of generated points over the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

REAL, FAKE, INK, SOFT, FRAME = "#8fa3b8", "#d9601a", "#1c1d21", "#62646d", "#d5d6da"
"""Colours of the report: real in blue-grey, generated in orange."""
PANEL_INCHES = 2.35
SHOWN_POINTS = 2000
MARGIN = 0.22


@dataclass(frozen=True)
class Panel:
    """One square of a figure: generated points [n, 2], or None for the data alone."""

    title: str
    note: str = ""
    samples: Tensor | None = None


def draw_panels(
    path: Path,
    real: Tensor,
    panels: Sequence[Panel],
    *,
    columns: int,
    title: str = "",
    real_size: float = 2.0,
) -> None:
    """Write a grid of panels to `path` (PNG), all over the same real points [m, 2].

    All axes have the same scale and the extent of the data with a margin; the panel's note states
    the fraction of samples outside.
    """
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    head = 0.45 if title else 0.05
    height = rows * (PANEL_INCHES + 0.42) + head
    figure = Figure(figsize=(columns * PANEL_INCHES, height), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.01,
        right=0.99,
        bottom=0.01,
        top=1 - (head + 0.36) / height,
        wspace=0.05,
        hspace=0.42 / PANEL_INCHES,
    )
    if title:
        figure.text(0.01, 1 - 0.1 / height, title, va="top", fontsize=11, color=INK, weight="bold")
    window = _window(real)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _draw(axes, real, panel, window, real_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _window(real: Tensor) -> tuple[Tensor, float]:
    """The centre of the panel [2], and half its side length."""
    low, high = real.min(0).values, real.max(0).values
    return (low + high) / 2, float((high - low).max()) * (0.5 + MARGIN)


def _draw(
    axes: Any, real: Tensor, panel: Panel, window: tuple[Tensor, float], real_size: float
) -> None:
    centre, half = window
    shown = real[:SHOWN_POINTS]
    axes.scatter(*shown.T.numpy(), s=real_size, c=REAL, linewidths=0, rasterized=True)
    note = panel.note
    if panel.samples is not None:
        samples = panel.samples[:SHOWN_POINTS]
        axes.scatter(*samples.T.numpy(), s=2.0, c=FAKE, alpha=0.6, linewidths=0, rasterized=True)
        outside = float(((samples - centre).abs().amax(1) > half).float().mean())
        if outside > 0.005:
            note = ", ".join(filter(None, [note, f"{outside:.0%} outside"]))
    axes.set_xlim(float(centre[0]) - half, float(centre[0]) + half)
    axes.set_ylim(float(centre[1]) - half, float(centre[1]) + half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FRAME)
    axes.text(0, 1.105, panel.title, transform=axes.transAxes, fontsize=8.5, color=INK, va="bottom")
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=7.5, color=SOFT, va="bottom")
