"""Headers of encoded images, read without decoding the pixels.

Training accepts only 8-bit RGB JPEG and PNG. The decoders would convert everything else (grey,
palette, alpha, CMYK, 16-bit, EXIF-rotated) in ways that differ or go unnoticed, so such an image is
a BadImage here and `launch/prepare.py` has to convert it. Formats: ITU-T T.81 annex B (JPEG), the
PNG specification (third edition) section 5, Exif 2.3 section 4.6 (orientation, tag 0x0112).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from realness.data_pipeline.errors import BadImage

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
_OTHER_SIGNATURES = {
    b"GIF8": "a GIF",
    b"RIFF": "a WebP (RIFF) file",
    b"BM": "a BMP",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"P2": "a PGM",
    b"P5": "a PGM",
    b"P6": "a PPM",
    b"<": "text or HTML",
}
_PNG_COLOUR = {0: "grey", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG_UNSUPPORTED = {
    **dict.fromkeys((195, 199), "lossless"),
    **dict.fromkeys((197, 198, 205, 206, 207), "hierarchical"),
    **dict.fromkeys((201, 202, 203), "arithmetic-coded"),
}


@dataclass(frozen=True)
class ImageHeader:
    """Width and height in pixels and the encoding of one image."""

    encoding: Literal["jpeg", "png"]
    width: int
    height: int


class HeaderIncomplete(Exception):
    """The header is longer than the given bytes; retry with at least `needed` bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"needs {needed} bytes")
        self.needed = needed


def read_header(data: bytes) -> ImageHeader:
    """Header of an encoded image from its first bytes.

    Raises BadImage for anything but an upright 8-bit RGB JPEG or PNG, and HeaderIncomplete if the
    header is longer than `data`.
    """
    if data[:8] == PNG_SIGNATURE:
        return _read_png_header(data)
    if data[:2] == JPEG_SIGNATURE:
        return _read_jpeg_header(data)[0]
    if not data:
        raise BadImage("the file is empty (0 bytes)")
    for signature, what in _OTHER_SIGNATURES.items():
        if data.lstrip()[: len(signature)] == signature:
            raise BadImage(f"is {what}; training reads JPEG and PNG")
    raise BadImage(f"is neither JPEG nor PNG (starts with {data[:8]!r})")


def check_complete(data: bytes) -> ImageHeader:
    """Header of a whole encoded image, after checking its container to the end.

    PNG: every chunk is complete with a correct CRC, and IEND is present. JPEG: an end-of-image
    marker follows the first scan (in entropy-coded data 0xFF is always stuffed, so the marker
    cannot occur by chance). Raises BadImage if a check fails.
    """
    try:
        if data[:8] == PNG_SIGNATURE:
            header = _read_png_header(data)
            check_png_chunks(data)
            return header
        if data[:2] == JPEG_SIGNATURE:
            header, scan_start = _read_jpeg_header(data)
            if data.rfind(b"\xff\xd9", scan_start) < 0:
                raise BadImage("truncated JPEG (no end-of-image marker)")
            return header
        return read_header(data)
    except HeaderIncomplete as error:
        raise BadImage(
            f"truncated: the header needs {error.needed} bytes, the file has {len(data)}"
        ) from None


def _read_png_header(data: bytes) -> ImageHeader:
    if len(data) < 33:
        raise HeaderIncomplete(33)
    if data[12:16] != b"IHDR":
        raise BadImage("PNG without IHDR")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise BadImage("PNG with a wrong CRC in chunk IHDR")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if colour != 2:
        raise BadImage(f"PNG is {_PNG_COLOUR.get(colour, f'colour type {colour}')}, not RGB")
    if depth != 8:
        raise BadImage(f"PNG has {depth} bits per channel, not 8")
    _check_png_ancillary(data)
    return ImageHeader("png", width, height)


def _check_png_ancillary(data: bytes) -> None:
    """Raises BadImage for tRNS, or an eXIf that rotates, in the chunks before the pixels."""
    offset = 33
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind = data[offset + 4 : offset + 8]
        if kind in (b"IDAT", b"IEND"):
            return
        if kind == b"tRNS":
            raise BadImage("PNG has a transparent colour (tRNS)")
        if kind == b"eXIf" and offset + 12 + length <= len(data):
            _check_orientation(data[offset + 8 : offset + 8 + length])
        offset += 12 + length
    raise HeaderIncomplete(offset + 8)


def check_png_chunks(data: bytes) -> None:
    """Raises BadImage unless all chunks of a PNG are complete, with correct CRCs, up to IEND."""
    view = memoryview(data)
    offset = 8
    while True:
        if offset + 12 > len(data):
            raise BadImage("truncated PNG (no IEND)")
        length = int.from_bytes(view[offset : offset + 4], "big")
        end = offset + 12 + length
        kind = bytes(view[offset + 4 : offset + 8])
        if end > len(data):
            raise BadImage(f"truncated PNG (inside chunk {kind.decode('latin-1')})")
        if zlib.crc32(view[offset + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadImage(f"PNG with a wrong CRC in chunk {kind.decode('latin-1')}")
        if kind == b"IEND":
            return
        offset = end


def _read_jpeg_header(data: bytes) -> tuple[ImageHeader, int]:
    """Header, and the offset of the first scan; walks the marker segments up to it."""
    offset, header = 2, None
    while True:
        if offset + 4 > len(data):
            raise HeaderIncomplete(offset + 4)
        if data[offset] != 0xFF:
            raise BadImage(f"JPEG with no marker at byte {offset}")
        marker = data[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if end > len(data):
            raise HeaderIncomplete(end)
        if marker == 0xDA:
            if header is None:
                raise BadImage("JPEG whose scan comes before its frame header")
            return header, end
        segment = data[offset + 4 : end]
        if marker in (0xC0, 0xC1, 0xC2):
            header = _read_jpeg_frame(segment)
        elif marker in _JPEG_UNSUPPORTED:
            raise BadImage(f"JPEG is {_JPEG_UNSUPPORTED[marker]}, which the decoders do not read")
        elif marker == 0xE1 and segment[:6] == b"Exif\x00\x00":
            _check_orientation(segment[6:])
        elif marker == 0xEE and segment[:5] == b"Adobe" and segment[11:12] == b"\x00":
            raise BadImage("JPEG stores RGB or CMYK without a colour transform (Adobe marker)")
        offset = end


def _read_jpeg_frame(segment: bytes) -> ImageHeader:
    if len(segment) < 6:
        raise BadImage("JPEG with a frame header that is too short")
    depth, height, width, num_components = struct.unpack(">BHHB", segment[:6])
    if num_components != 3:
        colour = {1: "grey", 4: "CMYK"}.get(num_components, f"{num_components}-channel")
        raise BadImage(f"JPEG is {colour}, not RGB")
    if depth != 8:
        raise BadImage(f"JPEG has {depth} bits per channel, not 8")
    return ImageHeader("jpeg", width, height)


def _check_orientation(tiff: bytes) -> None:
    """Raises BadImage if the TIFF block of an Exif segment specifies a rotation or a flip."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    num_entries = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(num_entries):
        field = tiff[start + 2 + 12 * entry : start + 14 + 12 * entry]
        if len(field) < 12:
            return
        if int.from_bytes(field[:2], order) == 0x0112:
            orientation = int.from_bytes(field[8:10], order)
            if 2 <= orientation <= 8:
                raise BadImage(f"is EXIF-rotated (orientation {orientation})")
            return
