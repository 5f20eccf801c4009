"""Decoding of one image into its row of a batch, on the CPU, in the calling thread."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from realness.data_pipeline.catalog import RawLayout
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.formats import JPEG_SIGNATURE
from realness.data_pipeline.headers import check_complete
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.png import without_metadata

UInt8Array = npt.NDArray[np.uint8]
_STRIP_BYTES = 384 * 1024


def check_image(data: bytes, resolution: int) -> None:
    """Raises BadImage unless `data` is a whole JPEG or PNG of resolution^2 upright sRGB pixels."""
    header = check_complete(data)
    if (header.width, header.height) != (resolution, resolution):
        raise BadImage(f"is {header.width}x{header.height}, not {resolution}x{resolution}")


def decode_into(data: bytes, out: UInt8Array, mirror: bool) -> None:
    """Decodes JPEG or PNG bytes into out, uint8 [R, R, 3], contiguous; flips left-right on request.

    Raises BadImage if the decoder finds the data damaged; out may then hold a part of the image.
    """
    check_image(data, out.shape[0])
    decode = _decode_jpeg if data[:2] == JPEG_SIGNATURE else _decode_png
    # The bytes of a row of BGR pixels in reverse order are the flipped row in RGB.
    decode(data, "BGR" if mirror else "RGB", out)
    if mirror:
        _reverse_rows(out)


def copy_raw_into(data: bytes, out: UInt8Array, mirror: bool, layout: RawLayout) -> None:
    """Copies bare pixels into out, uint8 [R, R, 3]; flips left-right on request.

    Raises BadImage if there are too few or too many.
    """
    pixels = layout.pixels(data)
    if layout.order == "HWC" and not mirror:
        np.copyto(out, pixels)
        return
    oriented = pixels[:, ::-1] if mirror else pixels
    for channel in range(3):  # one at a time: NumPy's loop over triples is five times slower
        np.copyto(out[..., channel], oriented[..., channel])


def _reverse_rows(image: UInt8Array) -> None:
    """Reverses the bytes of each row of an image in place: uint8 [R, R, 3], contiguous.

    Works on words, in strips that stay in the processor's cache, so it costs as much as a copy.
    """
    num_rows, row_bytes = len(image), image.shape[1] * 3
    word = math.gcd(row_bytes, 8)
    rows = image.reshape(num_rows, row_bytes).view(f"<u{word}")
    strip_rows = min(num_rows, max(1, _STRIP_BYTES // row_bytes))
    copy = np.empty((strip_rows, row_bytes // word), rows.dtype)
    # Reading with the other byte order reverses each word as it is copied back.
    backwards = copy.view(f">u{word}")[:, ::-1]
    for start in range(0, num_rows, strip_rows):
        strip = rows[start : start + strip_rows]
        np.copyto(copy[: len(strip)], strip)
        np.copyto(strip, backwards[: len(strip)])


def _decode_jpeg(data: bytes, channels: str, out: UInt8Array) -> None:
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=channels, buffer=out)
    except ValueError as error:
        raise BadImage(f"JPEG does not decode ({error})") from error
    if pixels.shape != out.shape:
        raise BadImage(f"decodes to {pixels.shape}, not {out.shape}")


def _decode_png(data: bytes, channels: str, out: UInt8Array) -> None:
    try:
        with Image.open(io.BytesIO(without_metadata(data)), formats=["PNG"]) as image:
            pixels = image.tobytes("raw", channels)
            shape = (image.height, image.width, len(image.getbands()))
    except Exception as error:
        # Pillow's parsers raise errors of many kinds, including SyntaxError and struct.error.
        if is_of_machine(error):
            raise
        raise BadImage(f"PNG does not decode ({type(error).__name__}: {error})") from error
    if shape != out.shape:
        raise BadImage(f"decodes to {shape}, not {out.shape}")
    np.copyto(out, np.frombuffer(pixels, np.uint8).reshape(shape))
