"""Writing files so that a reader, or a kill at any instant, never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


class FaultLog:
    """Keeps a full disk from ending a run: each output's failure is said once, and its recovery.

    Only OSError is held back: the file system is outside the program, a bug is not.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """`warn` shows a line to the user."""
        self._warn = warn
        self._broken: set[str] = set()

    @contextmanager
    def hold(self, output: str, remedy: str) -> Iterator[None]:
        """Run the block; where it raises OSError, warn and go on.

        `output` names what is written; `remedy` says what becomes of it meanwhile.
        """
        try:
            yield
        except OSError as error:
            if output not in self._broken:
                self._broken.add(output)
                reason = error.strerror or error
                self._warn(f"WARNING: cannot write {output}: {reason}. Training goes on; {remedy}")
        else:
            if output in self._broken:
                self._broken.remove(output)
                self._warn(f"Writing {output} works again.")

    def broken(self, output: str) -> bool:
        """Whether the last attempt to write `output` failed."""
        return output in self._broken
