"""Decodes one image into its row of a batch, on the CPU, in the calling thread."""

from __future__ import annotations

import io
import threading

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.headers import check_complete

UInt8Array = npt.NDArray[np.uint8]
_scratch = threading.local()


def check_image(data: bytes, resolution: int) -> None:
    """Raises BadImage unless `data` is a whole 8-bit RGB JPEG or PNG of resolution^2 pixels."""
    header = check_complete(data)
    if (header.width, header.height) != (resolution, resolution):
        raise BadImage(f"is {header.width}x{header.height}, not {resolution}x{resolution}")


def decode_into(data: bytes, out: UInt8Array, mirror: bool) -> None:
    """Decodes JPEG or PNG bytes into out: uint8 [3, R, R], flipped left-right if asked.

    Raises BadImage where the decoder finds the data damaged.
    """
    resolution = out.shape[-1]
    check_image(data, resolution)
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, resolution)
    else:
        pixels = _decode_png(data)
    if pixels.shape != (resolution, resolution, 3):
        raise BadImage(f"decodes to {pixels.shape}, not {(resolution, resolution, 3)}")
    oriented = pixels[:, ::-1] if mirror else pixels
    for channel in range(3):  # one at a time: NumPy's loop over all three is slower when flipped
        np.copyto(out[channel], oriented[:, :, channel])


def copy_raw_into(data: bytes, out: UInt8Array, mirror: bool) -> None:
    """Copies bare pixels [3, R, R] into out, flipped left-right if asked. Raises BadImage."""
    if len(data) != out.size:
        raise BadImage(f"holds {len(data):,} bytes, not the {out.size:,} of {out.shape}")
    pixels = np.frombuffer(data, np.uint8).reshape(out.shape)
    np.copyto(out, pixels[..., ::-1] if mirror else pixels)


def _decode_jpeg(data: bytes, resolution: int) -> UInt8Array:
    import simplejpeg

    buffer = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.shape[0] != resolution:
        buffer = _scratch.buffer = np.empty((resolution, resolution, 3), np.uint8)
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer)
    except ValueError as error:
        raise BadImage(f"JPEG does not decode ({error})") from error


def _decode_png(data: bytes) -> UInt8Array:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image)
    except Exception as error:
        # Pillow raises whatever its parser stumbles over, SyntaxError and struct.error included.
        raise BadImage(f"PNG does not decode ({type(error).__name__}: {error})") from error
