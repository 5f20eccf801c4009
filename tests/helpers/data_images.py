"""Small real image files for the data tests, made with Pillow."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from realness.data_pipeline.decoding.decode import decode_into
from realness.data_pipeline.prepare.convert import Conversion, convert


def picture(seed: int, size: int | tuple[int, int] = 32) -> Image.Image:
    """A smooth coloured RGB picture, different for each seed. size: pixels, or (width, height)."""
    width, height = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def short_of_pixels(png: bytes) -> bytes:
    """The PNG with complete chunks, correct CRCs and IEND, but half of its pixels missing."""
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4], "big")
    body = b"IDAT" + png[start + 8 : start + 8 + length // 2]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:start] + chunk + png[start + 12 + length :]


def image_files(count: int, size: int = 32, image_format: str = "JPEG") -> dict[str, bytes]:
    """`count` named image files; names sort in the order of their seeds."""
    suffix = {"JPEG": "jpg", "PNG": "png"}[image_format]
    return {
        f"{seed % 3}/img{seed:05d}.{suffix}": encoded(picture(seed, size), image_format)
        for seed in range(count)
    }


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(
    path: Path,
    files: dict[str, bytes],
    *,
    compression: int = zipfile.ZIP_STORED,
    labels: list[list[object]] | None = None,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if labels is not None:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def write_tar(path: Path, files: dict[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def prepared_pixels(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """What prepare stores of an image: uint8 [size, size, 3]."""
    raw = convert(data, Conversion(size, format="raw"))
    return np.frombuffer(raw, np.uint8).reshape(size, size, 3)


def trained_pixels(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """What training sees of an image: uint8 [size, size, 3]."""
    out = np.empty((size, size, 3), np.uint8)
    decode_into(data, out, False)
    return out
