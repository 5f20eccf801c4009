"""Which checkpoints stay, and removing the others."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from realness.trainer.checkpoint.format import STAGING, candidates, read_latest

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
        names = candidates(root)
        forever = self.milestones(map(int, names))
        latest = read_latest(root)
        return [name for name in names[self.keep :] if name != latest and int(name) not in forever]


def prune(root: Path, retention: Retention) -> None:
    """Remove what `retention` does not keep; what cannot be removed is named, and tried again."""
    for name in retention.doomed(root):
        try:
            remove(root / name)
        except OSError as error:
            log.warning("the old checkpoint %s cannot be removed: %s", root / name, error)


def remove(folder: Path) -> None:
    """Remove a checkpoint, under a staging name first: a kill must not leave a part of it."""
    removed = folder.with_name(f"{STAGING}removed-{folder.name}")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
