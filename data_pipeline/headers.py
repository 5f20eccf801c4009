"""Headers of encoded images, read without decoding the pixels.

Training accepts only upright 8-bit RGB JPEG and PNG in sRGB. The decoders would convert everything
else (grey, palette, alpha, CMYK, 16-bit, EXIF-rotated, other colour spaces) in ways that differ or
go unnoticed, so such an image is a BadImage here and `launch/prepare.py` has to convert it.
Orientation and profile are read by Pillow, here and there, so that both see the same. Formats:
ITU-T T.81 annex B (JPEG), the PNG specification (third edition) section 5, Exif 2.3 section 4.6.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from PIL import Image, JpegImagePlugin, PngImagePlugin

from realness.data_pipeline.colour import refuse_unless_srgb
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.formats import JPEG_SIGNATURE, PNG_SIGNATURE, why_not_trained
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.png import (
    check_png_chunks,
    declared_profile,
    metadata_only,
    png_chunks,
)

T = TypeVar("T")
_PNG_COLOUR = {0: "grey", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG_UNSUPPORTED = {
    **dict.fromkeys((195, 199), "lossless"),
    **dict.fromkeys((197, 198, 205, 206, 207), "hierarchical"),
    **dict.fromkeys((201, 202, 203), "arithmetic-coded"),
}
_JPEG_METADATA = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0")
_ORIENTATION = 0x0112

# Pillow tells of odd metadata on the terminal, per image. Damage that matters makes a BadImage, and
# a damaged EXIF block counts as none.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


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

    Raises BadImage for anything but an upright 8-bit RGB JPEG or PNG in sRGB, and HeaderIncomplete
    if the header is longer than `data`.
    """
    if data[:8] == PNG_SIGNATURE:
        return _read_png_header(data)
    if data[:2] == JPEG_SIGNATURE:
        return _read_jpeg_header(data)[0]
    raise BadImage(why_not_trained(data))


def check_complete(data: bytes) -> ImageHeader:
    """Header of a whole encoded image, after checking its container to the end.

    PNG: every chunk is complete with a correct CRC, and IEND is present. JPEG: an end-of-image
    marker follows the first scan (in entropy-coded data 0xFF is always stuffed, so the marker
    cannot occur by chance). Raises BadImage if a check fails.
    """
    try:
        if data[:8] == PNG_SIGNATURE:
            check_png_chunks(data)
            return _read_png_header(data)
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
    """Raises BadImage for tRNS, a rotation, or colours other than sRGB, before the pixels."""
    needed = len(data) + 1
    for kind, _, end in png_chunks(data):
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"tRNS":
            raise BadImage("PNG has a transparent colour (tRNS)")
        needed = end + 8
    else:
        raise HeaderIncomplete(needed)
    if start := metadata_only(data):
        _refuse_rotated(_opened(PngImagePlugin.PngImageFile, start))
    profile = declared_profile(data)
    if profile is not None:
        refuse_unless_srgb(profile)


def _read_jpeg_header(data: bytes) -> tuple[ImageHeader, int]:
    """Header, and the offset of the first scan; walks the marker segments up to it."""
    offset, header, has_metadata = 2, None, False
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
            if has_metadata:
                _check_jpeg_metadata(data[:end])
            return header, end
        segment = data[offset + 4 : end]
        if marker in (0xC0, 0xC1, 0xC2):
            header = _read_jpeg_frame(segment)
        elif marker in _JPEG_UNSUPPORTED:
            raise BadImage(f"JPEG is {_JPEG_UNSUPPORTED[marker]}, which the decoders do not read")
        elif marker in (0xE1, 0xE2):
            has_metadata = has_metadata or segment.startswith(_JPEG_METADATA)
        elif marker == 0xEE and segment[:5] == b"Adobe" and segment[11:12] == b"\x00":
            raise BadImage("JPEG stores RGB or CMYK without a colour transform (Adobe marker)")
        offset = end


def _check_jpeg_metadata(start: bytes) -> None:
    """Raises BadImage for a rotation or colours other than sRGB. start: up to the first scan."""
    image = _opened(JpegImagePlugin.JpegImageFile, start)
    _refuse_rotated(image)
    profile = embedded_profile(image)
    if profile is not None:
        refuse_unless_srgb(profile)


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


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, as Pillow reads it from EXIF or XMP: 1 to 8.

    1, upright, also stands for an EXIF block that is damaged or holds something else.
    """
    try:
        # Not that of PngImageFile, which would decode the pixels.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception as error:
        # Pillow's parsers raise errors of many kinds, including SyntaxError and struct.error.
        if is_of_machine(error):
            raise
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def embedded_profile(image: Image.Image) -> bytes | None:
    """The ICC profile of an opened image, or None for none. Raises BadImage if it is incomplete."""
    profile = image.info.get("icc_profile", b"")
    if profile is None:
        raise BadImage("its colour profile is damaged (parts are missing)")
    return profile or None


def _refuse_rotated(image: Image.Image) -> None:
    if (found := orientation(image)) != 1:
        raise BadImage(f"is EXIF-rotated (orientation {found})")


def _opened(opener: Callable[[io.BytesIO], T], data: bytes) -> T:
    """The image as Pillow opens it, whose header and metadata are then parsed."""
    try:
        return opener(io.BytesIO(data))
    except Exception as error:
        if is_of_machine(error):
            raise
        raise BadImage(f"has a header that Pillow does not read ({error})") from error
