"""Prepared sets, as `launch/prepare.py` writes them: tar shards with an index, and the reader.

manifest.json    settings, counts, the data set's digest (DataError if it does not match)
index.npy        one record per image, see INDEX_DTYPE
names.utf8       the original names, concatenated; the index holds their end offsets
rejects.csv      every rejected file and the reason
shard-00000.tar  the images, one tar member each

In a set of P parts, image i belongs to part i % P and lies in one of its shards. Each part has its
own folder: part-000/shard-00000.tar. A node needs the four files and the parts its ranks read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable, RawLayout, RawOrder, Shard
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.sources.class_labels import checked_names
from realness.data_pipeline.sources.common import SpanReader

MANIFEST = "manifest.json"
INDEX = "index.npy"
NAMES = "names.utf8"
REJECTS = "rejects.csv"
VERSION = 1
# The manifest's "layout" of raw images. Sets made before batches were channels last are CHW.
RAW_LAYOUTS: dict[RawOrder, str] = {"HWC": "HWC uint8", "CHW": "CHW uint8"}

# shard number, byte offset and length in it, CRC-32 of those bytes, class (-1: none), end offset of
# the image's name in names.utf8
INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),
        ("crc32", "<u4"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("label", "<i4"),
        ("reserved", "<u4"),
        ("name_end", "<i8"),
    ]
)


def shard_name(number: int, num_parts: int = 1) -> str:
    """The path of a shard in its set. Shards are numbered in rounds of one shard per part."""
    if num_parts == 1:
        return f"shard-{number:05d}.tar"
    return f"{part_name(number % num_parts)}/shard-{number // num_parts:05d}.tar"


def part_name(part: int) -> str:
    """The folder of a part's shards."""
    return f"part-{part:03d}"


def is_prepared(folder: Path) -> bool:
    """Whether a folder was written by prepare."""
    return (folder / MANIFEST).is_file() and (folder / INDEX).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises DataError if it is unreadable or of another version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({error}); prepare it again") from error
    if version != VERSION:
        raise DataError(
            f"{folder} was prepared in format version {version}, this is version {VERSION}; "
            "prepare it again"
        )
    # Sets made before parts or names of classes were introduced lack these keys.
    return {"num_parts": 1, "class_names": [], **manifest}


def open_prepared(folder: Path) -> Catalog:
    """The images of a prepared set, in its order. See open_catalog.

    Shards are not checked here, since those of other parts may be missing; check_shards does that.
    Without that check, reading an image from a missing shard raises MachineError.
    """
    manifest = read_manifest(folder)
    try:
        index = np.load(folder / INDEX, mmap_mode="r", allow_pickle=False)
        names = np.memmap(folder / NAMES, np.uint8, "r")
    except (ValueError, OSError) as error:
        if is_of_machine(error):
            raise
        raise DataError(f"the index of {folder} is damaged ({error}); prepare it again") from error
    if index.dtype != INDEX_DTYPE or len(index) != manifest["num_images"]:
        raise DataError(
            f"{folder / INDEX} holds {len(index)} records of {index.dtype}, the manifest says "
            f"{manifest['num_images']}; prepare it again"
        )
    if not 1 <= manifest["num_parts"] <= max(1, len(index)):
        raise DataError(
            f"{folder / MANIFEST} says num_parts={manifest['num_parts']} of {len(index)} images; "
            "prepare it again"
        )
    shards = _shards(folder, manifest, index)
    size = manifest["resolution"]
    catalog = Catalog(
        source=str(folder),
        kind="packed",
        names=NameTable(names, np.ascontiguousarray(index["name_end"])),
        lengths=np.ascontiguousarray(index["length"]),
        reader=SpanReader(
            [shard.path for shard in shards],
            np.ascontiguousarray(index["shard"]),
            np.ascontiguousarray(index["offset"]),
            np.ascontiguousarray(index["length"]),
        ),
        crc32=np.ascontiguousarray(index["crc32"]),
        labels=np.ascontiguousarray(index["label"]) if manifest["num_classes"] else None,
        class_names=_class_names(manifest),
        raw=_raw_layout(folder, manifest) if manifest["format"] == "raw" else None,
        resolution=size,
        num_parts=manifest["num_parts"],
        shards=shards,
    )
    if catalog.digest != manifest["digest"]:
        raise DataError(
            f"the index of {folder} does not match its manifest (digest {catalog.digest[:12]} "
            f"instead of {manifest['digest'][:12]}); prepare it again"
        )
    return catalog


def _shards(folder: Path, manifest: dict[str, Any], index: np.ndarray) -> list[Shard]:
    num_parts = manifest["num_parts"]
    ends = np.zeros(manifest["num_shards"], np.int64)
    if index["shard"].max(initial=0) >= max(1, len(ends)):
        raise DataError(
            f"{folder / INDEX} names more shards than the {len(ends)} in the manifest; "
            "prepare it again"
        )
    np.maximum.at(ends, index["shard"], index["offset"] + index["length"])
    return [
        Shard(folder / shard_name(number, num_parts), number % num_parts, int(end))
        for number, end in enumerate(ends)
    ]


def _raw_layout(folder: Path, manifest: dict[str, Any]) -> RawLayout:
    size = manifest["resolution"]
    for order, name in RAW_LAYOUTS.items():
        if manifest["layout"] == name:
            return RawLayout((3, size, size), order)
    known = ", ".join(RAW_LAYOUTS.values())
    raise DataError(
        f"{folder} holds raw images of the unknown layout {manifest['layout']!r} (known: {known}); "
        "prepare it again"
    )


def _class_names(manifest: dict[str, Any]) -> tuple[str, ...]:
    names = manifest["class_names"]
    return checked_names(names if isinstance(names, list) else (), manifest["num_classes"])
