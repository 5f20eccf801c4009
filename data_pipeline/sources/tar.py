"""Tar shards (also WebDataset's): headers are scanned once, then images are read at random.

Formats: POSIX.1-1988 (ustar), GNU long names, and pax headers (POSIX.1-2001) for path and size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.formats import SNIFF_BYTES
from realness.data_pipeline.machine import read_fully
from realness.data_pipeline.sources.common import (
    SpanReader,
    unsafe_name,
    unsafe_size,
)
from realness.data_pipeline.sources.labels import LABELS_FILE, MAX_CLASSES, read_labels
from realness.data_pipeline.sources.listing import Listing
from realness.data_pipeline.sources.samples import PictureChoice, extension_of, key_of

_BLOCK = 512
_MAX_META_BYTES = 1024**2
_FOLDER = b"5"


@dataclass(frozen=True)
class _Member:
    """One member: the byte offset and length of its data in the shard."""

    name: str
    offset: int
    size: int
    type_flag: bytes


def open_tars(source: Path, shards: Sequence[Path], wds_image: str = "") -> Catalog:
    """The images in tar shards, in the order they are stored. See open_catalog.

    wds_image chooses among several pictures per sample: see PictureChoice. A sidecar `KEY.cls` next
    to `KEY.jpg` (WebDataset) gives the label, if every image has one. A tar without such files may
    have StyleGAN's dataset.json.
    """
    names: list[str] = []
    spans: list[tuple[int, int, int]] = []
    classes: list[int] = []
    has_classes = False
    label_members: dict[str, tuple[Path, _Member]] = {}
    listing, choice = Listing(), PictureChoice(wds_image)
    for shard_id, shard in enumerate(shards):
        members = list(_scan(shard))
        class_of = _read_classes(shard, members)
        has_classes |= bool(class_of)
        prefix = f"{shard.name}/" if len(shards) > 1 else ""
        label_members |= {
            prefix + member.name: (shard, member)
            for member in members
            if member.name.endswith(LABELS_FILE)
        }
        images = list(_images(shard, members, prefix, listing))
        taken = choice.of_shard([member.name for member in images])
        for member, is_taken in zip(images, taken, strict=True):
            if not is_taken:
                listing.others[f"not chosen: {extension_of(member.name)}"] += 1
                continue
            names.append(prefix + member.name)
            spans.append((shard_id, member.offset, member.size))
            classes.append(class_of.get(key_of(member.name), -1))
    notes = choice.check(str(source), len(names))
    if has_classes:
        labels = None if -1 in classes else np.array(classes, np.int32)
        if labels is None:
            notes.append(
                f"{classes.count(-1):,} of the {len(classes):,} images in {source} have no class "
                f"number below {MAX_CLASSES:,} in a .cls file; the labels of all are ignored"
            )
    else:
        labels, found = read_labels(
            listing.label_files, names, lambda name: _read_member(*label_members[name])
        )
        notes += found
    columns = np.array(spans, np.int64).reshape(-1, 3)
    return Catalog(
        source=str(source),
        kind="tar",
        names=NameTable.of(names),
        lengths=columns[:, 2],
        reader=SpanReader(shards, columns[:, 0], columns[:, 1], columns[:, 2]),
        labels=labels,
        refused=listing.refused,
        others=listing.others,
        hidden=listing.hidden,
        notes=notes,
    )


def _images(
    shard: Path, members: Sequence[_Member], prefix: str, listing: Listing
) -> Iterator[_Member]:
    """The members of a shard that are images; all others are listed, as prefix + name."""
    with shard.open("rb") as file:
        for member in members:
            name = prefix + member.name
            is_folder = member.type_flag == _FOLDER or member.name.endswith("/")
            if is_folder or listing.skips(member.name):
                continue
            known = listing.classify(name)
            if known == "other":
                continue
            if reason := _refuse(member):
                listing.refused.append((name, reason))
            elif known == "image" or listing.sniffed(
                name, read_fully(file.fileno(), min(member.size, SNIFF_BYTES), member.offset)
            ):
                yield member


def _refuse(member: _Member) -> str | None:
    if member.type_flag in (b"1", b"2"):
        return "it is a link (tar --dereference stores the file instead)"
    if member.type_flag not in (b"0", b"\x00", b"7"):
        return f"it is not a regular file (tar type {member.type_flag!r})"
    return unsafe_name(member.name) or unsafe_size(member.size)


def _read_member(shard: Path, member: _Member) -> bytes:
    """The bytes of a member. Raises BadImage if it is refused."""
    if reason := _refuse(member):
        raise BadImage(reason)
    with shard.open("rb") as file:
        return read_fully(file.fileno(), member.size, member.offset)


def _read_classes(shard: Path, members: Sequence[_Member]) -> dict[str, int]:
    """Labels by sample key, from the shard's .cls members; -1 if one holds no class number."""
    classes: dict[str, int] = {}
    with shard.open("rb") as file:
        for member in members:
            if member.name.endswith(".cls"):
                text = read_fully(file.fileno(), min(member.size, 20), member.offset)
                number = int(text) if text.strip().isdigit() else -1
                classes[key_of(member.name)] = number if number < MAX_CLASSES else -1
    return classes


def _scan(shard: Path) -> Iterator[_Member]:
    """Every member of a shard; of a truncated shard, every member whose header is complete."""
    with shard.open("rb") as file:
        descriptor = file.fileno()
        size_on_disk = os.fstat(descriptor).st_size
        offset, long_name, pax = 0, None, {}
        while offset + _BLOCK <= size_on_disk:
            header = read_fully(descriptor, _BLOCK, offset)
            if header[:1] == b"\x00" and not any(header):
                return
            name, size, type_flag = _parse_header(header, shard, offset)
            if "size" in pax:
                size = _pax_size(pax["size"], shard, offset)
            data_offset = offset + _BLOCK
            offset = data_offset + -(-size // _BLOCK) * _BLOCK
            if type_flag in (b"L", b"x", b"g", b"K"):
                meta = _read_meta(descriptor, shard, data_offset, size)
                if type_flag == b"L":
                    long_name = meta.rstrip(b"\x00").decode("utf-8", "surrogateescape")
                elif type_flag == b"x":
                    pax = _parse_pax(meta)
                continue
            name = pax.get("path", long_name or name)
            yield _Member(name, data_offset, size, type_flag)
            long_name, pax = None, {}


def _parse_header(header: bytes, shard: Path, offset: int) -> tuple[str, int, bytes]:
    checksum = sum(header) - sum(header[148:156]) + 8 * 32
    try:
        stated = int(header[148:156].strip(b"\x00 ") or b"0", 8)
        if header[124] & 0x80:  # GNU's base-256 sizes, above 8 GiB
            size = int.from_bytes(header[125:136], "big")
        else:
            size = int(header[124:136].strip(b"\x00 ") or b"0", 8)
    except ValueError:
        stated, size = -1, 0
    if stated != checksum:
        raise _damaged(shard, offset, "a wrong checksum")
    if size < 0:  # int() accepts a minus sign, which would cause an endless loop
        raise _damaged(shard, offset, f"the size {size}")
    name = header[:100].split(b"\x00", 1)[0]
    if header[257:263] == b"ustar\x00":
        prefix = header[345:500].split(b"\x00", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return name.decode("utf-8", "surrogateescape"), size, header[156:157]


def _pax_size(text: str, shard: Path, offset: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _damaged(shard, offset, f"the size {text!r}")
    return int(text)


def _damaged(shard: Path, offset: int, what: str) -> DataError:
    return DataError(
        f"{shard} is not a tar, or is damaged: the header at byte {offset:,} has {what}; "
        "create or fetch the shard again"
    )


def _read_meta(descriptor: int, shard: Path, offset: int, size: int) -> bytes:
    if size > _MAX_META_BYTES:
        raise DataError(f"{shard} has an extended header of {size:,} bytes; it is rejected")
    return read_fully(descriptor, size, offset)


def _parse_pax(data: bytes) -> dict[str, str]:
    """Parses the records "LENGTH KEY=VALUE\\n" of a pax header."""
    records: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(data):
            break
        record, data = data[len(digits) + 1 : int(digits) - 1], data[int(digits) :]
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return records
