"""Outputs of a run that cannot be written: reported once, without ending the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class FaultLog:
    """Keeps a full disk from ending a run: reports each output's failure once, and its recovery.

    Only OSError is suppressed, because it comes from the file system; other errors are bugs.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """warn: shows a line to the user."""
        self._warn = warn
        self._broken: set[str] = set()

    @contextmanager
    def hold(self, output: str, remedy: str) -> Iterator[None]:
        """Run the block; if it raises OSError, warn and continue.

        `output` names what is written; `remedy` says what happens to it in the meantime.
        """
        try:
            yield
        except OSError as error:
            if output not in self._broken:
                self._broken.add(output)
                reason = error.strerror or error
                self._warn(
                    f"WARNING: cannot write {output}: {reason}. Training continues; {remedy}"
                )
        else:
            if output in self._broken:
                self._broken.remove(output)
                self._warn(f"Writing {output} works again.")

    def broken(self, output: str) -> bool:
        """Whether the last attempt to write `output` failed."""
        return output in self._broken
