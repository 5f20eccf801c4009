"""Line charts as inline SVG: small, sharp at any size, coloured by the page's theme."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from realness.trainer.reporting.page.panels import Panel, Series

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
MAX_POINTS = 260
"""More records than this are averaged in equal stretches of images."""

_MARKERS_UP_TO = 40
_TREND_FROM = 60
_TREND_WIDTH = 0.012
"""Standard deviation of the trend's Gaussian window, as a share of the axis."""


@dataclass(frozen=True)
class Curve:
    """A series reduced for drawing: mean, minimum and maximum of each stretch.

    Arrays [n]; a stretch without a finite value is NaN.
    """

    label: str
    colour: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    last: float | None
    """The newest finite value of the whole series."""


def reduce(series: Series, max_points: int = MAX_POINTS) -> Curve:
    """Average a series in `max_points` equal stretches of x; short series stay as they are."""
    x = np.asarray(series.x, dtype=np.float64)
    y = np.asarray([math.nan if value is None else value for value in series.y], dtype=np.float64)
    last = next((value for value in reversed(series.y) if value is not None), None)
    if len(x) <= max_points:
        return Curve(series.label, series.colour, x, y, y, y, last)
    edges = np.linspace(x[0], x[-1], max_points + 1)
    cell = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max_points - 1)
    stretches = [np.flatnonzero(cell == index) for index in np.unique(cell)]
    centres = np.array([x[members].mean() for members in stretches])
    finite = [y[members][np.isfinite(y[members])] for members in stretches]
    mean, low, high = (
        np.array([pick(values) if len(values) else math.nan for values in finite])
        for pick in (np.mean, np.min, np.max)
    )
    return Curve(series.label, series.colour, centres, mean, low, high, last)


def trend(curve: Curve, x_end: float) -> np.ndarray:
    """The curve's mean under a moving Gaussian window, [n]; NaN where the curve has a gap."""
    distance = (curve.x[None, :] - curve.x[:, None]) / (_TREND_WIDTH * x_end)
    there = np.isfinite(curve.mean)
    weight = np.exp(-0.5 * distance**2) * there
    smooth = weight @ np.where(there, curve.mean, 0.0) / np.maximum(weight.sum(axis=1), 1e-300)
    return np.where(there, smooth, math.nan)


def value_range(curves: Sequence[Curve], from_zero: bool) -> tuple[float, float]:
    """(bottom, top) of the axis: the curves and a margin.

    Rare spikes that would flatten everything else are cut off, separately for each curve: if its
    values span more than four times their 2nd to 98th percentile, the axis ends slightly beyond
    those.
    """
    ranges = [span for curve in curves if (span := _span(curve))]
    if not ranges:
        return 0.0, 1.0
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if from_zero:
        low = min(low, 0.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    return (low if from_zero and low == 0 else low - margin), high + margin


def _span(curve: Curve) -> tuple[float, float] | None:
    values = np.concatenate([curve.low, curve.high])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(v) for v in np.percentile(values, [2, 98]))
    inner = inner_high - inner_low
    if inner > 0 and high - low > 4 * inner:
        return max(low, inner_low - inner / 2), min(high, inner_high + inner / 2)
    return low, high


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def compact(value: float) -> str:
    """A number for an axis: 0, 0.25, 500, 12k, 1.5M, 2e-4."""
    sign, size = "−" if value < 0 else "", abs(value)
    if 0 < size < 1e-3:
        return f"{sign}{size:.0e}".replace("e-0", "e-")
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{sign}{size / limit:.4g}{suffix}"
    return f"{sign}{round(size, 6):.4g}"


def draw(panel: Panel, x_end: float) -> str:
    """A panel as a `<figure>` with an SVG; the page's script shows values under the pointer.

    `x_end` is the right end of the axis in images, the same for all charts of a page.
    """
    curves = [reduce(series) for series in panel.series]
    scale = _Scale(x_end, *value_range(curves, panel.from_zero))
    label = f"{panel.title} over images: " + ", ".join(curve.label for curve in curves)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + _axes(scale)
        # Clips spikes above and below, but no markers at the left and right edges.
        + f'<svg x="{LEFT - 3}" y="{TOP}" width="{scale.width + 6}" height="{scale.height}"'
        + f' viewBox="{LEFT - 3} {TOP} {scale.width + 6} {scale.height}" overflow="hidden">'
        + _mark(panel.mark, scale)
        + "".join(_paths(curve, scale) for curve in curves)
        + "</svg></svg>"
    )
    longest = max(curves, key=lambda curve: len(curve.x)).x
    data = {
        "x": [round(float(v)) for v in longest],
        "y": [_values_at(longest, curve) for curve in curves],
        "frame": [LEFT, scale.width, TOP, scale.height, x_end, scale.low, scale.high],
    }
    return (
        f'<figure class="card chart" data-chart="{escape(json.dumps(data))}">'
        f"<figcaption><h3>{escape(panel.title)}</h3>{_legend(panel, curves)}"
        f"<p>{escape(panel.note)}{_spike_note(curves, scale)}</p></figcaption>{svg}</figure>"
    )


@dataclass(frozen=True)
class _Scale:
    """Conversion from data to SVG coordinates."""

    x_end: float
    low: float
    high: float
    width: int = WIDTH - LEFT - RIGHT
    height: int = HEIGHT - TOP - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + self.width * value / self.x_end

    def y(self, value: float) -> float:
        return TOP + self.height * (self.high - value) / (self.high - self.low)


def _axes(scale: _Scale) -> str:
    parts = []
    for value in ticks(scale.low, scale.high, 5):
        y = scale.y(value)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}h{scale.width}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" class="end">{compact(value)}</text>')
    for value in ticks(0, scale.x_end, 7):
        x = scale.x(value)
        # The outermost labels would extend beyond the drawing.
        place = "start" if x < LEFT + 8 else "end" if x > WIDTH - RIGHT - 16 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" class="{place}">{compact(value)}</text>')
    return "".join(parts)


def _mark(images: int | None, scale: _Scale) -> str:
    if images is None:
        return ""
    return f'<path class="rule mark" d="M{scale.x(images):.1f} {TOP}v{scale.height}"/>'


def _paths(curve: Curve, scale: _Scale) -> str:
    parts = []
    if curve.low is not curve.high:
        parts += [
            f'<path class="band {curve.colour}" d="{_band(curve, run, scale)}"/>'
            for run in _runs(curve.mean)
        ]
    drawn: list[int] = np.flatnonzero(np.isfinite(curve.mean)).tolist()
    raw = _line(curve.x, curve.mean, scale)
    if len(drawn) >= _TREND_FROM:
        parts.append(f'<path class="line raw {curve.colour}" d="{raw}"/>')
        smooth = _line(curve.x, trend(curve, scale.x_end), scale)
        parts.append(f'<path class="line {curve.colour}" d="{smooth}"/>')
    else:
        parts.append(f'<path class="line {curve.colour}" d="{raw}"/>')
    if len(drawn) <= _MARKERS_UP_TO:
        parts += [
            f'<circle class="{curve.colour}" r="2.2" cx="{scale.x(curve.x[i]):.1f}"'
            f' cy="{scale.y(curve.mean[i]):.1f}"/>'
            for i in drawn
        ]
    return "".join(parts)


def _line(x: np.ndarray, y: np.ndarray, scale: _Scale) -> str:
    return "".join(
        "M" + "L".join(f"{scale.x(x[i]):.1f} {scale.y(y[i]):.1f}" for i in run) for run in _runs(y)
    )


def _runs(values: np.ndarray) -> list[list[int]]:
    """Index ranges without a gap."""
    drawn = np.flatnonzero(np.isfinite(values))
    parts = np.split(drawn, np.flatnonzero(np.diff(drawn) > 1) + 1)
    return [part.tolist() for part in parts if len(part)]


def _band(curve: Curve, run: list[int], scale: _Scale) -> str:
    upper = [f"{scale.x(curve.x[i]):.1f} {scale.y(curve.high[i]):.1f}" for i in run]
    lower = [f"{scale.x(curve.x[i]):.1f} {scale.y(curve.low[i]):.1f}" for i in run[::-1]]
    return "M" + "L".join(upper + lower) + "Z"


def _values_at(x: np.ndarray, curve: Curve) -> list[float | None]:
    """The curve's values at the positions `x`, for the pointer; None where it has a gap."""
    if not len(curve.x):
        return [None] * len(x)
    nearest = np.abs(curve.x[None, :] - x[:, None]).argmin(axis=1)
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in curve.mean[nearest]]


def _legend(panel: Panel, curves: Sequence[Curve]) -> str:
    items = []
    for curve in curves:
        last = "–" if curve.last is None else f"{curve.last:.4g}".replace("-", "−")
        label = f"<span>{escape(curve.label)}</span>"
        items.append(f'<li class="{curve.colour}"><i></i>{label} <b>{last}</b></li>')
    unit = f"<li><span>{escape(panel.unit)}</span></li>" if panel.unit and len(curves) > 1 else ""
    return f'<ul class="legend">{"".join(items)}{unit}</ul>'


def _spike_note(curves: Sequence[Curve], scale: _Scale) -> str:
    peak = max((float(np.nanmax(c.high)) for c in curves if np.isfinite(c.high).any()), default=0)
    low = min((float(np.nanmin(c.low)) for c in curves if np.isfinite(c.low).any()), default=0)
    beyond = [v for v, out in ((low, low < scale.low), (peak, peak > scale.high)) if out]
    if not beyond:
        return ""
    return f" <em>Beyond the axis: {' and '.join(compact(v) for v in beyond)}.</em>"
