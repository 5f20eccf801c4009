"""A run's sample grids as a film, with D's distributions over realness next to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from realness.trainer.reporting.page.previews import thin
from realness.trainer.reporting.page.runs import Frame, Run, RunFolderError
from realness.trainer.reporting.realness import Realness

SERIES = "samples"
"""The series of sample grids: those of the moving average."""
MAX_SIDE = 720
"""Larger grids are reduced to this side, in pixels."""
MIN_SIDE = 384
"""Smaller grids are enlarged by a whole factor to at least this side."""
MARGIN, CAPTION = 16, 40
PAGE, INK, FAINT = "#ffffff", "#1c1d21", "#c9c8c2"
COLOURS = {"real": "#12866f", "fake": "#b83280"}
FILLED = {"a1": "#d3eae4", "a0": "#f4dcea"}
LABELS = {
    "real": "real images",
    "fake": "generated images",
    "a1": "anchor A1 of real images",
    "a0": "anchor A0 of generated images",
}
SMOOTHING = 3
"""Distributions are drawn this many times larger and then reduced."""


def film(run: Run, max_frames: int, times_last: int = 1) -> Iterator[Image.Image]:
    """One frame, RGB with even sides, for each sample grid of a run, oldest first.

    At most `max_frames`, evenly spaced, with the first and the last. If D outputs distributions,
    each frame shows those that were recorded with its grid. The last frame is repeated so that it
    comes `times_last` times. Raises RunFolderError if there are no grids.
    """
    grids = [frame for frame in run.grids.get(SERIES, []) if frame.images_seen]
    if not grids:
        raise RunFolderError(
            f"{run.path} has no sample grids yet; training writes one every --sample-kimg thousand "
            "images"
        )
    recorded = {item.images: item for item in run.realness}
    shown = thin(grids, max_frames)
    moments = [recorded[frame.images_seen] for frame in shown if frame.images_seen in recorded]
    top = 1.08 * max((max(*m.real, *m.fake, *m.a1, *m.a0) for m in moments), default=1.0)
    for frame in [*shown, *shown[-1:] * (times_last - 1)]:
        yield _compose(frame, recorded.get(frame.images_seen or 0), top, beside=bool(moments))


def _compose(frame: Frame, moment: Realness | None, top: float, *, beside: bool) -> Image.Image:
    with Image.open(frame.path) as image:
        grid = _fitted(image.convert("RGB"))
    width, height = grid.size
    panel = width if beside else 0
    size = (width + panel + (3 if beside else 2) * MARGIN, height + CAPTION + MARGIN)
    canvas = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAGE)
    canvas.paste(grid, (MARGIN, CAPTION))
    draw = ImageDraw.Draw(canvas)
    text = f"{(frame.images_seen or 0) / 1000:,.1f} thousand images"
    draw.text((MARGIN, 10), text, INK, ImageFont.load_default(18))
    if moment is not None:
        canvas.paste(_distributions(moment, top, (panel, height)), (width + 2 * MARGIN, CAPTION))
        title = "D's distribution over realness"
        draw.text((width + 2 * MARGIN, 10), title, INK, ImageFont.load_default(18))
    return canvas


def _fitted(grid: Image.Image) -> Image.Image:
    width, height = grid.size
    longest = max(width, height)
    if longest > MAX_SIDE:
        scale = MAX_SIDE / longest
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return grid.resize(size, Image.Resampling.LANCZOS)
    factor = -(-MIN_SIDE // longest)
    return grid.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def _distributions(moment: Realness, top: float, size: tuple[int, int]) -> Image.Image:
    """The anchors as areas and the distributions as outlines, over outcomes from -1 to 1."""
    width, height = size
    legend = 22 * len(LABELS) + 8
    plot = _plot(moment, top, (width, height - legend - 24))
    canvas = Image.new("RGB", size, PAGE)
    canvas.paste(plot, (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    below = plot.height + 4
    draw.text((0, below), "-1: not real", INK, font)
    draw.text((width, below), "1: real", INK, font, anchor="ra")
    for row, (key, label) in enumerate(LABELS.items()):
        y = below + 28 + 22 * row
        box = (0, y + 3, 24, y + 15) if key in FILLED else (0, y + 7, 24, y + 10)
        draw.rectangle(box, FILLED.get(key) or COLOURS[key])
        draw.text((34, y), label, INK, font)
    return canvas


def _plot(moment: Realness, top: float, size: tuple[int, int]) -> Image.Image:
    width, height = (side * SMOOTHING for side in size)
    canvas = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(canvas)

    def outline(shares: Sequence[float]) -> list[tuple[float, float]]:
        step = width / len(shares)
        return [
            (step * (number + side), (height - SMOOTHING) * (1 - share / top))
            for number, share in enumerate(shares)
            for side in (0, 1)
        ]

    for key, colour in FILLED.items():
        points = outline(getattr(moment, key))
        draw.polygon([(0, height), *points, (width, height)], colour)
    draw.line([(0, height - 2), (width, height - 2)], FAINT, SMOOTHING)
    for key, colour in COLOURS.items():
        draw.line(outline(getattr(moment, key)), colour, 2 * SMOOTHING, joint="curve")
    return canvas.resize(size, Image.Resampling.LANCZOS)
