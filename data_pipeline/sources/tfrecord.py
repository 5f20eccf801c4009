"""FFHQ's multi-resolution TFRecords (NAME-r02.tfrecords .. NAME-r10.tfrecords).

Framing (TensorFlow, "TFRecord and tf.train.Example"): length (uint64), masked CRC-32C of it, data,
masked CRC-32C of the data; all little-endian. The data is a tf.train.Example with the features
`shape` (int64 [C, H, W]) and `data` (uint8 pixels in that order). The fields' positions are found
once; the pixels are then read in place, with no copy of the data set and no TensorFlow.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from realness.data_pipeline.catalog import Catalog, NameTable, RawLayout
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.machine import is_of_machine, read_fully
from realness.data_pipeline.sources.common import MAX_ENTRY_BYTES, SpanReader

_HEADER, _FOOTER = 12, 4
_LEVEL = re.compile(r"-r(\d\d)\.tfrecords$")
SUFFIXES = (".tfrecords", ".tfrecord")


@dataclass(frozen=True)
class _Layout:
    """The position of the pixels in a record's data, the bytes before them, and their shape."""

    length: int
    prefix: bytes
    pixels_offset: int
    shape: tuple[int, int, int]


def masked_crc32c(data: bytes) -> int:
    """TFRecord's form of a CRC-32C: rotated right by 15 bits, plus a constant, modulo 2^32."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class TFRecordReader:
    """Reads a record's pixels after checking the CRC-32C of the whole record."""

    def __init__(self, path: Path, layout: _Layout, record_offsets: npt.NDArray[np.int64]) -> None:
        zeros = np.zeros(len(record_offsets), np.int64)
        full = zeros + _HEADER + layout.length + _FOOTER
        self._spans = SpanReader([path], zeros, record_offsets, full)
        self._layout = layout

    def read(self, index: int, limit: int | None = None) -> bytes:
        record = self._spans.read(index)
        data, stored = record[_HEADER:-_FOOTER], record[-_FOOTER:]
        if masked_crc32c(data) != int.from_bytes(stored, "little"):
            raise BadImage("the record does not match its CRC-32C (damaged file)")
        start, (channels, height, width) = self._layout.pixels_offset, self._layout.shape
        size = channels * height * width
        return data[start : start + (size if limit is None else min(size, limit))]

    def close(self) -> None:
        self._spans.close()


def largest_level(files: Sequence[Path]) -> Path:
    """The file with the highest resolution of the TFRecord files in a folder.

    Raises DataError if they are not the levels of one set.
    """
    if len(files) == 1:
        return files[0]
    levels = {p: int(m[1]) for p in files if (m := _LEVEL.search(p.name))}
    if len(levels) < len(files) or len(set(levels.values())) < len(files):
        raise DataError(
            f"{files[0].parent} holds {len(files)} TFRecord files that are not a single set of "
            "levels NAME-r02.tfrecords .. NAME-r10.tfrecords; give one file"
        )
    return max(levels, key=lambda path: levels[path])


def open_tfrecord(path: Path) -> Catalog:
    """The images of one level, as raw pixels.

    Labels come from NAME-rxx.labels (one-hot, .npy) in the same folder. Raises DataError for a
    file of another kind or of mixed shapes. See open_catalog.
    """
    layout, offsets = _scan(path)
    channels, height, width = layout.shape
    if channels != 3 or height != width:
        raise DataError(f"{path} holds images of shape {layout.shape}, not square RGB (3, R, R)")
    labels, notes = None, list[str]()
    try:
        labels = _labels(path, len(offsets))
    except (ValueError, OSError, EOFError, AttributeError) as error:
        if is_of_machine(error):
            raise
        notes.append(f"the labels are ignored: {error}")
    return Catalog(
        source=str(path),
        kind="tfrecord",
        names=NameTable.of(f"{path.stem}/{number:08d}" for number in range(len(offsets))),
        lengths=np.full(len(offsets), channels * height * width, np.int64),
        reader=TFRecordReader(path, layout, offsets),
        labels=labels,
        raw=RawLayout(layout.shape),
        notes=notes,
    )


def _labels(path: Path, count: int) -> npt.NDArray[np.int32] | None:
    """The labels in NAME-rxx.labels, if it exists. Raises ValueError if they do not fit."""
    labels_path = path.with_name(_LEVEL.sub("-rxx.labels", path.name))
    if labels_path == path or not labels_path.is_file():
        return None
    one_hot = np.load(labels_path, allow_pickle=False)
    if one_hot.ndim != 2 or len(one_hot) < count:
        raise ValueError(
            f"{labels_path} has shape {one_hot.shape}, not one row for each of {count} images"
        )
    return one_hot[:count].argmax(1).astype(np.int32) if one_hot.shape[1] else None


def _scan(path: Path) -> tuple[_Layout, npt.NDArray[np.int64]]:
    """The layout that all records share, and each record's offset."""
    offsets: list[int] = []
    layout: _Layout | None = None
    with path.open("rb") as file:
        descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            head = read_fully(descriptor, _HEADER + (len(layout.prefix) if layout else 0), offset)
            length = _record_length(head[:_HEADER], path, offset)
            if layout is None or length != layout.length or head[_HEADER:] != layout.prefix:
                data = read_fully(descriptor, length, offset + _HEADER)
                found = _parse_example(data, path, len(offsets))
                if layout is not None and found.shape != layout.shape:
                    raise DataError(
                        f"{path} mixes shapes: record {len(offsets)} is {found.shape}, earlier "
                        f"records are {layout.shape}"
                    )
                if layout is not None:
                    raise DataError(f"record {len(offsets)} of {path} has a different layout")
                layout = found
            offsets.append(offset)
            offset += _HEADER + length + _FOOTER
    if layout is None:
        raise DataError(f"{path} is empty")
    return layout, np.array(offsets, np.int64)


def _record_length(header: bytes, path: Path, offset: int) -> int:
    if len(header) == _HEADER:
        length, crc = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) == crc and 0 < length <= MAX_ENTRY_BYTES:
            return length
    raise DataError(
        f"{path} is not a TFRecord file, or is damaged: no valid record at byte {offset:,}"
    )


def _parse_example(data: bytes, path: Path, number: int) -> _Layout:
    """Finds `shape` and `data` in a serialised tf.train.Example."""
    features: dict[str, tuple[int, int]] = {}
    try:
        for _, start, end in _fields(data, 0, len(data)):  # Example.features
            for _, entry_start, entry_end in _fields(data, start, end):  # Features.feature
                (_, k0, k1), (_, v0, v1) = list(_fields(data, entry_start, entry_end))[:2]
                ((_, list_start, list_end),) = _fields(data, v0, v1)  # Feature.*_list
                values = list(_fields(data, list_start, list_end))  # *List.value
                if len(values) == 1:
                    features[data[k0:k1].decode()] = values[0][1:]
        shape_start, shape_end = features["shape"]
        shape = tuple(_varints(data[shape_start:shape_end]))
        start, end = features["data"]
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"record {number} of {path} holds {sorted(features) or 'nothing readable'}, not FFHQ's "
            "features 'shape' and 'data'; export the images as files and give their folder"
        ) from error
    if len(shape) != 3 or end - start != shape[0] * shape[1] * shape[2]:
        raise DataError(
            f"record {number} of {path} has shape {shape} and {end - start:,} bytes of data, "
            "which is not one uint8 image"
        )
    return _Layout(len(data), data[:start], start, shape)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the length-delimited fields of a protobuf message."""
    while start < end:
        tag, start = _varint(data, start)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}")
        length, start = _varint(data, start)
        if start + length > end:
            raise ValueError("a field extends beyond its message")
        yield tag >> 3, start, start + length
        start += length


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start


def _varints(data: bytes) -> Iterator[int]:
    start = 0
    while start < len(data):
        value, start = _varint(data, start)
        yield value
