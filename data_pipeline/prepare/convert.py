"""Conversion of one image to a training image: decode, upright, sRGB, crop, resize, encode.

An image that could only be converted by changing it silently is rejected with a reason:
transparency, several frames, enlarging, or cropping that was not requested.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from realness.data_pipeline.catalog import RawLayout
from realness.data_pipeline.colour import sixteen_to_eight, to_srgb
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.formats import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    openers,
    why_not_converted,
)
from realness.data_pipeline.headers import embedded_profile, orientation
from realness.data_pipeline.heif import coded_colours
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.png import (
    check_png_chunks,
    declared_profile,
    without_metadata,
)

Crop = Literal["centre", "none"]
Resize = Literal["lanczos", "box"]
Format = Literal["png", "jpeg", "raw"]

# 11585^2. Above it an image costs gigabytes to decode: a decompression bomb, or a gigapixel scan.
MAX_PIXELS = 2**27
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
# Exif 2.3, section 4.6, tag 0x0112.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags and values of TIFF 6.0.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_TRANSPARENT = "has transparent pixels; put it on a background first"


@dataclass(frozen=True)
class Conversion:
    """How every image is converted.

    resolution: side of the square result in pixels. crop: "centre" crops the largest centred
    square, "none" rejects images that are not square. crop_size: side of the centred square to
    crop instead, in pixels of the upright original; smaller images are rejected. resize: the filter
    for shrinking. quality: of JPEG. upscale: whether smaller images are enlarged instead of
    rejected.

    Raises ValueError for a resolution, quality or crop_size out of range, for an unknown choice,
    and for a crop_size with crop "none".
    """

    resolution: int
    crop: Crop = "centre"
    resize: Resize = "lanczos"
    format: Format = "png"
    quality: int = 95
    upscale: bool = False
    crop_size: int | None = None

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
        if self.crop_size is not None:
            self._check_crop_size(self.crop_size)

    def _check_crop_size(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"crop_size={size} must be at least 1 pixel")
        if self.crop == "none":
            raise ValueError(f"crop_size={size} does not combine with crop='none'; use one of them")
        if size < self.resolution and not self.upscale:
            raise ValueError(
                f"crop_size={size} is smaller than resolution={self.resolution}; use a larger "
                "crop, a smaller resolution, or --upscale to enlarge"
            )

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
        pixels = _fit(_to_rgb(*_decode(data)), settings)
    else:
        pixels = _fit(Image.fromarray(np.ascontiguousarray(raw.pixels(data))), settings)
    return _encode(pixels, settings)


def _decode(data: bytes) -> tuple[Image.Image, bytes | None]:
    """The upright image, decoded in full, and its colour profile (None for sRGB)."""
    is_png = data[:8] == PNG_SIGNATURE
    try:
        if is_png:
            check_png_chunks(data)
        plain = without_metadata(data) if is_png else data
        with Image.open(io.BytesIO(plain), formats=openers()) as image:
            _refuse_absurd(image)
            _check_strictly(data)
            image.load()
            grey = image.mode in ("1", "L", "LA", "I;16", "I")
            if is_png:
                profile = declared_profile(data, grey=grey)
            else:
                profile = embedded_profile(image)
                if profile is None and image.format in ("AVIF", "HEIF"):
                    profile = coded_colours(data, grey=grey)
            upright = _upright(image)
            return _black_is_zero(upright, image) if image.format == "TIFF" else upright, profile
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage(why_not_converted(data)) from error
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
    """Finds damage that Pillow ignores: libjpeg's warnings."""
    if data[:2] == JPEG_SIGNATURE:
        try:
            _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            target = "CMYK" if colorspace in ("CMYK", "YCCK") else "GRAY"
            simplejpeg.decode_jpeg(data, colorspace=target)
        except ValueError as error:
            raise BadImage(f"JPEG does not decode ({error})") from error


def _upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT.get(orientation(image))
    return image.copy() if method is None else image.transpose(method)


def _black_is_zero(upright: Image.Image, opened: Image.Image) -> Image.Image:
    """The pixels of a TIFF with black as 0, and 12 bits as 16 (TIFF 6.0, sections 4 and 19).

    Pillow inverts up to 8 bits, but not more. Raises BadImage for pixels of an unknown range.
    """
    tags = getattr(opened, "tag_v2", {})
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise BadImage("holds signed integers, whose range is unknown")
    if opened.mode == "I":
        raise BadImage("holds integers of 32 bits, whose range is unknown")
    if not opened.mode.startswith("I;16"):
        return upright
    values = np.asarray(upright).astype(np.int64)
    if tags.get(_BITS_PER_SAMPLE) == (12,):
        values = (values * 65535 + 2047) // 4095
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = 65535 - values
    return Image.fromarray(values.astype(np.uint16))


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB. Raises BadImage for what has no unique meaning as opaque sRGB."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        transparent = image.info.get("transparency")
        image = _sixteen_bits(image)
        if isinstance(transparent, int) and (np.asarray(image) == transparent).any():
            raise BadImage(_TRANSPARENT)
        if profile is None:
            return Image.fromarray(sixteen_to_eight(np.asarray(image))).convert("RGB")
    elif image.mode == "F":
        raise BadImage("holds floating-point pixels, whose range is unknown")
    elif image.has_transparency_data:
        colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        image = image.convert("RGBA")
        lowest = image.getchannel("A").getextrema()[0]
        if isinstance(lowest, (int, float)) and lowest < 255:
            raise BadImage(_TRANSPARENT)
        # Only grey whose channels are equal is converted here, so the green channel is the grey.
        image = image.getchannel("G") if colours == "L" else image.convert("RGB")
    # Pixels in L*a*b* need no profile; Pillow converts them to sRGB by littleCMS.
    if profile is None or image.mode == "LAB":
        return image.convert("RGB")
    return to_srgb(image, profile)


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, mode I;16, in the machine's byte order."""
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise BadImage(f"holds values from {values.min()} to {values.max()}, beyond 16 bits")
    return Image.fromarray(values.astype(np.uint16))


def _fit(image: Image.Image, settings: Conversion) -> Image.Image:
    width, height = image.size
    side = settings.crop_size or min(width, height)
    if side > min(width, height):
        raise BadImage(f"is {width}x{height}, smaller than the crop of {side}x{side}")
    if (width, height) != (side, side):
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
