"""Files of torch.save, without torch.load: zip archives, and the older streams of pickles.

A zip archive holds `data.pkl` and one entry per storage, `data/KEY`. An older file is five pickles
(a magic number, a version, sizes of C's types, the object, the keys of storages) and then, for each
key, the number of elements (int64) and the elements. A tensor in a plain pickle holds its storage
as such a stream.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realness.trainer.inference.public.names import is_allowed
from realness.trainer.inference.public.pickles import (
    Data,
    ModelFileError,
    origin_of,
    read_pickle,
)

MAGIC = 0x1950A86A20F9469CFC6C
NUM_PICKLES = 5
TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass
class Storage:
    """A storage of `numel` numbers; `load` returns their bytes, of the right length."""

    key: str
    dtype: torch.dtype
    numel: int
    load: Callable[[], Any] | None = None
    _values: Tensor | None = field(default=None, repr=False)

    def values(self) -> Tensor:
        """All numbers, [numel]. Raises ModelFileError if they are not in the file."""
        if self._values is None:
            content = bytearray(self.load()) if self.load else bytearray()
            if len(content) != self.num_bytes or not content:
                raise ModelFileError(f"storage {self.key!r} is not whole: the file is damaged")
            self._values = torch.frombuffer(content, dtype=self.dtype)
        return self._values

    @property
    def num_bytes(self) -> int:
        """The size of all numbers."""
        return self.numel * self.dtype.itemsize


class _Storages:
    """The storages that a pickle refers to, by key."""

    def __init__(self, most_bytes: int) -> None:
        self.found: dict[str, Storage] = {}
        self._bytes_left = most_bytes

    def __call__(self, pid: Any) -> Storage:
        """The storage of ('storage', type, key, device, number of elements[, view])."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ModelFileError("it refers to something that is not a storage")
        dtype, key, numel = TYPES.get(origin_of(pid[1])), pid[2], pid[4]
        view = pid[5] if len(pid) == 6 else None
        if dtype is None or not isinstance(key, str) or not isinstance(numel, int) or view:
            raise ModelFileError(f"it has a storage of type {origin_of(pid[1])!r}")
        if key not in self.found:
            self.found[key] = storage = Storage(key, dtype, numel)
            self._bytes_left -= storage.num_bytes
            if numel < 0 or self._bytes_left < 0:
                raise ModelFileError(
                    f"it has a storage of {numel:,} numbers, more than the file holds: it is cut "
                    "short, or damaged"
                )
        return self.found[key]


def is_stream(data: Data) -> bool:
    """Whether a file that begins with a pickle is an older file of torch.save."""
    # PROTO 2, LONG1, ten bytes, STOP.
    return bytes(data[:15]) == b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."


def read_stream(data: Data) -> Any:
    """The records of an older file of torch.save. Raises ModelFileError if it is damaged."""
    if not is_stream(data):
        raise ModelFileError("a storage in it is not a file of torch.save: it is damaged")
    storages, at, parts = _Storages(len(data)), 0, []
    for _ in range(NUM_PICKLES):
        part, at = read_pickle(data, at, is_allowed, storages)
        parts.append(part)
    *_, result, keys = parts
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages.found):
        raise ModelFileError("its list of storages does not fit: it is damaged")
    for key in keys:
        storage = storages.found[str(key)]
        count = int.from_bytes(data[at : at + 8], "little")
        begin, at = at + 8, at + 8 + storage.num_bytes
        if count != storage.numel or at > len(data):
            raise ModelFileError(f"it is cut short, or damaged, at byte {begin:,}")
        part = data[begin:at]
        storage.load = lambda part=part: part
    return result


def read_nested(content: bytes) -> Storage:
    """The storage in a stream of torch.save. Raises ModelFileError if it holds anything else."""
    result = read_stream(memoryview(content))
    if not isinstance(result, Storage):
        raise ModelFileError("a storage in it holds something else: it is damaged")
    return result


def read_archive(path: Path) -> Any:
    """The records of a zip archive of torch.save.

    Raises ModelFileError for one that is damaged, or compressed: torch.save does not compress, and
    a small compressed file may be enormous.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"its zip archive is damaged, or cut short ({error})") from error
    size = path.stat().st_size
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise ModelFileError(f"its entry {entry.filename!r} is compressed, or too large")
    names = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if len(names) != 1:
        raise ModelFileError("it is a zip archive, but not one of torch.save")
    root = names[0].removesuffix("data.pkl")
    storages = _Storages(size)
    result, _ = read_pickle(memoryview(_entry(archive, names[0])), 0, is_allowed, storages)
    for key, storage in storages.found.items():
        name = f"{root}data/{key}"
        if name not in archive.namelist():
            raise ModelFileError(f"it lacks the entry {name!r}: it is damaged")
        storage.load = lambda name=name: _entry(archive, name)
    return result


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry, whose checksum is checked."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"its entry {name!r} is damaged ({error})") from error
