"""Shared by all sources: unsafe names, size limits, reading spans of files."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.machine import machine_error, patiently
from realness.data_pipeline.sources.descriptors import Descriptors

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
        self._files = Descriptors(files)
        self._file_ids, self._offsets, self._lengths = file_ids, offsets, lengths

    def read(self, index: int, limit: int | None = None) -> bytes:
        length = int(self._lengths[index])
        return self.read_span(int(self._file_ids[index]), int(self._offsets[index]), length, limit)

    def read_span(self, file_id: int, offset: int, length: int, limit: int | None = None) -> bytes:
        """`length` bytes at `offset` of a file, or the first `limit` of them.

        Raises BadImage if the file ends before, and MachineError if it cannot be read.
        """
        wanted = length if limit is None else min(length, limit)
        path = self._files.files[file_id]
        try:
            data = patiently(lambda: self._files.read(file_id, wanted, offset), str(path))
        except OSError as error:
            if error.errno == errno.EINVAL:  # no offset of a file
                raise BadImage(f"{path.name} has a damaged index (byte {offset:,})") from error
            # The file was there when the set was opened, and it holds many images.
            raise machine_error(error, str(path)) from error
        if len(data) < wanted:
            raise BadImage(
                f"{path.name} is cut short or does not match its index: the image lies at bytes "
                f"{offset:,} to {offset + length:,}, but the file ends earlier"
            )
        return data

    def close(self) -> None:
        self._files.close()
