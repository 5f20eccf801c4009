"""Colours that AVIF and HEIC declare by code points are followed, or refused if they are of HDR."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from realness.data_pipeline import BadImage
from realness.data_pipeline.heif import coded_colours
from realness.data_pipeline.prepare.convert import Conversion, convert
from tests.helpers import icc
from tests.helpers.data_images import encoded, picture

SIZE = 32
# One level each for the rounding of the result, of the profile's numbers and of its matrix.
MOST = 3


def coded(primaries: int, curve: int, **options: object) -> bytes:
    """An AVIF with these code points in its nclx box; its pixels stay as they are."""
    data = encoded(picture(3, SIZE), "AVIF", quality=100, subsampling="4:4:4", **options)
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">HH", primaries, curve) + data[place + 4 :]


def stored(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def converted(data: bytes) -> npt.NDArray[np.uint8]:
    raw = convert(data, Conversion(SIZE, format="raw"))
    return np.frombuffer(raw, np.uint8).reshape(SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("primaries", "curve", "space", "decode"),
    [
        (12, 13, "P3", icc.srgb_decoded),
        (12, 1, "P3", icc.srgb_decoded),
        (1, 8, "sRGB", icc.power(1.0)),
        (2, 4, "sRGB", icc.power(2.2)),
    ],
)
def test_code_points_are_followed(
    primaries: int, curve: int, space: str, decode: icc.Curve
) -> None:
    data = coded(primaries, curve)
    expected = icc.in_srgb(stored(data), space, decode)
    assert np.abs(converted(data) - expected).max() <= MOST
    assert np.abs(converted(data).astype(int) - stored(data)).max() > 2 * MOST


@pytest.mark.parametrize(("primaries", "curve"), [(1, 13), (2, 2), (1, 1), (1, 6)])
def test_what_stands_for_srgb_changes_no_pixel(primaries: int, curve: int) -> None:
    data = coded(primaries, curve)
    assert np.array_equal(converted(data), stored(data))


@pytest.mark.parametrize(("primaries", "curve"), [(9, 16), (9, 18), (11, 13)])
def test_other_colours_are_refused(primaries: int, curve: int) -> None:
    with pytest.raises(BadImage, match=f"not converted.*primaries {primaries}, curve {curve}"):
        convert(coded(primaries, curve), Conversion(SIZE))


def test_a_profile_comes_first() -> None:
    profile = icc.rgb_profile("sRGB", icc.srgb_decoded)
    data = encoded(picture(3, SIZE), "AVIF", quality=100, icc_profile=profile)
    place = data.index(b"colrnclx") + 8
    hdr = data[:place] + struct.pack(">HH", 9, 16) + data[place + 4 :]
    assert np.array_equal(converted(hdr), stored(hdr))


def test_bytes_of_any_kind_are_no_trouble() -> None:
    """Boxes without an end, of no size, cut short, and the letters outside of the metadata."""
    box = struct.pack(">I4s", 40, b"meta") + b"colrnclx"
    for data in (b"", bytes(40), box, box + bytes(2), b"\xff" * 64,
                 struct.pack(">I4sQ", 1, b"free", 2**62) + bytes(9),
                 struct.pack(">I4s", 32, b"mdat") + b"colrnclx" + bytes(16)):  # fmt: skip
        assert coded_colours(data) is None
