"""Writing files so that a reader, or a kill at any instant, never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends, and leaves nothing where it raises.

    The bytes reach the disk before the name does, so a power cut cannot leave an empty file.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(staged, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), atomically."""
    with atomic_writer(path) as file:
        file.write(text.encode())


def remove_staged(folder: Path) -> None:
    """Remove what a killed writer staged in `folder`; call it only where no other one writes."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
