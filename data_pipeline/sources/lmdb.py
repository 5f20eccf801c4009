"""Image files stored as values in an LMDB (LSUN's and others'), read without the lmdb library.

An LMDB is a B+tree of pages in one file (lmdb's mdb.c: MDB_page, MDB_meta, MDB_db, MDB_node). The
tree is walked once; a value is a span of the file, in a leaf page or in overflow pages, and is read
in place like any other. Values that are not image files are left out.

Page header, 16 bytes: number (u64), pad (u16), flags (u16), lower (u16), upper (u16).
Node header, 8 bytes: lo (u16), hi (u16), flags (u16), key size (u16). All little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.formats import SNIFF_BYTES, image_format
from realness.data_pipeline.machine import read_fully
from realness.data_pipeline.sources.common import SpanReader, unsafe_size
from realness.data_pipeline.sources.listing import Listing

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_HEADER, _NODE_HEADER = 16, 8
_META = struct.Struct("<II16x48xIHHQQQQQQQ")  # up to txnid; the first database's 48 bytes skipped
_PAGE_SIZE_OFFSET = _PAGE_HEADER + 24
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_DATA, _SUB_DATA, _DUPLICATES = 0x01, 0x02, 0x04
_NO_ROOT = 2**64 - 1
_MAX_DEPTH = 32


@dataclass(frozen=True)
class _Tree:
    """The newest committed state: page size in bytes, root page, pages in the file, entries."""

    page_size: int
    root: int
    num_pages: int
    num_entries: int


def data_file(folder: Path) -> Path | None:
    """The path of a folder's data.mdb, or None."""
    path = folder / "data.mdb"
    return path if path.is_file() else None


def open_lmdb(path: Path) -> Catalog:
    """The images in an LMDB's data file, in the order of their keys. See open_catalog.

    Raises DataError if the file is not an LMDB, is damaged, or uses sub-databases or duplicates.
    """
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    listing = Listing()
    with path.open("rb") as file:
        descriptor = file.fileno()
        tree = _read_tree(descriptor, path)
        for key, offset, length in _walk(descriptor, tree, path):
            name = key.decode("utf-8", "backslashreplace")
            if reason := unsafe_size(length):
                listing.refused.append((name, reason))
            elif image_format(read_fully(descriptor, min(length, SNIFF_BYTES), offset)):
                names.append(name)
                spans.append((offset, length))
            elif length > 64:
                listing.refused.append((name, "its value is not an image file"))
            else:
                listing.others["counters and settings"] += 1
    columns = np.array(spans, np.int64).reshape(-1, 2)
    zeros = np.zeros(len(names), np.int64)
    return Catalog(
        source=str(path),
        kind="lmdb",
        names=NameTable.of(names),
        lengths=columns[:, 1],
        reader=SpanReader([path], zeros, columns[:, 0], columns[:, 1]),
        refused=listing.refused,
        others=listing.others,
    )


def _read_tree(descriptor: int, path: Path) -> _Tree:
    """The newer of the two meta pages, which lmdb writes alternately."""
    head = read_fully(descriptor, _PAGE_SIZE_OFFSET + 4, 0)
    if len(head) < _PAGE_SIZE_OFFSET + 4:
        raise DataError(f"{path} is not an LMDB (too short)")
    page_size = int.from_bytes(head[-4:], "little")
    metas = []
    for page in (0, 1):
        offset = page * page_size + _PAGE_HEADER
        data = read_fully(descriptor, _META.size, offset)
        if len(data) == _META.size and struct.unpack_from("<II", data) == (_MAGIC, _VERSION):
            metas.append(_META.unpack(data))
    if not metas or not 256 <= page_size <= 65536:
        raise DataError(f"{path} is not an LMDB for this machine (64-bit, version {_VERSION})")
    *_, flags, _, _, _, _, entries, root, _, _ = max(metas, key=lambda meta: meta[-1])
    if flags & _DUPLICATES:
        raise DataError(f"{path} stores several values per key, which is not supported")
    num_pages = os.fstat(descriptor).st_size // page_size
    return _Tree(page_size, root, num_pages, entries)


def _walk(descriptor: int, tree: _Tree, path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(key, offset, length) of every value, in the order of the keys."""
    if tree.root == _NO_ROOT:
        return
    pending = [(tree.root, 0)]
    num_visited = 0
    while pending:
        number, depth = pending.pop()
        num_visited += 1
        if number >= tree.num_pages or num_visited > tree.num_pages or depth > _MAX_DEPTH:
            raise DataError(f"{path} is damaged or cut short: its tree leads to page {number}")
        page = read_fully(descriptor, tree.page_size, number * tree.page_size)
        flags, lower = struct.unpack_from("<HH", page, 10)
        count = (lower - _PAGE_HEADER) // 2
        try:
            nodes = struct.unpack_from(f"<{count}H", page, _PAGE_HEADER)
            if flags & _BRANCH:
                children = [_child(page, node) for node in nodes]
                pending += [(child, depth + 1) for child in reversed(children)]
            elif flags & _LEAF:
                for node in nodes:
                    yield _value(page, number * tree.page_size, node, tree.page_size)
            else:
                raise ValueError(f"page {number} has flags {flags:#x}")
        except (struct.error, ValueError) as error:
            raise DataError(f"{path} is damaged or of an unsupported kind ({error})") from error


def _child(page: bytes, node: int) -> int:
    low, high, flags = struct.unpack_from("<HHH", page, node)
    return low | high << 16 | flags << 32


def _value(page: bytes, page_offset: int, node: int, page_size: int) -> tuple[bytes, int, int]:
    low, high, flags, key_size = struct.unpack_from("<HHHH", page, node)
    start = node + _NODE_HEADER + key_size
    key, length = page[node + _NODE_HEADER : start], low | high << 16
    if flags & (_SUB_DATA | _DUPLICATES):
        raise ValueError("it holds a sub-database or duplicates")
    if flags & _BIG_DATA:
        (overflow,) = struct.unpack_from("<Q", page, start)
        return key, overflow * page_size + _PAGE_HEADER, length
    return key, page_offset + start, length
