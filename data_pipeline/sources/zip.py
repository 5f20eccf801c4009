"""A zip of images, including StyleGAN's dataset.zip layout (with dataset.json)."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.formats import SNIFF_BYTES
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.sources.common import (
    SpanReader,
    unsafe_name,
    unsafe_size,
)
from realness.data_pipeline.sources.labels import read_labels
from realness.data_pipeline.sources.listing import Listing

_LOCAL_HEADER_BYTES = 30
# Errors of the standard library for damaged, encrypted and exotic archives. RuntimeError covers
# NotImplementedError, ValueError a name in no valid encoding.
_ZIPFILE_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
# Deflate compresses data by a factor of at most 1032; photographs hardly compress at all.
_MAX_RATIO = 200
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Columns:
    """Positions and sizes of the entries: int64 [n] each; deflated is bool [n]."""

    header_offsets: npt.NDArray[np.int64]
    packed_lengths: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    deflated: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, infos: Sequence[zipfile.ZipInfo]) -> _Columns:
        return cls(
            header_offsets=np.array([info.header_offset for info in infos], np.int64),
            packed_lengths=np.array([info.compress_size for info in infos], np.int64),
            lengths=np.array([info.file_size for info in infos], np.int64),
            deflated=np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in infos], bool),
        )


class ZipReader:
    """Entries of a zip, stored or deflated; never inflated beyond their declared size."""

    def __init__(self, path: Path, columns: _Columns) -> None:
        self._columns = columns
        zero = np.zeros(0, np.int64)
        self._spans = SpanReader([path], zero, zero, zero)

    def read(self, index: int, limit: int | None = None) -> bytes:
        columns = self._columns
        offset = int(columns.header_offsets[index])
        header = self._spans.read_span(0, offset, _LOCAL_HEADER_BYTES)
        if header[:4] != b"PK\x03\x04":
            raise BadImage("the zip's directory does not point at an entry (damaged zip)")
        # The name and extra field of the local header may differ in length from the directory's.
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        offset += _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        packed = int(columns.packed_lengths[index])
        if not columns.deflated[index]:
            return self._spans.read_span(0, offset, packed, limit)
        return self._inflate(offset, packed, int(columns.lengths[index]), limit)

    def _inflate(self, offset: int, packed: int, length: int, limit: int | None) -> bytes:
        # One byte more than declared reveals a longer entry without unpacking all of it.
        wanted = length + 1 if limit is None else limit
        piece_bytes = packed if limit is None else _PIECE_BYTES
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        result = b""
        try:
            for start in range(0, packed, max(1, piece_bytes)):
                piece = self._spans.read_span(0, offset + start, min(piece_bytes, packed - start))
                result += inflater.decompress(piece, wanted - len(result))
                if len(result) >= wanted:
                    break
        except zlib.error as error:
            raise BadImage(f"its compressed data is damaged ({error})") from error
        if limit is None and len(result) != length:
            raise BadImage(f"does not unpack to the {length:,} bytes that the zip declares")
        return result

    def close(self) -> None:
        self._spans.close()


def open_zip(path: Path) -> Catalog:
    """The images in a zip, sorted by name. See open_catalog.

    Raises DataError for a damaged zip and for one whose entries overlap (a zip bomb).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.filename)
    except PermissionError:
        raise
    except _ZIPFILE_ERRORS as error:
        if is_of_machine(error):
            raise
        raise DataError(
            f"{path} is not a readable zip ({error}); fetch or make it again"
        ) from error
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise DataError(f"{path} has overlapping entries, like a zip bomb; it is rejected")
    kept, listing = _list_entries(path, infos)
    columns = _Columns.of(kept)
    names = [info.filename for info in kept]
    labels, notes = read_labels(listing.label_files, names, partial(_read_entry, path, infos))
    return Catalog(
        source=str(path),
        kind="zip",
        names=NameTable.of(names),
        lengths=columns.lengths,
        reader=ZipReader(path, columns),
        crc32=np.array([info.CRC for info in kept], np.uint32),
        labels=labels,
        refused=listing.refused,
        others=listing.others,
        hidden=listing.hidden,
        notes=notes,
    )


def _list_entries(
    path: Path, infos: Sequence[zipfile.ZipInfo]
) -> tuple[list[zipfile.ZipInfo], Listing]:
    """The entries that are images, in the given order, and the listing of all others."""
    listing, images, unknown = Listing(), set[int](), list[int]()
    for position, info in enumerate(infos):
        if info.is_dir() or listing.skips(info.filename):
            continue
        known = listing.classify(info.filename)
        if known == "other":
            continue
        if reason := _refuse(info):
            listing.refused.append((info.filename, reason))
        elif known == "image":
            images.add(position)
        else:
            unknown.append(position)
    reader = ZipReader(path, _Columns.of([infos[position] for position in unknown]))
    with closing(reader):
        for index, position in enumerate(unknown):
            try:
                head = reader.read(index, SNIFF_BYTES)
            except BadImage as error:
                listing.refused.append((infos[position].filename, str(error)))
                continue
            if listing.sniffed(infos[position].filename, head):
                images.add(position)
    return [infos[position] for position in sorted(images)], listing


def _read_entry(path: Path, infos: Sequence[zipfile.ZipInfo], name: str) -> bytes:
    """One whole entry. Raises BadImage if it is refused or damaged."""
    info = next(info for info in infos if info.filename == name)
    if reason := _refuse(info):
        raise BadImage(reason)
    with closing(ZipReader(path, _Columns.of([info]))) as reader:
        data = reader.read(0)
    if zlib.crc32(data) != info.CRC:
        raise BadImage("its bytes do not match the CRC-32 in the zip")
    return data


def _refuse(info: zipfile.ZipInfo) -> str | None:
    if reason := unsafe_name(info.filename) or unsafe_size(info.file_size):
        return reason
    if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):
        return "it is a symbolic link"
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"its compression method {info.compress_type} is not supported (stored, deflate)"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return "it is stored uncompressed, but its two sizes differ"
    if info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        return f"it unpacks to more than {_MAX_RATIO} times its size, like a zip bomb"
    return None
