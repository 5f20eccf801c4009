"""Shared by all sources: unsafe names, size limits, reading spans of files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.errors import BadImage

# Far above any encoded photograph; a larger entry is a decompression bomb or a wrong file.
MAX_ENTRY_BYTES = 512 * 1024**2


def unsafe_name(name: str) -> str | None:
    """The reason to reject a name in an archive, or None if it is safe."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "its name is an absolute path"
    if ".." in path.parts:
        return "its name climbs out of the archive ('..')"
    if "\x00" in name:
        return "its name holds a NUL byte"
    return None


def unsafe_size(num_bytes: int) -> str | None:
    """The reason to reject an entry of this many bytes (unpacked), or None if it is acceptable."""
    if num_bytes > MAX_ENTRY_BYTES:
        return f"it unpacks to {num_bytes:,} bytes, more than the {MAX_ENTRY_BYTES:,} allowed"
    return None


class SpanReader:
    """Entries that are spans (offset, length) of a few files, read with pread.

    pread rather than mmap: truncating a mapped file kills the process (SIGBUS), and mapped pages
    count as the process's memory.
    """

    def __init__(
        self,
        files: Sequence[Path],
        file_ids: npt.NDArray[np.integer],
        offsets: npt.NDArray[np.integer],
        lengths: npt.NDArray[np.integer],
    ) -> None:
        self._files = list(files)
        self._file_ids, self._offsets, self._lengths = file_ids, offsets, lengths
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, index: int, limit: int | None = None) -> bytes:
        length = int(self._lengths[index])
        return self.read_span(int(self._file_ids[index]), int(self._offsets[index]), length, limit)

    def read_span(self, file_id: int, offset: int, length: int, limit: int | None = None) -> bytes:
        """`length` bytes at `offset` of a file, or the first `limit` of them."""
        wanted = length if limit is None else min(length, limit)
        path = self._files[file_id]
        try:
            data = os.pread(self._descriptor(file_id), wanted, offset)
        except OSError as error:
            raise BadImage(f"{path.name} cannot be read: {error.strerror}") from error
        if len(data) < wanted:
            raise BadImage(
                f"{path.name} is cut short or does not match its index: the image lies at bytes "
                f"{offset:,} to {offset + length:,}, but the file ends earlier"
            )
        return data

    def _descriptor(self, file_id: int) -> int:
        descriptor = self._descriptors.get(file_id)
        if descriptor is None:
            with self._lock:
                if file_id not in self._descriptors:
                    flags = os.O_RDONLY | os.O_CLOEXEC
                    self._descriptors[file_id] = os.open(self._files[file_id], flags)
                descriptor = self._descriptors[file_id]
        return descriptor

    def close(self) -> None:
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])
