"""Removal of old checkpoints, and the check that the disk has space for the next ones."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from realness.trainer.config import ConfigError
from realness.trainer.distributed.ranks import rank
from realness.trainer.storage.checkpoint_folder import (
    BEST,
    by_preference,
    checkpoint_root,
    list_checkpoints,
    read_best,
    read_latest,
    remove_checkpoint,
    write_best,
)

log = logging.getLogger("realness.trainer")

_ONE_POINTS = Lock()
"""The training loop points to the best checkpoint after a measurement, and the thread that writes
checkpoints does so before it removes any: the one that comes last must have looked last."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints to keep: the newest `keep`, the best one, and some forever.

    The first checkpoint of every `every_images` images (0: none) is kept forever. losses: scores by
    images, of which less is better, to which a run adds while it measures; None if it does not.
    """

    keep: int
    every_images: float = 0
    losses: Mapping[int, float] | None = None

    def kept_forever(self, images: Iterable[int]) -> set[int]:
        """Which of the checkpoints after `images` images each are kept forever."""
        first: dict[int, int] = {}
        for count in sorted(images) if self.every_images else ():
            first.setdefault(math.floor(count / self.every_images), count)
        return {count for interval, count in first.items() if interval > 0}

    def best(self, root: Path) -> str:
        """The checkpoint in `root` with the best score, the oldest of equals; empty if none has a
        score."""
        losses = dict(self.losses or {})  # a copy, because the run's other thread adds to it
        scored = [path.name for path in list_checkpoints(root) if int(path.name) in losses]
        return min(scored, key=lambda name: losses[int(name)], default="")

    def to_delete(self, root: Path) -> list[str]:
        """Names of the checkpoints in `root` to delete; never the best one, nor those that `latest`
        and `best` name."""
        names = by_preference(root)
        kept = self.kept_forever(map(int, names))
        named = {read_latest(root), read_best(root), self.best(root)}
        return [name for name in names[self.keep :] if name not in named and int(name) not in kept]


def point_to_best(root: Path, retention: Retention) -> None:
    """Let the file `best` name the best checkpoint on disk, if one has a score.

    If it cannot be written, a warning says so, and the next call tries again.
    """
    with _ONE_POINTS:
        best = retention.best(root)
        if not best or best == read_best(root):
            return
        try:
            write_best(root, best)
        except OSError as error:
            log.warning("%s cannot be written: %s", root / BEST, error)


def prune(root: Path, retention: Retention) -> None:
    """Remove checkpoints that `retention` does not keep.

    `best` names its checkpoint before another one goes. If one cannot be removed, a warning names
    it, and the next call tries again.
    """
    point_to_best(root, retention)
    for name in retention.to_delete(root):
        try:
            remove_checkpoint(root / name)
        except OSError as error:
            log.warning("the old checkpoint %s cannot be removed: %s", root / name, error)


def check_free_space(
    folder: Path, checkpoint_bytes: int, retention: Retention, num_images: int
) -> None:
    """Raise ConfigError unless the disk can hold the checkpoints to keep and one being written.

    checkpoint_bytes: size of one checkpoint; num_images: length of the run. If the disk will become
    too small for those kept forever, only a warning is logged: there is time to move them.
    """
    existing = {int(path.name) for path in list_checkpoints(checkpoint_root(folder))}
    kept_forever = retention.kept_forever(existing)
    most = retention.keep + 1 + (retention.losses is not None)
    wanted = checkpoint_bytes * max(1, most - len(existing - kept_forever))
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ConfigError(
            f"the disk of --run-dir={folder} has {free / 2**30:.1f} GiB free, but the checkpoints "
            f"of this run still need {wanted / 2**30:.1f} GiB ({checkpoint_bytes / 2**30:.2f} GiB "
            "each); free some space, lower --keep-checkpoints, or use another disk"
        )
    if not retention.every_images:
        return
    to_come = math.floor(num_images / retention.every_images) - len(kept_forever)
    if free < wanted + to_come * checkpoint_bytes and rank() == 0:
        log.warning(
            "--keep-checkpoint-kimg=%g will keep %d more checkpoints of %.2f GiB, but the disk of "
            "--run-dir=%s has %.1f GiB free: move some of them to another disk in time",
            retention.every_images / 1000,
            to_come,
            checkpoint_bytes / 2**30,
            folder,
            free / 2**30,
        )
