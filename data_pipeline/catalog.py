"""A catalog: any source as a numbered list of images, each a span of bytes in some file."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.errors import BadImage

logger = logging.getLogger("realness.data")
RawOrder = Literal["HWC", "CHW"]


class NameTable:
    """A list of names, stored as one UTF-8 block and its end offsets: about 30 bytes per name."""

    def __init__(self, blob: bytes | np.ndarray, ends: npt.NDArray[np.integer]) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> NameTable:
        parts = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), dtype=np.int64)
        return cls(b"".join(parts), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return bytes(self.blob[start : int(self.ends[index])]).decode("utf-8", "surrogateescape")


class Reader(Protocol):
    """Reads the bytes of entry i. Thread-safe.

    Raises BadImage if the entry cannot be read, and MachineError if nothing can be.
    """

    def read(self, index: int, limit: int | None = None) -> bytes:
        """All bytes of the entry, or its first `limit`."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class RawLayout:
    """Format of entries that are bare uint8 pixels: their shape (3, H, W) and memory order.

    HWC keeps the three values of a pixel together, as batches do; CHW is three planes. Grey pixels
    have the shape (1, H, W), and become RGB with three equal channels.
    """

    shape: tuple[int, int, int]
    order: RawOrder = "CHW"

    def __post_init__(self) -> None:
        if self.order not in get_args(RawOrder):
            raise ValueError(f"order={self.order!r} of raw pixels is unknown; use 'HWC' or 'CHW'")

    @property
    def num_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def pixels(self, data: bytes) -> npt.NDArray[np.uint8]:
        """View an entry's bytes as uint8 [H, W, 3]. Raises BadImage if the length differs."""
        if len(data) != self.num_bytes:
            raise BadImage(f"holds {len(data):,} bytes, not the {self.num_bytes:,} of {self.shape}")
        channels, height, width = self.shape
        values = np.frombuffer(data, np.uint8)
        if channels == 1:
            return np.broadcast_to(values.reshape(height, width, 1), (height, width, 3))
        if self.order == "HWC":
            return values.reshape(height, width, channels)
        return values.reshape(self.shape).transpose(1, 2, 0)


@dataclass(frozen=True)
class Shard:
    """A file of a prepared set, the part it belongs to, and its minimum size in bytes.

    The shards of a part need to be present only on the nodes that read the part.
    """

    path: Path
    part: int
    num_bytes: int


@dataclass
class Catalog:
    """Images 0 .. len - 1 of a source, read at random and from any thread.

    source: the path it was opened from. kind: "folder", "zip", "tar", "packed", ... names, lengths
    (bytes), crc32 (of the bytes; None if the source stores none), labels (int, -1 for none).
    class_names: by class number; empty if the source names none.
    raw: set if entries are pixels rather than encoded images. resolution: set if the source
    guarantees one (a prepared set). refused: images left out on opening, as (name, reason).
    others, hidden: numbers of other files, by kind, and of hidden ones, by folder. notes: what else
    the user should know. flags: the flags of commands that open the source in the same way.
    num_parts: image i belongs to part i % num_parts. shards: the files of a prepared set.
    """

    source: str
    kind: str
    names: NameTable
    lengths: npt.NDArray[np.integer]
    reader: Reader
    crc32: npt.NDArray[np.integer] | None = None
    labels: npt.NDArray[np.integer] | None = None
    class_names: Sequence[str] = ()
    raw: RawLayout | None = None
    resolution: int | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Mapping[str, int] = field(default_factory=dict)
    hidden: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    flags: Sequence[str] = ()
    num_parts: int = 1
    shards: list[Shard] = field(default_factory=list)
    _bad: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _digest: str | None = None
    _warned: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The entry's name inside its source."""
        return self.names[index]

    def label(self, index: int) -> int | None:
        """The entry's class, or None if it has none."""
        if self.labels is None or self.labels[index] < 0:
            return None
        return int(self.labels[index])

    @property
    def num_classes(self) -> int:
        """Number of classes: of names, or the largest label + 1 if more; 0 without labels."""
        if self.labels is None or not len(self):
            return 0
        return max(len(self.class_names), int(self.labels.max()) + 1)

    def relabel(
        self, labels: npt.NDArray[np.integer] | None, class_names: Sequence[str] = ()
    ) -> None:
        """Replaces all labels, int [len(self)], and with them the digest."""
        self.labels, self.class_names, self._digest = labels, class_names, None

    def read(self, index: int) -> bytes:
        """All bytes of the entry. Raises BadImage if they are missing or fail their CRC."""
        data = self.reader.read(index)
        if self.crc32 is not None and zlib.crc32(data) != int(self.crc32[index]):
            raise BadImage("its bytes do not match the CRC-32 in the index (damaged or replaced)")
        return data

    def read_head(self, index: int, limit: int) -> bytes:
        """The entry's first `limit` bytes, without a CRC check."""
        return self.reader.read(index, limit)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over names, lengths and, if present, CRCs, labels and parts."""
        if self._digest is None:
            self._digest = content_digest(
                self.names, self.lengths, self.crc32, self.labels, self.num_parts
            )
        return self._digest

    def listing(self) -> str:
        """The numbers of images taken, images refused and other files, which add up to all files.

        Hidden files are those whose name begins with a dot, or that lie in hidden or trash folders.
        """
        parts = [_counted(len(self), "image")] if len(self) else []
        if self.refused:
            name, reason = self.refused[0]
            parts.append(f"{len(self.refused):,} refused (the first is {name!r}: {reason})")
        if number := sum(self.others.values()):
            parts.append(f"{_counted(number, 'other file')} ({_most_frequent(self.others)})")
        if number := sum(self.hidden.values()):
            parts.append(f"{_counted(number, 'hidden file')} ({_most_frequent(self.hidden)})")
        return f"{printable(self.source)}: {', '.join(parts) or 'nothing'}"

    def messages(self) -> list[str]:
        """What the user should be told on opening: the listing, then the notes, one line each."""
        return [self.listing(), *map(printable, self.notes)]

    def prepare_command(self, resolution: int, *more: str) -> str:
        """The shell command that prepares this source, opened in the same way, as a set OUT."""
        source = f"./{self.source}" if self.source.startswith("-") else self.source
        words = [source, "OUT", "--resolution", str(resolution), *self.flags, *more]
        return " ".join(["python launch/prepare.py", *map(_quoted, words)])

    def report_bad(self, index: int, reason: str, *, level: int = logging.WARNING) -> None:
        """Logs a bad image by name, once per process."""
        with self._lock:
            known = index in self._bad
            self._bad.setdefault(index, reason)
        if not known:
            logger.log(level, "bad image %s: %s", printable(self.name(index)), reason)

    @property
    def num_bad_images(self) -> int:
        """Number of distinct images reported bad in this process, by any stream."""
        return len(self._bad)

    def warn_once(self, message: str) -> None:
        """Logs a warning about the whole set; only the first call logs, from whichever stream."""
        with self._lock:
            said, self._warned = self._warned, True
        if not said:
            logger.warning("%s", message)

    def close(self) -> None:
        """Closes all open files."""
        self.reader.close()


def printable(text: str) -> str:
    """The text on one line; names may hold line breaks, and bytes that are not valid UTF-8."""
    return text if text.isprintable() else repr(text)[1:-1]


def _quoted(word: str) -> str:
    """A word of a shell's command line, on one line."""
    if word.isprintable():
        return shlex.quote(word)
    characters = (chr(byte) for byte in os.fsencode(word))
    safe = (c if c.isascii() and c.isprintable() and c not in "'\\" else f"\\x{ord(c):02x}"
            for c in characters)  # fmt: skip
    return f"$'{''.join(safe)}'"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _most_frequent(counts: Mapping[str, int], shown: int = 6) -> str:
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = [f"{number:,} {printable(kind)}" for kind, number in ranked[:shown]]
    if rest := sum(number for _, number in ranked[shown:]):
        listed.append(f"{rest:,} of other kinds")
    return ", ".join(listed)


def content_digest(
    names: NameTable,
    lengths: npt.NDArray[np.integer],
    crc32: npt.NDArray[np.integer] | None,
    labels: npt.NDArray[np.integer] | None,
    num_parts: int,
) -> str:
    """The digest of a catalog's contents and of what determines its order; see Catalog.digest."""
    state = hashlib.sha256(f"realness catalog, {len(names)} images\n".encode())
    if num_parts > 1:
        state.update(f"{num_parts} parts\n".encode())
    state.update(bytes(names.blob))
    columns: list[tuple[npt.NDArray[np.integer] | None, type]] = [
        (names.ends, np.int64),
        (lengths, np.int64),
        (crc32, np.uint32),
        (labels, np.int32),
    ]
    for column, dtype in columns:
        if column is not None:
            state.update(np.ascontiguousarray(column, dtype).tobytes())
    return state.hexdigest()
