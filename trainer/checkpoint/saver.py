"""Saving checkpoints in the background while training continues."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import torch

from realness.trainer.checkpoint.format import CheckpointError, Position
from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.checkpoint.retention import Retention
from realness.trainer.checkpoint.writer import write
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import background_group

CLOSE_SECONDS = 60

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class Outcome:
    """How a save ended: images seen at its checkpoint, and what went wrong (empty: nothing)."""

    images: int
    problem: str


def save(root: Path, fragments: list[Fragment], position: Position, *, keep: int) -> Path:
    """Write a checkpoint in the calling thread; collective. Returns and raises as `write` does.

    The newest `keep` checkpoints are kept.
    """
    return write(root, _copy(fragments, {}), position, Retention(keep))


class Saver:
    """Writes checkpoints in a thread, one at a time, from a copy in host memory.

    Training waits only for the copy. The thread does the rest with `write`: writing, syncing,
    checksums, the agreement of the ranks and the commit. It communicates over a separate process
    group, so that it can wait for a slow disk on another rank while the collectives of training
    continue, and `latest` moves as soon as possible.

    `start` is not collective; `poll` and `wait` are. The host copy is allocated once and reused for
    every save.
    """

    def __init__(self, root: Path, retention: Retention) -> None:
        self._root = root
        self.retention = retention
        self._group = background_group()
        self._host: dict[str, torch.Tensor] = {}
        self._thread: Thread | None = None
        self._images = 0
        self._problem = ""
        self.failed = False
        """Whether the last finished save failed; the same on all ranks."""
        self._stalled_seconds = 0.0

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still writing; other ranks may differ."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self, fragments: list[Fragment], position: Position, after: Saver | None = None
    ) -> None:
        """Copy `fragments` and start writing them. Call `wait` first: one save at a time.

        after: a saver whose current save, if any, must end before this one is written.
        """
        if self._thread is not None:
            raise RuntimeError("a checkpoint is still being written; wait for it first")
        started = time.monotonic()
        copies = _copy(fragments, self._host)
        self._stalled_seconds += time.monotonic() - started
        self._images, self._problem = position.images, ""
        self._thread = Thread(
            target=self._write,
            args=(copies, position, after._thread if after else None),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    def poll(self) -> Outcome | None:
        """The outcome of the current save if it has ended on all ranks; otherwise None."""
        if self._thread is None or any(gather(self._thread.is_alive())):
            return None
        return self.wait()

    def wait(self) -> Outcome | None:
        """Wait for the current save and return its outcome; None if there is none."""
        if self._thread is None:
            return None
        started = time.monotonic()
        self._thread.join()
        self._stalled_seconds += time.monotonic() - started
        self._thread = None
        problems = [problem for problem in gather(self._problem) if problem]
        self.failed = bool(problems)
        return Outcome(self._images, problems[0] if problems else "")

    def take_stalled_seconds(self) -> float:
        """Seconds that training waited for checkpoints since the last call (not collective)."""
        seconds, self._stalled_seconds = self._stalled_seconds, 0.0
        return seconds

    def close(self) -> None:
        """Wait at most CLOSE_SECONDS for the current save, as other ranks may have ended."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _write(self, fragments: list[Fragment], position: Position, before: Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            write(self._root, fragments, position, self.retention, self._group)
        except CheckpointError as error:
            self._problem = str(error)
        except Exception as error:
            # Another rank died, or there is a bug; report both to the main thread.
            log.exception("writing the checkpoint at %d images failed", position.images)
            self._problem = repr(error)


def _copy(fragments: list[Fragment], host: dict[str, torch.Tensor]) -> list[Fragment]:
    """Copies of the fragments in the tensors of `host`, which are allocated if missing."""
    copies = []
    for item in fragments:
        pinned = item.data.is_cuda
        if item.name not in host:
            host[item.name] = torch.empty_like(item.data, device="cpu", pin_memory=pinned)
        copy = host[item.name].copy_(item.data, non_blocking=pinned)
        copies.append(Fragment(item.name, item.offset, copy, item.numel))
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copies
