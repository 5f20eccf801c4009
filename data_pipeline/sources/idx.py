"""IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: grey images and their labels.

The header (yann.lecun.com/exdb/mnist) is two zero bytes, the type of the values (8: unsigned byte),
the number of dimensions, and their sizes as signed big-endian integers of 32 bits. Images have the
dimensions number, height, width, and labels only the first. Plain files are read in place; files
compressed with gzip, as they are published, are unpacked into memory.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable, RawLayout, Reader
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.formats import IMAGE_SUFFIXES
from realness.data_pipeline.sources.common import MAX_ENTRY_BYTES, SpanReader

_MAGIC, _UNSIGNED_BYTE = b"\x00\x00", 8
_IMAGES = _MAGIC + bytes([_UNSIGNED_BYTE, 3])
_TYPES = {9: "signed bytes", 11: "16-bit integers", 12: "32-bit integers",
          13: "32-bit floating-point numbers", 14: "64-bit floating-point numbers"}  # fmt: skip
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096  # gzip's header may hold a file name
_MAX_SIDE = 8192
_MAX_IMAGES = 10_000_000  # the largest set of this kind has 8.1 million; names take memory


@dataclass(frozen=True)
class _Header:
    """The sizes of the dimensions, and the offset of the first value."""

    sizes: tuple[int, ...]
    start: int

    @property
    def num_values(self) -> int:
        return math.prod(self.sizes)


class _MemoryReader:
    """Entries of one length, one after the other in a block of bytes."""

    def __init__(self, block: bytes, length: int) -> None:
        self._block, self._length = block, length

    def read(self, index: int, limit: int | None = None) -> bytes:
        start = index * self._length
        length = self._length if limit is None else min(self._length, limit)
        return self._block[start : start + length]

    def close(self) -> None:
        """No-op: no file is held open."""


def may_be_idx(path: Path) -> bool:
    """Whether a file holds IDX images, or is named like MNIST's files."""
    named = any(part in path.name.lower() for part in ("idx", "ubyte"))
    return path.is_file() and (named or _starts_like_images(path))


def image_files(files: Sequence[Path]) -> list[Path]:
    """Those of a folder's files that hold IDX images, by their content.

    Only files with idx or ubyte in their names are read, and of a file and its compressed copy only
    the former is returned.
    """
    found = [
        path
        for path in files
        if any(part in path.name.lower() for part in ("idx", "ubyte"))
        and path.suffix.lower() not in IMAGE_SUFFIXES
        and _starts_like_images(path)
    ]
    return [path for path in found if path.suffix != ".gz" or path.with_suffix("") not in found]


def training_images(folder: Path, files: Sequence[Path]) -> Path:
    """The one file of training images among a folder's IDX files.

    Raises DataError if there are several, as in EMNIST.
    """
    chosen = [path for path in files if "train" in path.name.lower()] or list(files)
    if len(chosen) > 1:
        listed = ", ".join(path.name for path in chosen[:4])
        raise DataError(
            f"{folder} holds {len(chosen)} IDX files of images ({listed}); give one of the files"
        )
    return chosen[0]


def labels_file(images: Path) -> Path | None:
    """The labels beside a file of images, named like MNIST's; None if there are none."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == images.name.removesuffix(".gz"):
        return None
    candidates = [images.with_name(name), images.with_name(f"{name}.gz")]
    return next((path for path in candidates if path.is_file()), None)


def open_idx(source: Path, path: Path) -> Catalog:
    """The grey images of an IDX file, in their order, with the labels beside it if there are any.

    Labels that do not fit the images are left out, and a note says why. Raises DataError for a file
    that is damaged, cut short or of another kind. See open_catalog.
    """
    header, block = _read(path, "images")
    number, height, width = header.sizes
    length = height * width
    reader: Reader
    if block is None:
        starts = header.start + np.arange(number, dtype=np.int64) * length
        lengths = np.full(number, length, np.int64)
        reader = SpanReader([path], np.zeros(number, np.int64), starts, lengths)
    else:
        reader = _MemoryReader(block, length)
    catalog = Catalog(
        source=str(source),
        kind="idx",
        names=NameTable.of(f"{path.name}/{index:05d}" for index in range(number)),
        lengths=np.full(number, length, np.int64),
        reader=reader,
        raw=RawLayout((1, height, width)),
    )
    if beside := labels_file(path):
        try:
            catalog.labels = _read_labels(beside, number)
        except DataError as error:
            catalog.notes.append(f"the labels in {beside.name} are ignored: {error}")
    return catalog


def _read_labels(path: Path, num_images: int) -> np.ndarray:
    header, block = _read(path, "labels")
    if header.sizes[0] != num_images:
        raise DataError(f"it has {header.sizes[0]:,} labels for {num_images:,} images")
    if block is None:
        with path.open("rb") as file:
            file.seek(header.start)
            block = file.read(num_images)
    labels = np.frombuffer(block, np.uint8).astype(np.int32)
    if len(labels) != num_images:
        raise DataError(f"{path} is cut short")
    return labels


def _starts_like_images(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, len(_IMAGES))
        except zlib.error:
            return False
    return head.startswith(_IMAGES)


def _read(path: Path, what: str) -> tuple[_Header, bytes | None]:
    """A file's header, and its values if they are compressed. Raises DataError."""
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not compressed:
            header = _read_header(path, file, what)
            _check_size(path, header, path.stat().st_size - header.start)
            return header, None
    try:
        with gzip.open(path) as unpacked:
            header = _read_header(path, cast(BinaryIO, unpacked), what)
            if header.num_values > MAX_ENTRY_BYTES:
                raise DataError(
                    f"{path} unpacks to {header.num_values:,} bytes, more than the "
                    f"{MAX_ENTRY_BYTES:,} that are kept in memory; unpack it with gunzip"
                )
            # One more than declared: it shows values that are too many, and checks gzip's CRC.
            block = unpacked.read(header.num_values + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged or incomplete gzip file ({error})") from error
    _check_size(path, header, len(block))
    return header, block


def _read_header(path: Path, file: BinaryIO, what: str) -> _Header:
    start = file.read(4)
    if len(start) < 4 or not start.startswith(_MAGIC) or start[2] not in (_UNSIGNED_BYTE, *_TYPES):
        raise DataError(f"{path} is not an IDX file: it begins with the bytes {start.hex(' ')}")
    if start[2] in _TYPES:
        raise DataError(f"{path} holds {_TYPES[start[2]]}; only unsigned bytes are read")
    dimensions, wanted = start[3], {"images": 3, "labels": 1}[what]
    if dimensions != wanted:
        held = {1: ", as files of labels have", 4: ", perhaps of colour images"}
        raise DataError(
            f"{path} has {dimensions} dimensions{held.get(dimensions, '')}; {what} have {wanted}"
        )
    encoded = file.read(4 * dimensions)
    if len(encoded) < 4 * dimensions:
        raise DataError(f"{path} is cut short inside its header")
    sizes = struct.unpack(f">{dimensions}i", encoded)
    described = " x ".join(f"{size:,}" for size in sizes)
    number, *sides = sizes
    if not 0 <= number <= _MAX_IMAGES or any(not 1 <= side <= _MAX_SIDE for side in sides):
        raise DataError(
            f"{path} declares the sizes {described}: up to {_MAX_IMAGES:,} {what} are read, with "
            f"sides from 1 to {_MAX_SIDE:,} pixels; it is damaged, or not of MNIST's kind"
        )
    return _Header(sizes, 4 + len(encoded))


def _check_size(path: Path, header: _Header, num_bytes: int) -> None:
    """Raises DataError unless `num_bytes` of values are what the header declares."""
    if num_bytes != header.num_values:
        described = " x ".join(f"{size:,}" for size in header.sizes)
        found = f"{num_bytes:,}" if num_bytes < header.num_values else "more"
        raise DataError(
            f"{path} declares {described} = {header.num_values:,} bytes, but holds {found}: it is "
            "cut short or damaged"
        )
