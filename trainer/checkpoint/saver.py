"""Saving while training goes on."""

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
    """Write a checkpoint while everything else waits; collective. Returns and raises as `write`.

    The newest `keep` checkpoints are kept.
    """
    return write(root, _copy(fragments, {}), position, Retention(keep))


class Saver:
    """Writes checkpoints in a thread, one at a time, from a copy in host memory.

    Training stands still for the copy alone. The thread does all else: writing, syncing, checksums,
    the agreement of the ranks and the commit, the very code that one would run without a thread. It
    talks to the other ranks over a group of its own, so that it waits for a slow disk somewhere
    while the training's collectives go on; and `latest` moves no later than it could.

    `start` needs no other rank; `poll` and `wait` are collective. The host copy is allocated once
    and used for every save.
    """

    def __init__(self, root: Path, retention: Retention) -> None:
        self._root = root
        self._retention = retention
        self._group = background_group()
        self._host: dict[str, torch.Tensor] = {}
        self._thread: Thread | None = None
        self._images = 0
        self._problem = ""
        self.failed = False
        """Whether the last save that has ended did so without a checkpoint, on all ranks alike."""
        self._stalled_seconds = 0.0

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still at it; other ranks may differ."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, fragments: list[Fragment], position: Position) -> None:
        """Copy `fragments` and begin to write them. Call `wait` first: one save at a time."""
        if self._thread is not None:
            raise RuntimeError("a checkpoint is still being written; wait for it first")
        started = time.monotonic()
        copies = _copy(fragments, self._host)
        self._stalled_seconds += time.monotonic() - started
        self._images, self._problem = position.images, ""
        self._thread = Thread(
            target=self._write, args=(copies, position), name="checkpoint", daemon=True
        )
        self._thread.start()

    def poll(self) -> Outcome | None:
        """The outcome of a save that has ended on all ranks since the last call; else None."""
        if self._thread is None or any(gather(self._thread.is_alive())):
            return None
        return self.wait()

    def wait(self) -> Outcome | None:
        """Wait for the save under way and return its outcome; None when there is none."""
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
        """How long training has stood still for checkpoints since the last call (no collective)."""
        seconds, self._stalled_seconds = self._stalled_seconds, 0.0
        return seconds

    def close(self) -> None:
        """Let a save under way end, unless the other ranks no longer take part in it."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _write(self, fragments: list[Fragment], position: Position) -> None:
        try:
            write(self._root, fragments, position, self._retention, self._group)
        except CheckpointError as error:
            self._problem = str(error)
        except Exception as error:
            # Another rank's death, or a fault of this program; the main thread must hear of both.
            log.exception("writing the checkpoint at %d images failed", position.images)
            self._problem = repr(error)


def _copy(fragments: list[Fragment], host: dict[str, torch.Tensor]) -> list[Fragment]:
    """The fragments in host memory: in the tensors of `host`, which gets those that it lacks."""
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
