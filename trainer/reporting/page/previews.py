"""Sample grids made small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from realness.trainer.reporting.page.runs import Frame

Item = TypeVar("Item")

MAX_SIDE = 1024
MAX_FRAMES = 48
MAX_BYTES = 12 * 2**20
"""Maximum bytes of JPEG data per page, over all series."""

JPEG_QUALITY = 88


def thin(frames: Sequence[Item], limit: int) -> list[Item]:
    """Select at most `limit` evenly spaced frames, including the first and the last.

    It selects every k-th frame with k a power of two, so that a longer run keeps the frames
    selected before (whose previews are cached), or every second one of them.
    """
    step = 1
    while len(frames) > 1 and -(-(len(frames) - 1) // step) + 1 > max(2, limit):
        step *= 2
    chosen = list(frames[::step])
    return chosen if chosen[-1] is frames[-1] else [*chosen, frames[-1]]


def embed(frames: Sequence[Frame], limit: int, max_bytes: int) -> list[tuple[Frame, bytes]]:
    """`thin`ned frames with their JPEGs, in order, within `max_bytes`.

    Where they take more, every other one is left out until they fit; the last always stays.
    Files that cannot be decoded are left out.

    During training a report is written again and again, so the JPEGs that it shows stay in memory:
    only new grids are decoded.
    """
    tried = {frame.path for frame in thin(frames, limit)}
    while True:
        sizes = [(frame, _size(frame)) for frame in thin(frames, limit)]
        whole = [(frame, size) for frame, size in sizes if size is not None]
        if len(whole) <= 1 or sum(size for _, size in whole) <= max_bytes:
            break
        if limit <= 2:
            whole = whole[-1:]
            break
        limit //= 2
    shown = [(frame, data) for frame, _ in whole if (data := _encoded(frame)) is not None]
    kept = {frame.path for frame, _ in shown}
    for path in (frame.path for frame in frames):
        if path not in kept:
            _jpegs.pop(path, None)
        if path not in tried:
            _sizes.pop(path, None)
    return shown


def address(jpeg: bytes) -> str:
    """The `data:` address of a picture."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


_jpegs: dict[Path, tuple[int, bytes]] = {}
"""The frames that are shown: when each file was last changed, and its JPEG."""
_sizes: dict[Path, tuple[int, int]] = {}
"""The frames that were tried: when each file was last changed, and the bytes of its JPEG."""


def _size(frame: Frame) -> int | None:
    """Bytes of the frame's JPEG; None if it cannot be decoded."""
    modified_ns, size = _sizes.get(frame.path, (None, 0))
    if modified_ns == frame.modified_ns:
        return size
    data = _encoded(frame)
    return None if data is None else len(data)


def _encoded(frame: Frame) -> bytes | None:
    modified_ns, data = _jpegs.get(frame.path, (None, b""))
    if modified_ns != frame.modified_ns:
        try:
            data = _jpeg(frame.path)
        except (OSError, Image.DecompressionBombError):
            return None
        _jpegs[frame.path] = frame.modified_ns, data
        _sizes[frame.path] = frame.modified_ns, len(data)
    return data


def _jpeg(path: Path) -> bytes:
    """The grid as a JPEG of at most MAX_SIDE a side."""
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    if max(pixels.size) > MAX_SIDE:
        pixels.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return out.getvalue()
