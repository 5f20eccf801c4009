"""The realness distributions of a run as an SVG figure, with one frame per recorded time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from realness.trainer.reporting.page.charts import compact, ticks
from realness.trainer.reporting.page.previews import thin
from realness.trainer.reporting.page.sliders import slider_figure
from realness.trainer.reporting.realness import Realness

WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
MAX_FRAMES = 100

_NOTE = (
    "D's distribution over outcomes, mean over the real images of the grid and over the generated "
    "ones. D pulls real ones to anchor A1 and generated ones to A0; when it cannot tell them apart "
    "the two coincide."
)
_LEGEND = (
    ("real", "real images"),
    ("fake", "generated images"),
    ("anchor1", "A1"),
    ("anchor0", "A0"),
)


def draw_distributions(moments: Sequence[Realness], title: str) -> str:
    """A figure with a slider over `moments`, oldest first; empty for none.

    The axes are the same in all frames: outcomes from -1 (not real) to 1 (real), and probability.
    """
    if not moments:
        return ""
    moments = [item for item in moments if len(item.real) == len(moments[-1].real)]
    shown = thin(moments, MAX_FRAMES)
    top = 1.06 * max(max(*m.real, *m.fake, *m.a1, *m.a0) for m in shown)
    frames = [(item.images, _frame(item, top)) for item in shown]
    return slider_figure(
        title,
        frames,
        note=_NOTE,
        legend="".join(
            f'<li class="{css}"><i></i><span>{text}</span></li>' for css, text in _LEGEND
        ),
        before=f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + _axes(top),
        after="</svg>",
        css="distributions",
    )


def _frame(moment: Realness, top: float) -> str:
    parts = [
        f'<path class="anchor anchor0" d="{_steps(moment.a0, top, closed=True)}"/>',
        f'<path class="anchor anchor1" d="{_steps(moment.a1, top, closed=True)}"/>',
        f'<path class="line fake" d="{_steps(moment.fake, top)}"/>',
        f'<path class="line real" d="{_steps(moment.real, top)}"/>',
    ]
    return "".join(parts)


def _steps(shares: Sequence[float], top: float, *, closed: bool = False) -> str:
    """The outline of a histogram over [-1, 1]; down to the axis at both ends where closed."""
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    parts = [f"M{LEFT} {_y(0, top):.1f}V" if closed else f"M{LEFT} "]
    for number, share in enumerate(shares):
        lead = "" if number == 0 else "V"
        parts.append(f"{lead}{_y(share, top):.1f}H{LEFT + width * (number + 1):.1f}")
    if closed:
        parts.append(f"V{_y(0, top):.1f}Z")
    return "".join(parts)


def _y(share: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share / top)


def _axes(top: float) -> str:
    width = WIDTH - LEFT - RIGHT
    parts = []
    for share in ticks(0, top, 5):
        y = _y(share, top)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" class="end">{compact(share)}</text>')
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = LEFT + width * (value + 1) / 2
        place = {-1.0: "start", 1.0: "end"}.get(value, "middle")
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" class="{place}">{compact(value)}</text>'
        )
    y = HEIGHT - 6
    parts.append(f'<text x="{LEFT}" y="{y}" class="start">← less real</text>')
    parts.append(f'<text x="{LEFT + width / 2}" y="{y}" class="middle">outcome</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{y}" class="end">more real →</text>')
    return "".join(parts)
