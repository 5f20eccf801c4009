"""`stats.jsonl`: one JSON object per line, robust against kills, resumes and full disks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from realness.trainer.storage.files import atomic_writer

STATS_FILE = "stats.jsonl"
METRIC_PREFIX = "metric_"
"""Prefix of the keys of scores, as in `metric_SWD`."""

MAX_PENDING_LINES = 100_000

Record = dict[str, Any]
Item = TypeVar("Item")


def read_stats(path: Path) -> list[Record]:
    """The records of a stats file, oldest first; empty if the file is missing.

    Lines that are not a JSON object (the partial last line of a killed run) are skipped. Non-finite
    numbers are returned as None.
    """
    return list(iterate_stats(path))


def iterate_stats(path: Path) -> Iterator[Record]:
    """The same, one at a time."""
    if path.exists():
        with open(path, "rb") as file:
            yield from (record for _, record in _lines(file) if record is not None)


class Thinned(Generic[Item]):
    """Items of a sequence of any length, evenly: every k-th, and the last one.

    k is the least power of two that leaves at most `most`.
    """

    def __init__(self, most: int) -> None:
        self._most, self._step, self._count = most, 1, 0
        self._kept: list[Item] = []
        self._last: list[Item] = []

    def add(self, item: Item) -> None:
        """Add the next item."""
        self._last = []
        if self._count % self._step:
            self._last = [item]
        else:
            self._kept.append(item)
        self._count += 1
        if len(self._kept) > self._most:
            del self._kept[1::2]
            self._step *= 2
            self._last = [] if self._kept[-1] is item else [item]

    def items(self) -> list[Item]:
        """The items that are kept, in their order."""
        return [*self._kept, *self._last]


def cut_back(path: Path, start_images: int) -> int:
    """Keep only the records with `images` <= `start_images`; returns how many lines were dropped.

    A killed run has logged past the checkpoint it resumes from: without this, those lines would
    appear twice, and a partial last line would corrupt the file. They are truncated, which works on
    a full disk; corruption in the middle needs a new file, which replaces the old one atomically.
    """
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        lines = list(_lines(file))
    kept = [line for line, record in lines if _belongs(record, start_images)]
    at_the_start = kept == [line for line, _ in lines[: len(kept)]]
    if at_the_start and (not kept or kept[-1].endswith(b"\n")):
        if len(kept) < len(lines):
            os.truncate(path, sum(map(len, kept)))
    else:
        with atomic_writer(path) as out:
            out.writelines(line.rstrip(b"\n") + b"\n" for line in kept)
    return len(lines) - len(kept)


def _belongs(record: Record | None, start_images: int) -> bool:
    images = record.get("images") if record else None
    return isinstance(images, (int, float)) and images <= start_images


def _lines(file: Any) -> Iterator[tuple[bytes, Record | None]]:
    for line in file:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        yield line, record if isinstance(record, dict) else None


def encode(record: Mapping[str, float]) -> bytes:
    """One line of the file. NaN and infinity, which JSON does not have, are written as null.

    Integers stay integers; 0-d tensors and numpy scalars are accepted.
    """
    plain: Record = {}
    for key, value in record.items():
        number = value if isinstance(value, (int, float)) else float(value)
        plain[key] = number if math.isfinite(number) else None
    return json.dumps(plain).encode() + b"\n"


class StatsLog:
    """Appends records to a stats file. A record that cannot be written waits in memory.

    Writes are unbuffered, so a SIGKILL loses nothing. After a failed write the file is first
    truncated to its last complete line, then all pending records are retried.
    """

    def __init__(self, path: Path, start_images: int = 0) -> None:
        """Open `path` for a run that starts, or resumes, at `start_images`."""
        self.path = path
        self.num_dropped = cut_back(path, start_images)
        # Unbuffered, because a buffer would write its failed bytes again when it is flushed.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = self._file.seek(0, os.SEEK_END)
        self._torn = False
        self._pending: list[bytes] = []

    def append(self, record: Mapping[str, float]) -> None:
        """Write one record and all pending ones.

        Raises OSError if the disk is full; the record is then kept (up to MAX_PENDING_LINES, after
        which the oldest are dropped) and retried in the next call.
        """
        self._pending.append(encode(record))
        del self._pending[:-MAX_PENDING_LINES]
        self.flush()

    def flush(self) -> None:
        """Write pending records. Raises OSError if the disk is full."""
        if not self._pending:
            return
        if self._torn:
            self._file.truncate(self._size)
        data = b"".join(self._pending)
        written = 0
        self._torn = True
        while written < len(data):
            # A nearly full disk writes only a part, and fails only at the next write.
            written += self._file.write(data[written:]) or 0
        self._torn = False
        self._size += written
        self._pending.clear()

    def close(self) -> None:
        """Close the file, after a last attempt to write pending records (may raise OSError)."""
        try:
            self.flush()
        finally:
            self._file.close()
