"""Orientation and other metadata: training and prepare read it alike, and texts do not matter."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from realness.data_pipeline import BadImage, check_images, open_catalog
from realness.data_pipeline.decoding.dali import why_not_available
from realness.data_pipeline.headers import read_header
from realness.data_pipeline.prepare.convert import Conversion, convert
from tests.helpers import icc
from tests.helpers.data_images import (
    encoded,
    picture,
    prepared_pixels,
    trained_pixels,
    write_folder,
)
from tests.helpers.streams import stream_of

SIZE = 32
UPRIGHT = np.asarray(picture(7, SIZE))
# Orientation 6: the stored rows start at the right-hand side of the scene.
TURNED = np.rot90(UPRIGHT, -1)
LOSSLESS = {"lossless": True}


def tiff(order: str, kind: int, value: bytes, count: int = 1) -> bytes:
    """An EXIF block of one entry, the orientation, stored as a type of TIFF 6.0, section 2."""
    start = b"II" if order == "<" else b"MM"
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return start + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4)


def exif(order: str, kind: int, value: bytes) -> bytes:
    return b"Exif\0\0" + tiff(order, kind, value)


SIX = tiff("<", 3, b"\6\0")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW = b"Raw profile type exif\0"
HEX = (b"Exif\0\0" + SIX).hex().encode()


def jpeg(exif_block: bytes = b"", comment: bytes = b"") -> bytes:
    options = {"exif": exif_block, "comment": comment, "quality": 95, "subsampling": 0}
    return encoded(picture(7, SIZE), "JPEG", **options)


def segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment at its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(*chunks: tuple[bytes, bytes], last: bool = False) -> bytes:
    """A PNG with these chunks after IHDR, or before IEND."""
    data = encoded(picture(7, SIZE), "PNG")
    place = len(data) - 12 if last else 33
    return data[:place] + b"".join(chunk(*parts) for parts in chunks) + data[place:]


TURNING: dict[str, Callable[[], bytes]] = {
    "SHORT, little-endian": lambda: jpeg(b"Exif\0\0" + SIX),
    "SHORT, big-endian": lambda: jpeg(exif(">", 3, b"\0\6")),
    "LONG, little-endian": lambda: jpeg(exif("<", 4, b"\6\0\0\0")),
    "LONG, big-endian": lambda: jpeg(exif(">", 4, b"\0\0\0\6")),
    "prefix twice": lambda: jpeg(b"Exif\0\0Exif\0\0" + SIX),
    "in a second segment": lambda: segment(jpeg(), 0xE1, b"Exif\0\0" + SIX),
    "XMP": lambda: segment(jpeg(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    "eXIf": lambda: png((b"eXIf", SIX)),
    "eXIf with a prefix": lambda: png((b"eXIf", b"Exif\0\0" + SIX)),
    "eXIf at the end": lambda: png((b"eXIf", SIX), last=True),
    "XMP in a PNG": lambda: png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "XMP in a PNG, compressed": lambda: png(
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))
    ),
    "as ImageMagick writes it": lambda: png(
        (b"zTXt", RAW + b"\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(HEX) // 2, HEX)))
    ),
}
UPRIGHTS: dict[str, Callable[[], bytes]] = {
    "orientation 0": lambda: jpeg(exif("<", 3, b"\0\0")),
    "orientation 9": lambda: jpeg(exif("<", 3, b"\x09\0")),
    "BYTE": lambda: jpeg(exif(">", 1, b"\6")),
    "ASCII": lambda: jpeg(exif("<", 2, b"6")),
    "cut": lambda: jpeg(b"Exif\0\0" + SIX[:14]),
    "empty": lambda: jpeg(b"Exif\0\0"),
    "garbage": lambda: jpeg(b"Exif\0\0garbage" * 9),
    "garbage in a PNG": lambda: png((b"eXIf", b"garbage")),
    "not hexadecimal": lambda: png((b"tEXt", RAW + b"\nexif\n 4\nxyz\n")),
    "comment": lambda: jpeg(comment=b"tiff:Orientation=6"),
    "movie behind it": lambda: jpeg(b"Exif\0\0" + tiff("<", 3, b"\1\0")) + bytes(50_000),
}


def converted(data: bytes) -> npt.NDArray[np.uint8]:
    return prepared_pixels(data, SIZE)


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    return trained_pixels(data, SIZE)


def differs(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", TURNING)
def test_what_prepare_turns_training_refuses(name: str) -> None:
    data = TURNING[name]()
    assert differs(converted(data), TURNED) < 3 < differs(converted(data), UPRIGHT)
    with pytest.raises(BadImage, match="EXIF-rotated \\(orientation 6\\)"):
        decoded(data)
    if "at the end" not in name:
        with pytest.raises(BadImage, match="EXIF-rotated"):
            read_header(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UPRIGHTS)
def test_what_prepare_leaves_training_takes(name: str) -> None:
    data = UPRIGHTS[name]()
    assert differs(converted(data), UPRIGHT) < 3
    assert np.array_equal(converted(data), decoded(data))
    read_header(data)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_all_orientations_in_all_containers(turn: int, kind: str) -> None:
    """The rows and columns of the scene that come first, from Exif 2.3, table 6."""
    block = Image.Exif()
    block[0x0112] = turn
    options = {"PNG": {}, "TIFF": {}, "WEBP": LOSSLESS, "JPEG": {"quality": 98, "subsampling": 0}}
    data = encoded(picture(7, SIZE), kind, exif=block, **options[kind])
    scene = {
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.swapaxes(0, 1),
        6: UPRIGHT[::-1].swapaxes(0, 1),
        7: UPRIGHT[::-1, ::-1].swapaxes(0, 1),
        8: UPRIGHT[:, ::-1].swapaxes(0, 1),
    }[turn]
    assert differs(converted(data), scene) < (3 if kind == "JPEG" else 0.001)


# --- texts

LONG = zlib.compress(b"workflow " * 200_000)
TEXTS: dict[str, Callable[[], bytes]] = {
    "zTXt": lambda: png((b"zTXt", b"prompt\0\0" + LONG)),
    "zTXt after the pixels": lambda: png((b"zTXt", b"prompt\0\0" + LONG), last=True),
    "tEXt": lambda: png((b"tEXt", b"workflow\0" + b"a" * 2_000_000)),
    "iTXt": lambda: png((b"iTXt", b"prompt\0\1\0\0\0" + LONG)),
    "65 MB of them": lambda: png(*[(b"zTXt", b"p\0\0" + zlib.compress(bytes(1_000_000)))] * 65),
    "XMP": lambda: png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG)),
    "EXIF as text": lambda: png((b"zTXt", RAW + b"\0" + LONG)),
    "not compressed": lambda: png((b"zTXt", b"prompt\0\0garbage"), (b"iTXt", b"prompt")),
    "bytes behind the end": lambda: png() + bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_do_not_matter(tmp_path: Path, name: str) -> None:
    data = TEXTS[name]()
    assert np.array_equal(converted(data), UPRIGHT)
    assert np.array_equal(decoded(data), UPRIGHT)
    catalog = open_catalog(write_folder(tmp_path, {"a.png": data}))
    check_images(catalog, SIZE, max_bad_images=0)
    for decoder in ("threads", *(["dali"] if not why_not_available() else [])):
        stream = stream_of(catalog, resolution=SIZE, global_batch=1, mirror=False, decoder=decoder)
        with stream:
            assert np.array_equal(next(stream)[0].permute(1, 2, 0).numpy(), UPRIGHT)
            assert stream.num_bad_images == 0


# --- damage


def repaired(data: bytes) -> bytes:
    """A PNG whose chunks have correct CRCs, so that damage reaches what reads them."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    fixed, start = bytearray(data), 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4
    return bytes(fixed)


@pytest.mark.filterwarnings("ignore")
def test_of_damaged_files_training_takes_only_what_prepare_would_store() -> None:
    """The same pixels, and nothing but BadImage from either."""
    rng = np.random.default_rng(5)
    profile = icc.rgb_profile("sRGB", icc.srgb_decoded, points=64)
    tagged = [encoded(picture(7, SIZE), kind, icc_profile=profile) for kind in ("PNG", "JPEG")]
    originals = [make() for make in (*TURNING.values(), *UPRIGHTS.values())] + 9 * tagged
    num_taken = 0
    for trial in range(1500):
        noisy = bytearray(originals[trial % len(originals)])
        for _ in range(rng.choice([1, 2, 5])):
            near = len(noisy) if rng.random() < 0.3 else min(700, len(noisy))
            noisy[rng.integers(near)] = rng.integers(256)
        data = repaired(bytes(noisy))
        with contextlib.suppress(BadImage):
            convert(data, Conversion(SIZE))
        with contextlib.suppress(BadImage):
            seen = decoded(data)
            assert np.array_equal(seen, converted(data))
            num_taken += 1
    assert 100 < num_taken < 1400
