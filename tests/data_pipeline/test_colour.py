"""Colours: everything is converted to sRGB by prepare, and refused by training unless it is sRGB.

Tolerances. Rounding to whole levels is off by 0.5. littleCMS converts 8-bit RGB in fixed point
with 14 bits after the point: three products and their sum are off by at most 4 * 2^-15 in linear
light, and the steepest part of sRGB's curve makes 12.92 * 255 levels of that: 0.4. The profiles'
five decimals add less than 0.1. On average rounding is off by 0.25.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from realness.data_pipeline import BadImage, DataError, check_images, open_catalog
from realness.data_pipeline.headers import read_header
from realness.data_pipeline.prepare.convert import Conversion, convert
from realness.data_pipeline.prepare.prepare import prepare
from tests.helpers import icc
from tests.helpers.data_images import (
    encoded,
    image_files,
    picture,
    prepared_pixels,
    trained_pixels,
    write_folder,
)

MOST, MEAN = 1.0, 0.3
SIZE = 48
SPACES = {
    "P3": icc.srgb_decoded,
    "Adobe": icc.power(563 / 256),  # Adobe RGB (1998), section 4.3.1.2
    "sRGB": icc.power(1.8),
}
BUILT_IN = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PROFILES = {
    "littleCMS": BUILT_IN,
    "4096 points": icc.rgb_profile("sRGB", icc.srgb_decoded),
    "1024 points, as the common one": icc.rgb_profile("sRGB", icc.srgb_decoded, points=1024),
    "called P3": icc.rgb_profile("sRGB", icc.srgb_decoded, "Display P3"),
}


def noise(seed: int = 0, channels: int = 3) -> npt.NDArray[np.uint8]:
    shape = (SIZE, SIZE, channels) if channels > 1 else (SIZE, SIZE)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def converted(data: bytes) -> npt.NDArray[np.uint8]:
    return prepared_pixels(data, SIZE)


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    return trained_pixels(data, SIZE)


def assert_close(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.float64]) -> None:
    error = np.abs(found - expected)
    assert error.max() <= MOST
    assert error.mean() <= MEAN


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunks(image: Image.Image, **chunks: bytes) -> bytes:
    """A PNG with these chunks after IHDR."""
    png = encoded(image, "PNG")
    return png[:33] + b"".join(chunk(k.encode(), v) for k, v in chunks.items()) + png[33:]


def chrm(space: str) -> bytes:
    points = (icc.D65, *icc.PRIMARIES[space])
    return struct.pack(">8I", *(round(100_000 * value) for point in points for value in point))


def gama(exponent: float) -> bytes:
    return struct.pack(">I", round(100_000 * exponent))


# --- conversion


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
    ],
)
def test_every_container_comes_out_as_the_formula_says(
    space: str, kind: str, options: dict[str, object]
) -> None:
    profile = icc.rgb_profile(space, SPACES[space])
    data = encoded(Image.fromarray(noise()), kind, icc_profile=profile, **options)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    found = converted(data)
    assert_close(found, icc.in_srgb(stored, space, SPACES[space]))
    assert np.abs(found.astype(int) - stored).max() > 10


def test_adobe_and_p3_greys_stay_grey() -> None:
    """The three share their white, so grey has no colour in any of them."""
    ramp = Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8) * 5, (SIZE, 1))).convert("RGB")
    data = encoded(ramp, "PNG", icc_profile=icc.rgb_profile("P3", icc.srgb_decoded))
    assert np.abs(converted(data).astype(int) - np.asarray(ramp)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P", "PA"])
def test_modes_of_colour(mode: str) -> None:
    profile = icc.rgb_profile("P3", icc.srgb_decoded)
    image = picture(5, SIZE)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode[0] == "P" else image
    stored = image.convert("RGB")
    kind = "TIFF" if mode == "PA" else "PNG"
    data = encoded(image.convert(mode), kind, icc_profile=profile)
    assert_close(converted(data), icc.in_srgb(np.asarray(stored), "P3", icc.srgb_decoded))


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "big"])
def test_modes_of_grey(mode: str, gamma: float) -> None:
    """Exact to rounding: littleCMS does not interpolate, and grey has no matrix."""
    if mode in ("L", "LA"):
        levels = noise(1, 1)
        image, light = Image.fromarray(levels).convert(mode), levels / 255
    else:
        values = np.random.default_rng(2).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
        image, light = Image.fromarray(values), values / 65535
    data = encoded(image, "TIFF" if mode == "big" else "PNG",
                   icc_profile=icc.grey_profile(icc.power(gamma)))  # fmt: skip
    found = converted(data)
    assert (found == found[..., :1]).all()
    # A table of 4096 points, each rounded to 16 bits, adds to the rounding, most near black: there
    # the sampled curve is a chord of the power.
    expected = 255 * icc.srgb_encoded(
        np.interp(light, np.linspace(0, 1, 4096), np.linspace(0, 1, 4096) ** gamma)
    )
    assert np.abs(found[..., 0] - expected).max() <= 0.5 + 2**-16 * 12.92 * 255 + 0.01


def test_grey_pixels_with_a_profile_for_colour() -> None:
    levels = noise(1, 1)
    curve = icc.power(1.8)
    data = encoded(Image.fromarray(levels), "PNG", icc_profile=icc.rgb_profile("sRGB", curve))
    expected = icc.in_srgb(np.repeat(levels[..., None], 3, 2), "sRGB", curve)
    assert_close(converted(data), expected)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_are_converted_by_their_profile(kind: str) -> None:
    """littleCMS samples the profile at 23 points per ink and interpolates; that adds one level."""
    smooth = np.asarray(picture(3, SIZE).convert("CMYK").resize((SIZE, SIZE)))
    mixed = np.concatenate([smooth[..., :3], smooth[::-1, :, :1]], -1)
    image = Image.frombytes("CMYK", (SIZE, SIZE), mixed.tobytes())
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(image, kind, icc_profile=icc.cmyk_profile(), **options)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    error = np.abs(converted(data) - icc.inks_in_srgb(stored))
    assert error.max() <= MOST + 1
    assert error.mean() <= 2 * MEAN
    assert not np.array_equal(
        converted(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


# --- PNG chunks


@pytest.mark.parametrize(
    ("chunks", "space", "curve"),
    [
        ({"gAMA": gama(1.0)}, "sRGB", icc.power(1.0)),
        ({"gAMA": gama(1 / 1.8)}, "sRGB", icc.power(1.8)),
        ({"gAMA": gama(1 / 2.2), "cHRM": chrm("P3")}, "P3", icc.srgb_decoded),
        ({"gAMA": gama(0.3), "cHRM": chrm("Adobe")}, "Adobe", icc.power(1 / 0.3)),
        ({"cICP": bytes([12, 13, 0, 1]), "sRGB": b"\0"}, "P3", icc.srgb_decoded),
        ({"cICP": bytes([1, 8, 0, 1])}, "sRGB", icc.power(1.0)),
    ],
)
def test_png_chunks_are_followed(chunks: dict[str, bytes], space: str, curve: icc.Curve) -> None:
    data = with_chunks(Image.fromarray(noise(4)), **chunks)
    assert_close(converted(data), icc.in_srgb(noise(4), space, curve))
    with pytest.raises(BadImage, match="colour profile"):
        read_header(data)
    grey = with_chunks(Image.fromarray(noise(4, 1)), **chunks)
    expected = 255 * icc.srgb_encoded(curve(noise(4, 1) / 255))
    assert_close(converted(grey)[..., 0], expected)


@pytest.mark.parametrize(
    "chunks",
    [
        {"sRGB": b"\0", "gAMA": gama(1.0)},
        {"gAMA": gama(0.45455), "cHRM": chrm("sRGB")},
        {"gAMA": gama(0.45)},
        {"cHRM": chrm("P3")},
        {"cICP": bytes([1, 13, 0, 1]), "gAMA": gama(1.0)},
        {"iCCP": b"x\0\0" + zlib.compress(BUILT_IN), "gAMA": gama(1.0)},
    ],
    ids=lambda chunks: " ".join(chunks),
)
def test_png_chunks_of_srgb_change_nothing(chunks: dict[str, bytes]) -> None:
    data = with_chunks(Image.fromarray(noise(4)), **chunks)
    assert np.array_equal(converted(data), noise(4))
    assert np.array_equal(decoded(data), noise(4))


# --- what is sRGB under any name, and what is damaged


@pytest.mark.parametrize("name", SRGB_PROFILES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_srgb_under_any_name_changes_no_pixel(name: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(noise(6))
    tagged = encoded(image, kind, icc_profile=SRGB_PROFILES[name], **options)
    plain = encoded(image, kind, **options)
    assert np.array_equal(converted(tagged), converted(plain))
    if kind in ("PNG", "JPEG"):
        assert np.array_equal(decoded(tagged), decoded(plain))


def test_another_space_called_srgb_is_converted() -> None:
    profile = icc.rgb_profile("P3", icc.srgb_decoded, "sRGB IEC61966-2.1")
    data = encoded(Image.fromarray(noise()), "PNG", icc_profile=profile)
    assert_close(converted(data), icc.in_srgb(noise(), "P3", icc.srgb_decoded))


def bad_iccp(image: Image.Image) -> bytes:
    return with_chunks(image, iCCP=b"x\0\0garbage")


def missing_part(image: Image.Image) -> bytes:
    data = encoded(image, icc_profile=icc.rgb_profile("P3", icc.srgb_decoded) + bytes(140_000))
    start = data.index(b"ICC_PROFILE\0\2") - 4
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


DAMAGED: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "not compressed": (bad_iccp, "colour chunks are damaged"),
    "cut": (lambda im: encoded(im, "PNG", icc_profile=BUILT_IN[:200]), "profile is damaged"),
    "garbage": (lambda im: encoded(im, icc_profile=bytes(range(256))), "profile is damaged"),
    "part missing": (missing_part, "parts are missing|bad ICC marker"),
    "name not ASCII": (
        lambda im: encoded(im, icc_profile=BUILT_IN[:16] + b"R\xe1\xff " + BUILT_IN[20:]),
        "profile is damaged",
    ),
    "for grey": (lambda im: encoded(im, icc_profile=icc.grey_profile(icc.power(2))), "for grey"),
    "for inks": (lambda im: encoded(im, icc_profile=icc.cmyk_profile()), "for CMYK pixels"),
    "gAMA": (lambda im: with_chunks(im, gAMA=bytes(4)), "gAMA holds"),
    "cHRM": (lambda im: with_chunks(im, gAMA=gama(0.5), cHRM=bytes(32)), "primaries"),
    "HDR": (lambda im: with_chunks(im, cICP=bytes([9, 16, 0, 1])), "HDR"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_profiles_are_refused_alike(name: str) -> None:
    make, reason = DAMAGED[name]
    data = make(picture(1, SIZE))
    with pytest.raises(BadImage, match=reason):
        convert(data, Conversion(SIZE))
    with pytest.raises(BadImage, match=reason):
        read_header(data)


# --- whole sets


def test_a_set_in_another_space_is_prepared_first(tmp_path: Path) -> None:
    profile = icc.rgb_profile("P3", icc.srgb_decoded, "Display P3")
    files = {
        f"{seed}.{kind}": encoded(picture(seed, SIZE), kind.upper(), icc_profile=profile)
        for seed in range(4)
        for kind in ("png", "jpeg")
    }
    source = write_folder(tmp_path / "in", files)
    with pytest.raises(DataError, match=r"'Display P3', not sRGB.*run `python launch/prepare\.py"):
        check_images(open_catalog(source), SIZE)
    report = prepare(source, tmp_path / "out", Conversion(SIZE))
    assert (report.num_images, report.num_rejected) == (8, 0)
    catalog = open_catalog(tmp_path / "out")
    check_images(catalog, SIZE)
    first = decoded(catalog.read(1))
    stored = np.asarray(picture(0, SIZE))
    assert_close(first, icc.in_srgb(stored, "P3", icc.srgb_decoded))


def test_a_few_in_another_space_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profile = icc.rgb_profile("P3", icc.srgb_decoded, "Display P3")
    odd = encoded(picture(1), icc_profile=profile)
    catalog = open_catalog(write_folder(tmp_path, image_files(9) | {"odd.jpg": odd}))
    check_images(catalog, 32, max_bad_images=1)
    assert "bad image odd.jpg: has the colour profile 'Display P3', not sRGB" in caplog.text


def test_threads_share_transforms() -> None:
    profiles = [icc.rgb_profile(space, curve) for space, curve in SPACES.items()]
    images = [Image.fromarray(noise(n)) for n in range(60)]
    files = [encoded(im, "PNG", icc_profile=profiles[n % 3]) for n, im in enumerate(images)]
    alone = [converted(data) for data in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(converted, files))
    assert all(map(np.array_equal, alone, together))
