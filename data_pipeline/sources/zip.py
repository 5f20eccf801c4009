"""A zip of images, including StyleGAN's dataset.zip layout (with dataset.json)."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.sources.common import (
    SpanReader,
    is_image_name,
    stylegan_labels,
    unsafe_name,
    unsafe_size,
)

_LOCAL_HEADER_BYTES = 30
# Errors of the standard library for damaged, encrypted and exotic archives. RuntimeError covers
# NotImplementedError, ValueError a name in no valid encoding.
_ZIPFILE_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
# Deflate compresses data by a factor of at most 1032; photographs hardly compress at all.
_MAX_RATIO = 200


@dataclass(frozen=True)
class _Columns:
    """Positions and sizes of the entries: int64 [n] each; deflated is bool [n]."""

    header_offsets: npt.NDArray[np.int64]
    packed_lengths: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    deflated: npt.NDArray[np.bool_]


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
        data = self._spans.read_span(0, offset, packed)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than declared reveals a longer entry without unpacking all of it.
            result = inflater.decompress(data, length + 1 if limit is None else limit)
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
            labels_text = _read_labels(archive)
    except (DataError, PermissionError):
        raise
    except _ZIPFILE_ERRORS as error:
        if is_of_machine(error):
            raise
        raise DataError(
            f"{path} is not a readable zip ({error}); fetch or make it again"
        ) from error
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise DataError(f"{path} has overlapping entries, like a zip bomb; it is rejected")
    kept, refused = [], []
    for info in infos:
        if info.is_dir() or not is_image_name(info.filename):
            continue
        if reason := _refuse(info):
            refused.append((info.filename, reason))
        else:
            kept.append(info)
    columns = _Columns(
        header_offsets=np.array([info.header_offset for info in kept], np.int64),
        packed_lengths=np.array([info.compress_size for info in kept], np.int64),
        lengths=np.array([info.file_size for info in kept], np.int64),
        deflated=np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in kept], bool),
    )
    names = [info.filename for info in kept]
    return Catalog(
        source=str(path),
        kind="zip",
        names=NameTable.of(names),
        lengths=columns.lengths,
        reader=ZipReader(path, columns),
        crc32=np.array([info.CRC for info in kept], np.uint32),
        labels=stylegan_labels(labels_text, names, str(path)),
        refused=refused,
    )


def _read_labels(archive: zipfile.ZipFile) -> bytes | None:
    try:
        info = archive.getinfo("dataset.json")
    except KeyError:
        return None
    if reason := unsafe_size(info.file_size):
        raise DataError(f"dataset.json in {archive.filename} is rejected: {reason}")
    return archive.read(info)


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
