"""PNG chunks: checks, the declared colours, and a form that holds no metadata but the orientation.

Format: the PNG specification (third edition), sections 5, 11.3.2 (colour space) and 11.3.3 (text).
A chunk is its length (4 bytes), kind (4), data, and a CRC-32 of kind and data (4).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from realness.data_pipeline.colour import (
    SRGB_PRIMARIES,
    BrokenProfile,
    coded_profile,
    made_profile,
)
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.formats import PNG_SIGNATURE

_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# The only texts that matter: what Pillow takes an orientation from.
_ORIENTATION_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_TEXT_BYTES = 512 * 1024
_MAX_PROFILE_BYTES = 16 * 1024**2
_COLOUR = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
# Below this relative difference from 1 / 2.2 a gamma stands for the sRGB curve (libpng's
# PNG_GAMMA_THRESHOLD): files with the sRGB curve are told to say 0.45455.
_GAMMA_THRESHOLD = 0.05
_SRGB_GAMMA = 1 / 2.2


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk up to IEND, with `data` cut short or not.

    start and end are those of the whole chunk; end may lie beyond the given bytes.
    """
    offset = len(PNG_SIGNATURE)
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind, end = data[offset + 4 : offset + 8], offset + 12 + length
        yield kind, offset, end
        if kind == b"IEND":
            return
        offset = end


def check_png_chunks(data: bytes) -> None:
    """Raises BadImage unless all chunks of a PNG are complete, with correct CRCs, up to IEND."""
    view, kind = memoryview(data), b""
    for kind, start, end in png_chunks(data):
        name = kind.decode("latin-1")
        if end > len(data):
            raise BadImage(f"truncated PNG (inside chunk {name})")
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadImage(f"PNG with a wrong CRC in chunk {name}")
    if kind != b"IEND":
        raise BadImage("truncated PNG (no IEND)")


def without_metadata(data: bytes) -> bytes:
    """A PNG without texts and colour chunks, except texts that may give an orientation.

    Pillow refuses images with large compressed texts or profiles, which other decoders skip.
    """
    kept, start = [], 0
    for kind, first, end in png_chunks(data):
        if kind in _COLOUR or (kind in _TEXT and not _gives_orientation(data[first + 8 : end - 4])):
            kept.append(data[start:first])
            start = end
    return b"".join([*kept, data[start:]]) if kept else data


def metadata_only(data: bytes) -> bytes:
    """The start of a PNG, and what may give an orientation: enough for Pillow to open it.

    Returns nothing if the PNG has no such chunk.
    """
    found = [
        data[start:end]
        for kind, start, end in png_chunks(data)
        if end <= len(data)
        and (kind == b"eXIf" or (kind in _TEXT and _gives_orientation(data[start + 8 : end - 4])))
    ]
    if not found:
        return b""
    return b"".join([data[:33], *found, b"\0\0\0\0IDAT"])


def _gives_orientation(text: bytes) -> bool:
    if len(text) > _MAX_TEXT_BYTES or not text.startswith(_ORIENTATION_TEXTS):
        return False
    # A text may be compressed, from one of the next bytes on.
    for start in range(text.index(b"\0") + 1, min(len(text), text.index(b"\0") + 260)):
        if text[start : start + 1] == b"\x78":
            inflater = zlib.decompressobj()
            try:
                inflater.decompress(text[start:], _MAX_TEXT_BYTES)
            except zlib.error:
                continue
            return inflater.eof
    return True


def declared_profile(data: bytes, *, grey: bool = False) -> bytes | None:
    """The ICC profile of a PNG's pixels, made from its other colour chunks if it has no iCCP.

    None stands for sRGB. grey: whether the pixels are grey, for which a profile that is made is
    one for grey. The chunks before the pixels must be complete. Raises BadImage if they are
    damaged or declare colours that are not converted, such as HDR.
    """
    chunks: dict[bytes, bytes] = {}
    for kind, start, end in png_chunks(data):
        if kind == b"IDAT":
            break
        if kind in _COLOUR:
            chunks[kind] = data[start + 8 : end - 4]
    if not chunks:
        return None
    try:
        if b"cICP" in chunks:
            return _coding_points(chunks[b"cICP"], grey)
        if b"iCCP" in chunks:
            return _inflated_profile(chunks[b"iCCP"])
        if b"sRGB" in chunks:
            return None
        return _gamma_and_primaries(chunks.get(b"gAMA"), chunks.get(b"cHRM"), grey)
    except BrokenProfile as error:
        raise BadImage(f"PNG whose colour chunks are damaged ({error})") from error


def _inflated_profile(chunk: bytes) -> bytes:
    name, _, packed = chunk.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(packed[1:], _MAX_PROFILE_BYTES)
    except zlib.error as error:
        raise BrokenProfile(f"iCCP {name.decode('latin-1')!r}: {error}") from error
    if not inflater.eof:
        raise BrokenProfile(f"iCCP {name.decode('latin-1')!r} is cut short or too large")
    return profile


def _coding_points(chunk: bytes, grey: bool) -> bytes | None:
    if len(chunk) != 4:
        raise BrokenProfile(f"cICP has {len(chunk)} bytes")
    primaries, curve, matrix, full_range = chunk
    if matrix or full_range != 1:
        raise BadImage(f"declares YCbCr or a limited range in cICP {tuple(chunk)}")
    return coded_profile(primaries, curve, grey=grey)


def _gamma_and_primaries(gamma: bytes | None, primaries: bytes | None, grey: bool) -> bytes | None:
    """gAMA holds 100,000 times the exponent of encoding; cHRM x and y of white, red, green, blue.

    Without a curve the primaries mean nothing, as in browsers.
    """
    if gamma is None:
        return None
    if len(gamma) != 4 or (exponent := int.from_bytes(gamma, "big") / 100_000) == 0:
        raise BrokenProfile(f"gAMA holds {gamma.hex()}")
    curve = None if abs(exponent / _SRGB_GAMMA - 1) < _GAMMA_THRESHOLD else 1 / exponent
    if primaries is None:
        return None if curve is None else made_profile(curve, SRGB_PRIMARIES, grey=grey)
    if len(primaries) != 32:
        raise BrokenProfile(f"cHRM has {len(primaries)} bytes")
    values = [int.from_bytes(primaries[start : start + 4], "big") for start in range(0, 32, 4)]
    return made_profile(curve, tuple(value / 100_000 for value in values), grey=grey)
