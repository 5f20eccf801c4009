"""Writing files so that a reader, or a kill at any instant, never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def staged_path(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends, and is removed where it raises.

    The bytes reach the disk before the name does, so a power cut cannot leave an empty file.
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
    """A binary file that becomes `path` when the block ends, as `staged_path` does."""
    with staged_path(path) as staged, open(staged, "wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), atomically."""
    with atomic_writer(path) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_staged(folder: Path) -> None:
    """Remove what a killed writer staged in `folder`; call it only where no other one writes."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
