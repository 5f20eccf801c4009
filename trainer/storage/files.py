"""Atomic writing of files: neither a reader nor a kill at any time leaves a partial file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def staged_path(path: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `path` when the block ends, and removed if it raises.

    The contents are synced to disk before the rename, so a power cut cannot leave an empty file.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield staged
        sync(staged)
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that is renamed to `path` when the block ends, as in `staged_path`."""
    with staged_path(path) as staged, open(staged, "wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Replace the contents of `path` with `text` (UTF-8), atomically."""
    with atomic_writer(path) as file:
        file.write(text.encode())


UNABLE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR}
"""What file systems answer that cannot open or sync a folder."""


def sync(path: Path) -> None:
    """Sync a file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> bool:
    """Sync a folder's list of names to disk.

    Returns False where the file system cannot (vboxsf, older CIFS, some FUSE): it keeps the list
    in its own way, and a power cut may lose the last renames.
    """
    try:
        sync(folder)
    except OSError as error:
        if error.errno in UNABLE:
            return False
        raise
    return True


def remove_staged(folder: Path) -> None:
    """Remove temporary files of killed writers from `folder`, which nothing else may write to."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
