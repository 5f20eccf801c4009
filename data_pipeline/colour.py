"""Colour profiles (ICC.1:2022) and their conversion to sRGB by littleCMS.

Everything is trained on as sRGB (IEC 61966-2-1). An image without a profile is taken as sRGB. A
profile counts as sRGB if converting from it changes no probed colour by more than one of 255
levels, which is the rounding of the profile's own numbers, whatever it is called. Conversion is
relative colorimetric with black point compensation.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.machine import is_of_machine

_MAX_CACHED = 64
_ROUNDING = 1
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
# Without its cache of one pixel a transform has no state, so threads can share it.
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
_COLOUR_FLAGS = _FLAGS | ImageCms.Flags.HIGHRESPRECALC
# littleCMS interpolates grey curves so coarsely that dark pixels are off by 10 levels.
_GREY_FLAGS = _FLAGS | ImageCms.Flags.NOOPTIMIZE
_D50 = (0.9642, 1.0, 0.8249)
# The linear Bradford transform, from XYZ to the responses of cones (ICC.1:2022, annex E).
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273, tables 2 and 3: x and y of white, red, green and blue; the exponent of the curve.
_CODED_PRIMARIES = {
    1: SRGB_PRIMARIES,
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_CODED_CURVES = {4: 2.2, 5: 2.8, 8: 1.0, 13: None}
_SPACES = {"GRAY": "grey", "RGB": "RGB", "CMYK": "CMYK"}


class BrokenProfile(ValueError):
    """A colour profile, or what declares one, is damaged."""


@dataclass(frozen=True)
class _Conversion:
    """What a profile does to pixels of one mode.

    changes: whether it does anything. transform: for colours. table: for grey, the sRGB level of
    each of the 256 or 65536 levels.
    """

    description: str
    changes: bool
    transform: Any = None
    table: npt.NDArray[np.uint8] | None = None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An opaque image in its profile's colours as an RGB image in sRGB.

    image: of mode 1, L, I;16, RGB, CMYK, or one that converts to RGB. Raises BadImage if the
    profile is damaged or one for pixels of another kind.
    """
    kind = {"1": "L", "L": "L", "I;16": "I;16", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if kind == "I;16" and _space(profile) != "GRAY":
        kind, image = "RGB", _eight_bits(image)
    elif kind == "L" and _space(profile) == "RGB":
        kind = "RGB"  # grey pixels with the profile of the picture they were made from
    conversion = _conversion(profile, kind)
    if not conversion.changes:
        return (_eight_bits(image) if kind == "I;16" else image).convert("RGB")
    image = image if image.mode == kind else image.convert(kind)
    if conversion.table is not None:
        return Image.fromarray(conversion.table[np.asarray(image)]).convert("RGB")
    return _applied(conversion.transform, image)


def refuse_unless_srgb(profile: bytes) -> None:
    """Raises BadImage unless RGB pixels in this profile's colours are already sRGB."""
    conversion = _conversion(profile, "RGB")
    if conversion.changes:
        raise BadImage(
            f"has the colour profile {conversion.description!r}, not sRGB, which is converted only "
            "by prepare"
        )


def sixteen_to_eight(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Values from 0 to 65535, rounded to 0 to 255."""
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(sixteen_to_eight(np.asarray(image)))


@functools.lru_cache(_MAX_CACHED)
def _space(profile: bytes) -> str:
    """The colour space that a profile is for: "GRAY", "RGB", "CMYK" or another."""
    with _damage_named():
        return _properties(profile).xcolor_space.strip()


@functools.lru_cache(_MAX_CACHED)
def _conversion(profile: bytes, kind: str) -> _Conversion:
    """The conversion of pixels of mode L, I;16, RGB or CMYK."""
    space = _space(profile)
    if kind not in (("L", "I;16") if space == "GRAY" else (space,)):
        of_image = {"L": "grey", "I;16": "grey"}.get(kind, kind)
        raise BadImage(
            f"its colour profile is for {_SPACES.get(space, space)} pixels, but they are "
            f"{of_image}; remove the profile to have them taken as sRGB"
        )
    with _damage_named():
        description = (_properties(profile).profile_description or "without a name").strip()
        if space == "GRAY":
            return _grey_conversion(profile, kind, description)
        transform = _built(profile, kind, _COLOUR_FLAGS)
        probe = _probe()
        found = np.asarray(_applied(transform, probe)) if kind == "RGB" else None
        changes = found is None or _differ(found, np.asarray(probe))
        return _Conversion(description, changes, transform)


def _grey_conversion(profile: bytes, kind: str, description: str) -> _Conversion:
    levels = np.arange(256 if kind == "L" else 65536)
    plain = levels.astype(np.uint8) if kind == "L" else sixteen_to_eight(levels)
    pixels = levels.astype(np.uint8 if kind == "L" else np.uint16)[None]
    transform = _built(profile, kind, _GREY_FLAGS)
    # Grey stays grey, although white rounds differently in the three channels.
    table = np.asarray(_applied(transform, Image.fromarray(pixels)))[0, :, 1]
    return _Conversion(description, _differ(table, plain), table=table)


def _differ(found: npt.ArrayLike, expected: npt.ArrayLike) -> bool:
    """Whether levels differ by more than rounding."""
    difference = np.asarray(found, np.int16) - np.asarray(expected, np.int16)
    return bool(np.abs(difference).max() > _ROUNDING)


def _applied(transform: Any, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None only for conversion in place
    return converted


def _properties(profile: bytes) -> Any:
    """littleCMS's view of a profile, which is not typed."""
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile


def _built(profile: bytes, kind: str, flags: int) -> Any:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.buildTransform(opened, srgb, kind, "RGB", _INTENT, ImageCms.Flags(flags))


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns what littleCMS and Pillow raise for damaged profiles into BadImage."""
    try:
        yield
    except Exception as error:
        # Errors of many kinds, including UnicodeDecodeError for names that are not ASCII.
        if is_of_machine(error):
            raise
        raise BadImage(
            f"its colour profile is damaged ({error}); remove the profile to have it taken as sRGB"
        ) from error


@functools.cache
def _probe() -> Image.Image:
    """A grid of 18 x 18 x 18 colours, and all greys."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    greys = np.arange(256, dtype=np.uint8)
    return Image.fromarray(np.concatenate([grid, np.repeat(greys[:, None], 3, 1)])[None])


# --- profiles made from a curve and primaries


def coded_profile(primaries: int, curve: int, *, grey: bool) -> bytes:
    """A profile from the code points of ITU-T H.273 for primaries and curve.

    Raises BadImage for those that are not converted, such as the curves of HDR.
    """
    if primaries not in _CODED_PRIMARIES or curve not in _CODED_CURVES:
        raise BadImage(
            f"declares colours that are not converted, such as HDR (H.273: primaries {primaries}, "
            f"curve {curve})"
        )
    return made_profile(_CODED_CURVES[curve], _CODED_PRIMARIES[primaries], grey=grey)


def made_profile(gamma: float | None, xy: tuple[float, ...], *, grey: bool) -> bytes:
    """grey_profile or rgb_profile."""
    return grey_profile(gamma) if grey else rgb_profile(gamma, xy)


def grey_profile(gamma: float | None) -> bytes:
    """A profile for grey pixels with an exponent as curve, or with sRGB's curve for None."""
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def rgb_profile(gamma: float | None, xy: tuple[float, ...]) -> bytes:
    """A profile for RGB pixels. xy: x and y of white, red, green and blue.

    The matrix is that of SMPTE RP 177, adapted from white to D50. Raises BrokenProfile if the
    primaries span no colours.
    """
    white, *primaries = [(xy[i], xy[i + 1], 1 - xy[i] - xy[i + 1]) for i in range(0, 8, 2)]
    columns = np.array(primaries).T
    if abs(np.linalg.det(columns)) < 1e-6 or white[1] <= 0:
        raise BrokenProfile(f"primaries {xy}")
    target = np.array(white) / white[1]
    matrix = columns * np.linalg.solve(columns, target)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ target)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ matrix
    tags = {name + b"TRC": _curve(gamma) for name in (b"r", b"g", b"b")}
    for name, column in zip((b"r", b"g", b"b"), adapted.T, strict=True):
        tags[name + b"XYZ"] = _xyz(column)
    return _profile(b"RGB ", tags)


def _fixed(*values: float) -> bytes:
    """s15Fixed16Number."""
    try:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
    except struct.error as error:
        raise BrokenProfile(f"a number is out of range: {values}") from error


def _xyz(values: npt.ArrayLike) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*np.asarray(values, float).tolist())


def _curve(gamma: float | None) -> bytes:
    """parametricCurveType: function 0, Y = X^g; or 3, sRGB's with its linear part."""
    if gamma is None:
        return b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0\0\0\0\0" + _fixed(gamma)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 4.3, of a display: header of 128 bytes, tag table, tags."""
    name = "declared without a profile".encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(name), 28) + name
    tags = {b"desc": text, b"cprt": text, b"wtpt": _xyz(_D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for signature, content in tags.items():
        table += struct.pack(">4sII", signature, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x04300000, b"mntr", space, b"XYZ ",
                         bytes(12), b"acsp")  # fmt: skip
    return header.ljust(68, b"\0") + _fixed(*_D50).ljust(60, b"\0") + table + body
