"""Figures that show one frame at a time; all sliders of a page move together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape


def slider_figure(
    title: str,
    frames: Sequence[tuple[int | None, str]],
    *,
    note: str = "",
    legend: str = "",
    before: str = "",
    after: str = "",
    css: str = "",
) -> str:
    """A `<figure>` with a slider over frames: (images seen if known, SVG content), oldest first.

    The frames are put into `<g>` elements between `before` and `after`; the last one is shown.
    """
    last = len(frames) - 1
    inner = "".join(
        f'<g class="frame" {_place(images)}{"" if number == last else " hidden"}>{content}</g>'
        for number, (images, content) in enumerate(frames)
    )
    content = before + inner + after
    return "".join(_figure(title, moment(frames[-1][0]), [content], last, note, legend, css))


def image_figure(
    title: str, frames: Sequence[tuple[int | None, Callable[[], str], str]], note: str = ""
) -> Iterator[str]:
    """The same in parts, for pictures: (images seen if known, its address, file name)."""
    last = len(frames) - 1
    inner = (
        f'<img class="frame" src="{address()}" alt="{escape(moment(images) or name)}" '
        f"{_place(images, name)}{'' if number == last else ' hidden'}>"
        for number, (images, address, name) in enumerate(frames)
    )
    images, _, name = frames[-1]
    return _figure(title, moment(images) or name, inner, last, note, "", "")


def moment(images: int | None) -> str:
    """The position of a frame in training, in words."""
    return "" if images is None else f"after {images:,} images"


def _place(images: int | None, name: str = "") -> str:
    at = "" if images is None else f' data-images="{images}"'
    return f'data-label="{escape(moment(images) or name)}"{at}'


def _figure(
    title: str,
    label: str,
    content: Iterable[str],
    last: int,
    note: str,
    legend: str,
    css: str,
) -> Iterator[str]:
    listed = f'<ul class="legend">{legend}</ul>' if legend else ""
    said = f"<p>{escape(note)}</p>" if note else ""
    output = f"<output>{escape(label)}</output>" if last else ""
    slider = (
        '<div class="slider"><button type="button" aria-label="Play">▶</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1"'
        f' aria-label="Images seen, {escape(title)}"></div>'
    )
    yield (
        f'<figure class="card frames {css}"><figcaption><h3>{escape(title)}</h3>{output}{listed}'
        f"{said}</figcaption>"
    )
    yield from content
    yield f"{slider if last else ''}</figure>"
