"""Decodes one image into its row of a batch, on the CPU, in the calling thread."""

from __future__ import annotations

import io
import math
import threading

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.catalog import RawLayout
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.headers import JPEG_SIGNATURE, check_complete

UInt8Array = npt.NDArray[np.uint8]
_scratch = threading.local()


def check_image(data: bytes, resolution: int) -> None:
    """Raises BadImage unless `data` is a whole 8-bit RGB JPEG or PNG of resolution^2 pixels."""
    header = check_complete(data)
    if (header.width, header.height) != (resolution, resolution):
        raise BadImage(f"is {header.width}x{header.height}, not {resolution}x{resolution}")


def decode_into(data: bytes, out: UInt8Array, mirror: bool) -> None:
    """Decodes JPEG or PNG bytes into out: uint8 [R, R, 3], contiguous, flipped left-right if asked.

    Raises BadImage where the decoder finds the data damaged; out may then hold a part of it.
    """
    resolution = out.shape[0]
    check_image(data, resolution)
    # The bytes of a row of BGR pixels, backwards, are the flipped row in RGB: see reverse_rows.
    channels = "BGR" if mirror else "RGB"
    if data[:2] != JPEG_SIGNATURE:
        pixels = _decode_png(data, channels, out.shape)
    elif mirror:
        pixels = _decode_jpeg(data, channels, _scratch_image(resolution))
    else:
        _decode_jpeg(data, channels, out)
        return
    if mirror:
        reverse_rows(pixels, out)
    else:
        np.copyto(out, pixels)


def copy_raw_into(data: bytes, out: UInt8Array, mirror: bool, layout: RawLayout) -> None:
    """Copies bare pixels into out: uint8 [R, R, 3], flipped left-right if asked.

    Raises BadImage where there are too few or too many.
    """
    pixels = layout.pixels(data)
    if layout.order == "HWC" and not mirror:
        np.copyto(out, pixels)
        return
    oriented = pixels[:, ::-1] if mirror else pixels
    for channel in range(3):  # one at a time: NumPy's loop over triples is five times slower
        np.copyto(out[..., channel], oriented[..., channel])


def reverse_rows(pixels: UInt8Array, out: UInt8Array) -> None:
    """Writes each row of pixels into out backwards, byte for byte: uint8 [R, R, 3], contiguous.

    Flips an image left-right and turns BGR into RGB, word by word: as quick as a plain copy.
    """
    rows, row_bytes = len(pixels), pixels.shape[1] * 3
    word = math.gcd(row_bytes, 8)
    backwards = pixels.reshape(rows, row_bytes).view(f">u{word}")[:, ::-1]
    np.copyto(out.reshape(rows, row_bytes).view(f"<u{word}"), backwards)


def _scratch_image(resolution: int) -> UInt8Array:
    """Memory for one image, [R, R, 3], the calling thread's own and used again."""
    image = getattr(_scratch, "image", None)
    if image is None or len(image) != resolution:
        image = _scratch.image = np.empty((resolution, resolution, 3), np.uint8)
    return image


def _decode_jpeg(data: bytes, channels: str, out: UInt8Array) -> UInt8Array:
    import simplejpeg

    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=channels, buffer=out)
    except ValueError as error:
        raise BadImage(f"JPEG does not decode ({error})") from error
    if pixels.shape != out.shape:
        raise BadImage(f"decodes to {pixels.shape}, not {out.shape}")
    return pixels


def _decode_png(data: bytes, channels: str, shape: tuple[int, ...]) -> UInt8Array:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = image.tobytes("raw", channels)
            found = (image.height, image.width, len(image.getbands()))
    except Exception as error:
        # Pillow raises whatever its parser stumbles over, SyntaxError and struct.error included.
        raise BadImage(f"PNG does not decode ({type(error).__name__}: {error})") from error
    if found != shape:
        raise BadImage(f"decodes to {found}, not {shape}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)
