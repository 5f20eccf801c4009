"""Standard output and error that never fail: what cannot be written is dropped."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class _LossyFile(io.FileIO):
    """A file that pretends to have written what a full disk, pipe or terminal refused."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        # None: a non-blocking descriptor is full. The buffer above would raise BlockingIOError.
        return memoryview(data).nbytes if written is None else written


def tolerate_lost_output() -> None:
    """Keep output that nobody can receive from ending this process or changing its exit code.

    A closed pipe (`| head`), a full disk (`> log`) and a terminal that has gone make every print,
    warning and log line raise OSError, and the flush at exit turns a code of 0 into 120. After this
    call such output is dropped, and written again once that is possible. Descriptors that are
    closed (`>&-`) are connected to /dev/null; otherwise the next file that is opened would receive
    what libraries print. Streams that a caller has replaced, such as a test, are left alone.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # open() returns the lowest number that is free: this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        current = getattr(sys, name)
        if current is getattr(sys, f"__{name}__") and not _is_lossy(current):
            lossy = _lossy(current, number)
            setattr(sys, name, lossy)
            setattr(sys, f"__{name}__", lossy)


def _is_lossy(stream: TextIO | None) -> bool:
    buffer = getattr(stream, "buffer", None)
    return isinstance(getattr(buffer, "raw", buffer), _LossyFile)


def _lossy(stream: TextIO | None, number: int) -> TextIO:
    """A stream with the settings of `stream` that writes to the descriptor `number`."""
    file = _LossyFile(number, "wb", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):  # it was closed
        return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        stream.flush()
    unbuffered = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
