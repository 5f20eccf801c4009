"""Which checkpoints stay, and whether the disk can take the next ones."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from realness.trainer.config import ConfigError
from realness.trainer.distributed.ranks import rank
from realness.trainer.storage.checkpoint_folder import (
    by_preference,
    checkpoint_root,
    list_checkpoints,
    read_latest,
    remove_checkpoint,
)

log = logging.getLogger("realness.trainer")


@dataclass(frozen=True)
class Retention:
    """The newest `keep`, and for good the first one of every `every_images` images (0: none)."""

    keep: int
    every_images: float = 0

    def milestones(self, images: Iterable[int]) -> set[int]:
        """Those that stay for good, by images seen."""
        first: dict[int, int] = {}
        for count in sorted(images) if self.every_images else ():
            first.setdefault(math.floor(count / self.every_images), count)
        return {count for interval, count in first.items() if interval > 0}

    def doomed(self, root: Path) -> list[str]:
        """The folders under `root` that may go; never what `latest` names."""
        names = by_preference(root)
        forever = self.milestones(map(int, names))
        latest = read_latest(root)
        return [name for name in names[self.keep :] if name != latest and int(name) not in forever]


def prune(root: Path, retention: Retention) -> None:
    """Remove what `retention` does not keep; what cannot be removed is named, and tried again."""
    for name in retention.doomed(root):
        try:
            remove_checkpoint(root / name)
        except OSError as error:
            log.warning("the old checkpoint %s cannot be removed: %s", root / name, error)


def check_free_space(
    folder: Path, checkpoint_bytes: int, retention: Retention, num_images: int
) -> None:
    """Raise ConfigError unless the disk can take the next checkpoint beside the one it replaces.

    checkpoint_bytes: size of one checkpoint; num_images: length of the run. A disk that will be too
    small for the checkpoints that stay for good gets a warning: there is time to move them away.
    """
    existing = {int(path.name) for path in list_checkpoints(checkpoint_root(folder))}
    milestones = retention.milestones(existing)
    wanted = checkpoint_bytes * max(1, retention.keep + 1 - len(existing - milestones))
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ConfigError(
            f"the disk of --run-dir={folder} has {free / 2**30:.1f} GiB free, but the checkpoints "
            f"of this run still need {wanted / 2**30:.1f} GiB ({checkpoint_bytes / 2**30:.2f} GiB "
            "each); free some space, lower --keep-checkpoints, or use another disk"
        )
    if not retention.every_images:
        return
    to_come = math.floor(num_images / retention.every_images) - len(milestones)
    if free < wanted + to_come * checkpoint_bytes and rank() == 0:
        log.warning(
            "--keep-checkpoint-kimg=%g will keep %d more checkpoints of %.2f GiB, but the disk of "
            "--run-dir=%s has %.1f GiB free: move some of them away in time",
            retention.every_images / 1000,
            to_come,
            checkpoint_bytes / 2**30,
            folder,
            free / 2**30,
        )
