"""Which checkpoints of a run a command works on."""

from __future__ import annotations

from pathlib import Path

from realness.trainer.checkpoint.format import read_latest
from realness.trainer.config import ConfigError


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    found = [path for path in (run / "checkpoints").glob("[0-9]*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def choose_checkpoints(run: Path, which: str) -> list[Path]:
    """The checkpoints meant by `latest`, `all`, or a number of images seen.

    Raises:
        ConfigError: where there is none, or not that one.
    """
    found = list_checkpoints(run)
    if not found:
        raise ConfigError(f"{run} holds no checkpoint; train the run first, or name another folder")
    if which == "all":
        return found
    if which == "latest":
        named = read_latest(run / "checkpoints")
        return [path for path in found if path.name == named] or found[-1:]
    wanted = [path for path in found if which.isdigit() and int(path.name) == int(which)]
    if not wanted:
        raise ConfigError(
            f"--checkpoint={which} is none of {run}'s; use latest, all, or the images seen by "
            f"one of them: {', '.join(str(int(path.name)) for path in found)}"
        )
    return wanted
