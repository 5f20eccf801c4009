"""Open files that are read in place: a bounded number of descriptors, reused."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realness.data_pipeline.machine import raise_limit_of_files, read_fully, room_for_files

MOST_DESCRIPTORS = 4096


@dataclass
class _Open:
    """An open file, the number of threads that read from it, and whether to close it after them."""

    descriptor: int
    num_users: int = 0
    dropped: bool = False


class Descriptors:
    """Reads any of a list of files with pread, from any thread.

    At most `most` files stay open (default: as many as the process's limit allows), and the one
    that was used least recently is closed first, or as soon as no thread reads from it.
    """

    def __init__(self, files: Sequence[Path], most: int | None = None) -> None:
        self.files = list(files)
        self._most = most or room_for_files(min(len(self.files), MOST_DESCRIPTORS))
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, file_id: int, length: int, offset: int) -> bytes:
        """`length` bytes at `offset` of a file, fewer only at its end. Raises OSError."""
        entry = self._borrow(file_id)
        try:
            return read_fully(entry.descriptor, length, offset)
        except OSError:
            # A stale handle stays stale; the next attempt opens the file again.
            self._drop(file_id, entry)
            raise
        finally:
            self._give_back(entry)

    @property
    def num_open(self) -> int:
        """Number of files that are open for reuse."""
        return len(self._open)

    def close(self) -> None:
        """Closes all files, those in use as soon as they are not."""
        with self._lock:
            while self._open:
                self._retire(self._open.popitem()[1])

    def _borrow(self, file_id: int) -> _Open:
        with self._lock:
            if entry := self._open.get(file_id):
                self._open.move_to_end(file_id)
                entry.num_users += 1
                return entry
        descriptor = self._open_file(file_id)
        with self._lock:
            if entry := self._open.get(file_id):  # another thread was faster
                os.close(descriptor)
            else:
                entry = self._open[file_id] = _Open(descriptor)
            entry.num_users += 1
            self._shrink()
        return entry

    def _open_file(self, file_id: int) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            return os.open(self.files[file_id], flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        # Others have used up the descriptors: get by with half of ours.
        raise_limit_of_files()
        with self._lock:
            self._most = max(1, len(self._open) // 2)
            self._shrink()
        return os.open(self.files[file_id], flags)

    def _shrink(self) -> None:
        """Closes what was used least recently."""
        while len(self._open) > self._most:
            self._retire(self._open.popitem(last=False)[1])

    def _drop(self, file_id: int, entry: _Open) -> None:
        with self._lock:
            if self._open.get(file_id) is entry:
                del self._open[file_id]
            entry.dropped = True

    def _give_back(self, entry: _Open) -> None:
        with self._lock:
            entry.num_users -= 1
            if entry.dropped and not entry.num_users:
                os.close(entry.descriptor)

    def _retire(self, entry: _Open) -> None:
        """Closes a file taken off the list; if it is in use, its last user closes it."""
        entry.dropped = True
        if not entry.num_users:
            os.close(entry.descriptor)
