"""Pixels of every kind: bit depths, photometric interpretations, alpha; each to sRGB or refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from realness.data_pipeline import BadImage
from realness.data_pipeline.prepare.convert import Conversion, convert
from tests.helpers import icc
from tests.helpers.data_images import encoded, picture

SIZE = 16
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
RAMP = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE)
COLOURS = np.asarray(picture(2, SIZE))


def tiff(
    photometric: int,
    bits: int,
    data: bytes,
    *,
    channels: int = 1,
    order: str = "<",
    sample_format: int = UNSIGNED,
    more: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """A TIFF of one strip without compression (TIFF 6.0). more: further tags, as (type, values)."""
    tags = {
        256: (3, [SIZE]), 257: (3, [SIZE]), 258: (3, [bits] * channels), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [8]), 277: (3, [channels]), 278: (3, [SIZE]),
        279: (4, [len(data)]), 339: (3, [sample_format] * channels), **(more or {}),
    }  # fmt: skip
    data += bytes(len(data) % 2)
    directory = 8 + len(data)
    behind, extra = directory + 6 + 12 * len(tags), b""
    entries = struct.pack(f"{order}H", len(tags))
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(f"{order}I", behind + len(extra))
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return start + data + entries + bytes(4) + extra


def converted(data: bytes) -> npt.NDArray[np.uint8]:
    raw = convert(data, Conversion(SIZE, format="raw"))
    return np.frombuffer(raw, np.uint8).reshape(SIZE, SIZE, 3)


def packed(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Values of 1, 2, 4 or 12 bits, the first one in the highest bits."""
    digits = (values.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.astype(np.uint8)).tobytes()


def quantised(bits: int) -> npt.NDArray[np.int64]:
    return np.round(RAMP * (2**bits - 1)).astype(np.int64)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey_is_never_negative(photometric: int, order: str, bits: int) -> None:
    """Exact: both sides round once, and no value lies between two levels."""
    values = quantised(bits)
    stored = values if photometric == BLACK_IS_ZERO else 2**bits - 1 - values
    if bits == 16:
        data = tiff(photometric, bits, stored.astype(f"{order}u2").tobytes(), order=order)
    else:
        flat = stored.astype(np.uint8).tobytes() if bits == 8 else packed(stored, bits)
        data = tiff(photometric, bits, flat, order=order)
    if (bits, photometric, order) in UNREADABLE:
        with pytest.raises(BadImage, match=NOT_READ):
            converted(data)
        return
    expected = np.round(values / (2**bits - 1) * 255)
    assert np.array_equal(converted(data), np.repeat(expected[..., None], 3, 2))


NOT_READ = "is a TIFF that Pillow does not read"
UNREADABLE = {
    (12, WHITE_IS_ZERO, "<"), (12, WHITE_IS_ZERO, ">"), (12, BLACK_IS_ZERO, ">"),
    (16, WHITE_IS_ZERO, ">"),
}  # fmt: skip


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_white_is_zero_and_turned(compression: str) -> None:
    """libtiff takes another path through Pillow than pixels that are not compressed."""
    values = quantised(16).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(65535 - values), "TIFF", exif=exif, compression=compression)
    place = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data = data[:place] + struct.pack("<H", WHITE_IS_ZERO) + data[place + 2 :]
    expected = np.rot90(np.round(RAMP * 255), -1)
    assert np.abs(converted(data)[..., 0] - expected).max() <= 1  # 16 bits round, then 8


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colours_keep_their_upper_eight(order: str) -> None:
    values = COLOURS.astype(np.uint16) * 256 + 200
    data = tiff(RGB, 16, values.astype(f"{order}u2").tobytes(), channels=3, order=order)
    assert np.array_equal(converted(data), COLOURS)


def test_palette() -> None:
    """A colour map holds 16 bits per channel (TIFF 6.0, section 5)."""
    table = np.random.default_rng(0).integers(0, 256, (3, 256))
    colour_map = (3, (table * 257).reshape(-1).tolist())
    data = tiff(PALETTE, 8, bytes(range(256)), more={320: colour_map})
    assert np.array_equal(converted(data).reshape(-1, 3), table.T)


def test_inks_without_a_profile() -> None:
    """(255 - ink) (255 - black) / 255; Pillow rounds it within one level."""
    inks = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
    data = tiff(CMYK, 8, inks.tobytes(), channels=4)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert np.abs(converted(data) - expected).max() <= 1


def test_luma_and_chroma() -> None:
    """ITU-T T.871 (JFIF): full range, BT.601's weights; integers within one level."""
    y, cb, cr = (np.random.default_rng(n).integers(64, 192, (SIZE, SIZE)) for n in range(3))
    stored = np.stack([y, cb, cr], -1).astype(np.uint8)
    data = tiff(YCBCR, 8, stored.tobytes(), channels=3)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    expected = np.clip(np.stack([red, green, blue], -1), 0, 255)
    assert np.abs(converted(data) - expected).max() <= 1


def test_lab() -> None:
    """TIFF 6.0, section 23: L* as 0 to 255, a* and b* signed; relative to D50."""
    rng = np.random.default_rng(3)
    lightness = rng.integers(90, 200, (SIZE, SIZE))
    ab = rng.integers(-12, 13, (SIZE, SIZE, 2))
    stored = np.concatenate([lightness[..., None], ab], -1).astype(np.int8).astype(np.uint8)
    data = tiff(LAB, 8, stored.tobytes(), channels=3)
    expected = icc.lab_in_srgb(np.concatenate([lightness[..., None] / 2.55, ab], -1).astype(float))
    # littleCMS interpolates between 33 points per axis: one more level.
    assert np.abs(converted(data) - expected).max() <= 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(BLACK_IS_ZERO, 8, bytes(256), sample_format=SIGNED), "signed integers"),
        (tiff(BLACK_IS_ZERO, 16, bytes(512), sample_format=SIGNED), "signed integers"),
        (tiff(BLACK_IS_ZERO, 32, bytes(1024), sample_format=SIGNED), "signed integers"),
        (tiff(BLACK_IS_ZERO, 32, bytes(1024)), "integers of 32 bits"),
        (tiff(BLACK_IS_ZERO, 32, bytes(1024), sample_format=FLOAT), "floating-point"),
        (tiff(WHITE_IS_ZERO, 32, bytes(1024), sample_format=FLOAT), "floating-point"),
        (
            tiff(RGB, 32, bytes(3072), channels=3, sample_format=FLOAT),
            NOT_READ,
        ),
        (tiff(LAB, 16, bytes(1536), channels=3), NOT_READ),
        (
            tiff(32803, 16, bytes(512)),
            NOT_READ,
        ),  # a camera's raw pixels
    ],
)
def test_unknown_ranges_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        converted(data)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_fourth_channel(kind: int) -> None:
    """TIFF 6.0, section 18: 0 means nothing and is dropped; 1 and 2 are alpha."""
    seen = np.concatenate([COLOURS, np.full((SIZE, SIZE, 1), 255)], -1).astype(np.uint8)
    extra: dict[int, tuple[int, list[int]]] = {338: (3, [kind])}
    assert np.array_equal(converted(tiff(RGB, 8, seen.tobytes(), channels=4, more=extra)), COLOURS)
    seen[0, 0, 3] = 254
    data = tiff(RGB, 8, seen.tobytes(), channels=4, more=extra)
    if kind == 0:
        assert np.array_equal(converted(data), COLOURS)
    else:
        with pytest.raises(BadImage, match="transparent"):
            converted(data)


def png(depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of rows that are not filtered. depth: bits. colour: the PNG specification, table 9."""
    step = len(rows) // SIZE
    body = b"".join(b"\0" + rows[n : n + step] for n in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", SIZE, SIZE, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_pngs(bits: int) -> None:
    values = quantised(bits)
    rows = values.astype(f">u{bits // 8}").tobytes() if bits >= 8 else packed(values, bits)
    expected = np.round(values / (2**bits - 1) * 255)
    assert np.array_equal(converted(png(bits, 0, rows))[..., 1], expected)
    if bits >= 8:  # with alpha
        opaque = np.stack([values, np.full_like(values, 2**bits - 1)], -1)
        with_alpha = converted(png(bits, 4, opaque.astype(f">u{bits // 8}").tobytes()))
        # Pillow keeps the upper 8 of 16 bits here.
        exact = expected if bits == 8 else values >> 8
        assert np.array_equal(with_alpha[..., 1], exact)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_level_of_grey(bits: int) -> None:
    values = quantised(bits)
    rows = values.astype(f">u{bits // 8}").tobytes()
    with pytest.raises(BadImage, match="transparent"):
        converted(png(bits, 0, rows, (b"tRNS", struct.pack(">H", values[3, 3]))))
    unused = values.max() // 2 + 2 if bits == 16 else None
    if unused is not None:
        assert unused not in values
        data = png(bits, 0, rows, (b"tRNS", struct.pack(">H", unused)))
        assert np.array_equal(converted(data), converted(png(bits, 0, rows)))


@pytest.mark.parametrize("colour", [2, 6])
def test_sixteen_bit_pngs_in_colour(colour: int) -> None:
    values = COLOURS.astype(np.uint16) * 256 + 200
    if colour == 6:
        alpha = np.full((SIZE, SIZE, 1), 65535, np.uint16)
        values = np.concatenate([values, alpha], -1)
    assert np.array_equal(converted(png(16, colour, values.astype(">u2").tobytes())), COLOURS)


def test_png_palette() -> None:
    table = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    data = png(8, 3, bytes(range(256)), (b"PLTE", table.tobytes()))
    assert np.array_equal(converted(data).reshape(-1, 3), table)
