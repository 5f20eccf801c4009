"""Sample grids made small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
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


def embed(frames: Sequence[Frame], limit: int, max_bytes: int) -> list[tuple[Frame, str]]:
    """`thin`ned frames with their `data:` addresses, in order, within `max_bytes` of JPEG.

    Where they take more, every other one is left out until they fit; the last always stays.
    Files that cannot be decoded are left out.
    """
    while True:
        found = [(frame, _encoded(frame)) for frame in thin(frames, limit)]
        whole = [(frame, data) for frame, data in found if data is not None]
        if len(whole) <= 1 or sum(len(data) for _, data in whole) <= max_bytes:
            return [(frame, _address(data)) for frame, data in whole]
        if limit <= 2:
            frame, data = whole[-1]
            return [(frame, _address(data))]
        limit //= 2


def _address(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _encoded(frame: Frame) -> bytes | None:
    try:
        return _jpeg(frame.path, frame.path.stat().st_mtime_ns)
    except (OSError, Image.DecompressionBombError):
        return None


@lru_cache(maxsize=4 * MAX_FRAMES)
def _jpeg(path: Path, modified_ns: int) -> bytes:
    """The grid as a JPEG of at most MAX_SIDE a side; cached while the file stays the same.

    During training a report is written again and again: only new grids are decoded.
    """
    del modified_ns
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    if max(pixels.size) > MAX_SIDE:
        pixels.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return out.getvalue()
