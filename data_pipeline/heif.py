"""The colours that an AVIF or HEIC declares in a box of type `colr`, kind nclx.

Format: ISO/IEC 14496-12, sections 4.2 (boxes) and 12.1.5 (colour information).
"""

from __future__ import annotations

import struct

from realness.data_pipeline.colour import coded_profile

_UNSPECIFIED, _BT709, _SRGB_CURVE = 2, 1, 13
# The curves of BT.709, BT.601 and BT.2020, which are one, and "unspecified". Encoders give them for
# pictures in sRGB, and viewers show such pictures as sRGB.
_TAKEN_AS_SRGB = frozenset({1, _UNSPECIFIED, 6, 14, 15})


def coded_colours(data: bytes, *, grey: bool = False) -> bytes | None:
    """An ICC profile for the colours that the first nclx box declares; None if there is no box.

    For images without an ICC profile, which comes first. Raises BadImage for colours that are not
    converted, such as HDR.
    """
    start, end = _metadata(data)
    found = data.find(b"colrnclx", start, end)
    if found < 0 or found + 12 > end:
        return None
    primaries, curve = struct.unpack_from(">HH", data, found + 8)
    return coded_profile(
        _BT709 if primaries == _UNSPECIFIED else primaries,
        _SRGB_CURVE if curve in _TAKEN_AS_SRGB else curve,
        grey=grey,
    )


def _metadata(data: bytes) -> tuple[int, int]:
    """Start and end of the box `meta`; empty if there is none."""
    start = 0
    while start + 16 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
        end = start + size if size else len(data)
        if kind == b"meta":
            return start, min(end, len(data))
        start = max(end, start + 8)
    return 0, 0
