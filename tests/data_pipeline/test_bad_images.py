"""Bad images: the run continues; each is logged once, replaced identically on any ranks, capped."""

from __future__ import annotations

import contextlib
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realness.data_pipeline import BadImage, Catalog, DataError, ImageStream, open_catalog
from realness.data_pipeline.decoding.dali import why_not_available
from realness.data_pipeline.decoding.decode import decode_into
from realness.data_pipeline.headers import HeaderIncomplete, read_header
from realness.data_pipeline.prepare.convert import Conversion, convert
from tests.helpers.data_images import (
    encoded,
    image_files,
    picture,
    short_of_pixels,
    write_folder,
    write_tar,
    write_zip,
)
from tests.helpers.streams import stream_of

SIZE = 32
NUM_GOOD = 30
OTHER_DECODER = "threads" if why_not_available() else "dali"


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(1), exif=exif)


def rotated_png() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 8
    return encoded(picture(1), "PNG", exif=exif)


def png_with_wrong_crc() -> bytes:
    data = bytearray(encoded(picture(1), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 0x10
    return bytes(data)


def png_short_of_pixels() -> bytes:
    return short_of_pixels(encoded(picture(1), "PNG"))


def sixteen_bit_rgb() -> bytes:
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + bytes(SIZE * 6)) * SIZE)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def palette() -> bytes:
    return encoded(picture(1).convert("P", palette=Image.Palette.ADAPTIVE), "PNG")


BAD_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated_jpeg": ("x.jpg", lambda: encoded(picture(1))[:-200], "truncated JPEG"),
    "jpeg_header_only": ("x.jpg", lambda: encoded(picture(1))[:100], "truncated"),
    "truncated_png": ("x.png", lambda: encoded(picture(1), "PNG")[:-200], "truncated PNG"),
    "png_without_iend": ("x.png", lambda: encoded(picture(1), "PNG")[:-12], "truncated PNG"),
    "png_wrong_crc": ("x.png", png_with_wrong_crc, "wrong CRC in chunk IDAT"),
    "png_short_of_pixels": ("x.png", png_short_of_pixels, "PNG does not decode"),
    "zero_bytes": ("x.jpg", lambda: b"", "empty"),
    "html": ("x.jpg", lambda: b"<!DOCTYPE html><html>404</html>", "text or HTML"),
    "text": ("x.png", lambda: b"Not found\n", "not an image of a known format"),
    "gif": ("x.gif", lambda: encoded(picture(1), "GIF"), "is a GIF"),
    "gif_named_jpg": ("x.jpg", lambda: encoded(picture(1), "GIF"), "is a GIF"),
    "wrong_size": ("x.jpg", lambda: encoded(picture(1, 48)), "48x48, not 32x32"),
    "not_square": ("x.png", lambda: encoded(picture(1, (32, 31)), "PNG"), "32x31"),
    "grey_jpeg": ("x.jpg", lambda: encoded(picture(1).convert("L")), "JPEG is grey"),
    "grey_png": ("x.png", lambda: encoded(picture(1).convert("L"), "PNG"), "PNG is grey"),
    "rgba": ("x.png", lambda: encoded(picture(1).convert("RGBA"), "PNG"), "RGBA"),
    "cmyk": ("x.jpg", lambda: encoded(picture(1).convert("CMYK")), "CMYK"),
    "palette": ("x.png", palette, "palette"),
    "sixteen_bit": ("x.png", sixteen_bit_rgb, "16 bits"),
    "exif_rotated": ("x.jpg", exif_rotated, "EXIF-rotated"),
    "exif_rotated_png": ("x.png", rotated_png, "EXIF-rotated"),
}


def open_stream(
    catalog: Catalog, decoder: str = "threads", rank: int = 0, world_size: int = 1, cap: int = 10
) -> ImageStream:
    return stream_of(
        catalog, resolution=SIZE, global_batch=8, rank=rank, world_size=world_size, seed=3,
        purpose=1, mirror=True, first_sample=0, decoder=decoder,  # type: ignore[arg-type]
        device=torch.device("cpu"), decode_threads=2, max_bad_images=cap,
    )  # fmt: skip


def run_epochs(
    catalog: Catalog, rank: int = 0, world_size: int = 1, cap: int = 10, decoder: str = "threads"
) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Two epochs' images and indices as lists of batches, and the number of bad images."""
    images, indices = [], []
    with open_stream(catalog, decoder, rank, world_size, cap) as stream:
        for _ in range(2 * len(catalog) // 8 + 1):
            images.append(next(stream))
            indices.append(stream.indices)
        return images, indices, stream.num_bad_images


def assert_survives(
    reopen: Callable[[], Catalog], names: set[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Checks the guarantees for a set in which exactly `names` are bad."""
    catalog = reopen()
    bad = {i for i in range(len(catalog)) if catalog.name(i) in names}
    assert len(bad) == len(names)
    with caplog.at_level(logging.WARNING, "realness.data"):
        images, indices, num_bad = run_epochs(catalog)
    named = [r.getMessage() for r in caplog.records if r.getMessage().startswith("bad image")]
    assert sorted(message.split(":")[0] for message in named) == sorted(
        f"bad image {name}" for name in names
    )
    assert all(reason in message for message in named)
    assert num_bad == len(names)
    assert not bad & set(torch.cat(indices).tolist())
    # The second rank uses the other decoder, which must substitute the same images.
    halves = [run_epochs(reopen(), 0, 2), run_epochs(reopen(), 1, 2, decoder=OTHER_DECODER)]
    for step, (whole, chosen) in enumerate(zip(images, indices, strict=True)):
        assert torch.equal(torch.cat([halves[0][1][step], halves[1][1][step]]), chosen)
        assert torch.equal(torch.cat([halves[0][0][step], halves[1][0][step]]), whole)
    cap = len(names) - 1
    with pytest.raises(DataError, match=rf"more than max_bad_images={cap}.*prepare\.py"):
        run_epochs(reopen(), cap=cap)


@pytest.mark.parametrize(("name", "make", "reason"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file_in_a_folder(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    make: Callable[[], bytes],
    reason: str,
) -> None:
    write_folder(tmp_path, image_files(NUM_GOOD) | {name: make()})
    assert_survives(lambda: open_catalog(tmp_path), {name}, reason, caplog)


def test_missing_and_unreadable_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = image_files(NUM_GOOD)
    gone, blocked = list(files)[3], list(files)[7]

    def reopen() -> Catalog:
        if (tmp_path / blocked).is_dir():
            (tmp_path / blocked).rmdir()
        write_folder(tmp_path, files)
        catalog = open_catalog(tmp_path)
        (tmp_path / gone).unlink()
        # A folder in place of the file cannot be read, not even by root.
        (tmp_path / blocked).unlink()
        (tmp_path / blocked).mkdir()
        return catalog

    assert_survives(reopen, {gone, blocked}, "the file", caplog)
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert "missing" in messages
    assert "cannot be read" in messages


def test_bit_flip_in_a_zip_is_caught_by_its_crc(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = image_files(NUM_GOOD)
    name = list(files)[5]
    path = write_zip(tmp_path / "set.zip", files)
    data = bytearray(path.read_bytes())
    data[data.index(files[name]) + len(files[name]) // 2] ^= 1
    path.write_bytes(data)
    assert_survives(lambda: open_catalog(path), {name}, "CRC-32", caplog)


def test_tar_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = image_files(NUM_GOOD)
    name = list(files)[-1]
    path = write_tar(tmp_path / "set.tar", files)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(files[name]) + 100])
    assert_survives(lambda: open_catalog(path), {name}, "cut short", caplog)


def test_a_set_with_nothing_good_ends_with_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{i}.jpg": b"<html>" for i in range(3)})
    stream = open_stream(open_catalog(tmp_path), cap=100)
    with stream, pytest.raises(DataError, match="no good image found"):
        next(stream)


def test_two_streams_over_one_catalog_name_a_bad_image_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, image_files(6) | {"x.jpg": b""})
    catalog = open_catalog(tmp_path)
    run_epochs(catalog)
    run_epochs(catalog)
    assert len(caplog.records) == 1


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with a few overwritten, mostly near the start, and sometimes cut."""
    noisy = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        noisy[rng.integers(len(noisy) if rng.random() < 0.5 else min(80, len(noisy)))] = (
            rng.integers(256)
        )
    return bytes(noisy[: rng.integers(len(noisy))] if rng.random() < 0.2 else noisy)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_bad_image_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    kinds = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]
    originals = [encoded(picture(seed), kind) for seed, kind in enumerate(kinds)]
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    settings = Conversion(16)
    num_refused = 0
    for trial in range(2100):
        data = damaged(originals[trial % len(originals)], rng)
        mirror = trial % 2 == 0
        for work in (lambda d, m=mirror: decode_into(d, out, m), lambda d: convert(d, settings)):
            try:
                work(data)
            except BadImage:
                num_refused += 1
        with contextlib.suppress(BadImage, HeaderIncomplete):
            read_header(data[: rng.integers(len(data) + 1)])
    assert 1000 < num_refused < 4200
