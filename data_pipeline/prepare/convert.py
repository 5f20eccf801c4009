"""Conversion of one image to a validated training image: decode, upright, crop, resize, encode.

An image that could only be converted by changing it silently is rejected with a reason:
transparency, several frames, enlarging, or cropping that was not requested.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from realness.data_pipeline.catalog import RawLayout
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.headers import JPEG_SIGNATURE, PNG_SIGNATURE, check_png_chunks
from realness.data_pipeline.machine import is_of_machine

Crop = Literal["centre", "none"]
Resize = Literal["lanczos", "box"]
Format = Literal["png", "jpeg", "raw"]

# 11585^2. Above it an image costs gigabytes to decode: a decompression bomb, or a gigapixel scan.
MAX_PIXELS = 2**27
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
# "JPEG" also opens MPO.
_OPENERS = ["JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM"]


@dataclass(frozen=True)
class Conversion:
    """How every image is converted.

    resolution: side of the square result in pixels. crop: "centre" crops the largest centred
    square, "none" rejects images that are not square. resize: the filter for shrinking. quality:
    of JPEG. upscale: whether smaller images are enlarged instead of rejected.

    Raises ValueError for a resolution or quality out of range, and for an unknown choice.
    """

    resolution: int
    crop: Crop = "centre"
    resize: Resize = "lanczos"
    format: Format = "png"
    quality: int = 95
    upscale: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= 8192:
            raise ValueError(f"resolution={self.resolution} must lie between 1 and 8192 pixels")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} must lie between 1 and 100")
        for name, value, known in (
            ("crop", self.crop, ("centre", "none")),
            ("resize", self.resize, tuple(_FILTERS)),
            ("format", self.format, ("png", "jpeg", "raw")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")

    @property
    def lossless(self) -> bool:
        """Whether the stored pixels are exactly the resized pixels."""
        return self.format != "jpeg"


def convert(data: bytes, settings: Conversion, raw: RawLayout | None = None) -> bytes:
    """Converts an image file's bytes (or raw pixels [3, H, W]) to an encoded training image.

    Decodes it in full. Raises BadImage with the reason if the image is damaged or could only be
    converted by changing it silently.
    """
    if raw is None:
        pixels = _fit(_to_rgb(_decode(data)), settings)
    else:
        pixels = _fit(Image.fromarray(np.ascontiguousarray(raw.pixels(data))), settings)
    return _encode(pixels, settings)


def _decode(data: bytes) -> Image.Image:
    """The upright image, decoded in full."""
    if not data:
        raise BadImage("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_OPENERS) as image:
            _refuse_absurd(image)
            _check_strictly(data)
            image.load()
            return ImageOps.exif_transpose(image)
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage(f"is not a readable image (starts with {data[:8]!r})") from error
    except Exception as error:
        # Pillow's parsers raise errors of many kinds, including TypeError and struct.error.
        if is_of_machine(error):
            raise
        raise BadImage(f"does not decode ({type(error).__name__}: {error})") from error


def _refuse_absurd(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"is {width}x{height}, more than the {MAX_PIXELS:,} pixels allowed")
    num_frames = getattr(image, "n_frames", 1)
    # An MPO is a camera's JPEG followed by previews; its first frame is the photograph.
    if num_frames > 1 and image.format != "MPO":
        raise BadImage(f"is an animation or a stack of {num_frames} frames")


def _check_strictly(data: bytes) -> None:
    """Finds damage that Pillow ignores: wrong PNG CRCs and libjpeg's warnings."""
    if data[:8] == PNG_SIGNATURE:
        check_png_chunks(data)
    elif data[:2] == JPEG_SIGNATURE:
        try:
            _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            target = "CMYK" if colorspace in ("CMYK", "YCCK") else "GRAY"
            simplejpeg.decode_jpeg(data, colorspace=target)
        except ValueError as error:
            raise BadImage(f"JPEG does not decode ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise BadImage("holds floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest = image.getchannel("A").getextrema()[0]
        if isinstance(lowest, (int, float)) and lowest < 255:
            raise BadImage("has transparent pixels; put it on a background first")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise BadImage(f"holds values from {values.min()} to {values.max()}, beyond 16 bits")
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _fit(image: Image.Image, settings: Conversion) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    if width != height:
        if settings.crop == "none":
            raise BadImage(f"is {width}x{height}, not square, and crop is 'none'")
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    size = settings.resolution
    if side == size:
        return image
    if side < size and not settings.upscale:
        raise BadImage(f"is {width}x{height}, smaller than {size}x{size} (--upscale enlarges)")
    return image.resize((size, size), _FILTERS[settings.resize])


def _encode(image: Image.Image, settings: Conversion) -> bytes:
    if settings.format == "raw":
        return np.asarray(image).tobytes()
    buffer = io.BytesIO()
    # Only the pixels are kept: profiles and EXIF were applied or describe the old file.
    plain = Image.fromarray(np.asarray(image))
    if settings.format == "jpeg":
        plain.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
    else:
        plain.save(buffer, "PNG")
    return buffer.getvalue()
