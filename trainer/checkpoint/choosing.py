"""Selecting the checkpoints of a run that a command works on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from realness.trainer.checkpoint.format import CheckpointRemoved
from realness.trainer.config import ConfigError
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    list_checkpoints,
    read_latest,
)

ATTEMPTS = 5

Result = TypeVar("Result")


def load_chosen(choose: Callable[[], Path], load: Callable[[Path], Result]) -> Result:
    """`load(folder)` of the checkpoint that `choose` selects.

    A run in progress removes old checkpoints: if that happens while one is read, `choose` is asked
    again. Raises what the two raise; CheckpointRemoved after the last of ATTEMPTS.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(CheckpointRemoved):
            return load(choose())
    return load(choose())


def choose_checkpoints(run: Path, which: str) -> list[Path]:
    """The checkpoints selected by `latest`, `all`, or a number of images seen.

    Raises:
        ConfigError: if the run has no checkpoint, or not the one asked for.
    """
    root = checkpoint_root(run)
    found = list_checkpoints(root)
    if not found:
        raise ConfigError(f"{run} holds no checkpoint; train the run first, or use another folder")
    if which == "all":
        return found
    if which == "latest":
        named = read_latest(root)
        return [path for path in found if path.name == named] or found[-1:]
    wanted = [path for path in found if which.isdigit() and int(path.name) == int(which)]
    if not wanted:
        raise ConfigError(
            f"--checkpoint={which} is not a checkpoint of {run}; use latest, all, or the images "
            f"seen by one of them: {', '.join(str(int(path.name)) for path in found)}"
        )
    return wanted
