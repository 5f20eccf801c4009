"""Errors of the machine: what a disk, a file server, a limit or a lack of memory causes.

They say nothing about an image, so they never make one a BadImage. Those that may pass are tried
again a few times; the others end with a MachineError that says what to do.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections.abc import Callable
from typing import TypeVar

from realness.data_pipeline.errors import MachineError

logger = logging.getLogger("realness.data")
T = TypeVar("T")

PAUSES = (0.1, 0.5, 2.0, 5.0)
"""Seconds before each new attempt."""

# These say something about one path. EINVAL is what seeking to a negative offset gives, in a
# damaged archive.
_OF_THE_FILE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.ENXIO, errno.EINVAL),
    }
)
_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_LIMITS = frozenset({errno.EMFILE, errno.ENFILE})
# The other half of the open files is for the rest of the process: libraries, sockets, logs.
_SHARE_OF_LIMIT = 2
_logged: set[str] = set()


def is_of_machine(error: BaseException) -> bool:
    """Whether an error comes from the machine rather than from the file that was read.

    Parsers raise OSError without a number for damaged data, which is not an error of the machine.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_FILE
    return isinstance(error, MemoryError)


def patiently(work: Callable[[], T], what: str) -> T:
    """Returns work(), repeated with growing pauses if the machine fails. It must be repeatable.

    what: the file or image, for messages. Raises MachineError if it fails at every attempt, or in
    a way that does not pass. All other errors are passed on.
    """
    for pause in (*PAUSES, None):
        try:
            return work()
        except (OSError, MemoryError) as error:
            if not is_of_machine(error):
                raise
            number = getattr(error, "errno", None)
            if pause is None or number in _LASTING:
                raise machine_error(error, what) from error
            _log_retry(explain(error), what)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _log_retry(reason: str, what: str) -> None:
    """Logs the first error of each kind."""
    if reason not in _logged:
        _logged.add(reason)
        logger.warning("%s: %s; trying again for %.0f s", what, reason, sum(PAUSES))


def machine_error(error: BaseException, what: str) -> MachineError:
    """The error for people: what failed, why, and the remedy."""
    return MachineError(f"{what} cannot be read: {explain(error)}; {_remedy(error)}")


def explain(error: BaseException) -> str:
    """The error in a few words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "out of memory" if isinstance(error, MemoryError) else str(error)


def _remedy(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    again = "then give the same command again, which continues"
    if number in _LIMITS:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"raise the limit of open files (`ulimit -n`, now {limit:,}), {again}"
    if number == errno.ENOMEM:
        return f"use fewer threads or free memory, {again}"
    if number in (errno.EACCES, errno.EPERM):
        return f"restore the permission to read it, {again}"
    if number in _OF_THE_FILE:
        return f"check that its disk is mounted and restore it, {again}"
    return f"check the disk or file server and the system's log (`dmesg`), {again}"


def room_for_files(wanted: int) -> int:
    """How many of `wanted` files may be held open; raises the process's limit first if needed."""
    if wanted > _room():
        raise_limit_of_files()
    return max(1, min(wanted, _room()))


def raise_limit_of_files() -> None:
    """Raises the soft limit of open files to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:  # a sandbox may forbid it
            logger.info("the limit of %d open files cannot be raised: %s", soft, error)


def _room() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_LIMIT


def read_fully(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file.

    A file server may answer with a part of what was asked for.
    """
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    pieces = [data]
    while (missing := length - sum(map(len, pieces))) > 0:
        piece = os.pread(descriptor, missing, offset + length - missing)
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)
