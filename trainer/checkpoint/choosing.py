"""Which checkpoints of a run a command works on."""

from __future__ import annotations

from pathlib import Path

from realness.trainer.config import ConfigError
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    list_checkpoints,
    read_latest,
)


def choose_checkpoints(run: Path, which: str) -> list[Path]:
    """The checkpoints meant by `latest`, `all`, or a number of images seen.

    Raises:
        ConfigError: where there is none, or not that one.
    """
    root = checkpoint_root(run)
    found = list_checkpoints(root)
    if not found:
        raise ConfigError(f"{run} holds no checkpoint; train the run first, or name another folder")
    if which == "all":
        return found
    if which == "latest":
        named = read_latest(root)
        return [path for path in found if path.name == named] or found[-1:]
    wanted = [path for path in found if which.isdigit() and int(path.name) == int(which)]
    if not wanted:
        raise ConfigError(
            f"--checkpoint={which} is none of {run}'s; use latest, all, or the images seen by "
            f"one of them: {', '.join(str(int(path.name)) for path in found)}"
        )
    return wanted
