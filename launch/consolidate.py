"""Merge a sharded checkpoint into one file per network: `python launch/consolidate.py RUN OUT`.

Writes G.safetensors, G-ema.safetensors (the moving average), D.safetensors and config.json into
OUT, with the weights exactly as trained. Runs in a single process without DeepSpeed and holds one
network in memory at a time. Exit codes: 0 done, 1 OUT cannot be written (disk full), 2 invalid
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_and_report, run_as_script


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the files; created if it does not exist."""
    checkpoint: str = "latest"
    """latest, or the number of images seen by one of the run's checkpoints."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    force: bool = False
    """Replace the files of an earlier call."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(Command, arguments, description=__doc__)
    return run_and_report(lambda: _consolidate(command), command.out)


def _consolidate(command: Command) -> str:
    from realness.trainer.checkpoint.choosing import choose_checkpoints, load_chosen
    from realness.trainer.config import ConfigError
    from realness.trainer.config.plugins import load_plugins
    from realness.trainer.inference.consolidate import consolidate

    load_plugins(command.plugin)
    if command.checkpoint == "all":
        raise ConfigError("--checkpoint=all: name one checkpoint, or latest")
    folder, files = load_chosen(
        lambda: choose_checkpoints(command.run, command.checkpoint)[-1],
        lambda folder: (
            folder,
            consolidate(command.run, folder, command.out, overwrite=command.force),
        ),
    )
    names = ", ".join(path.name for path in files)
    return f"{command.out}: {names}, after {int(folder.name):,} images of training"


if __name__ == "__main__":
    run_as_script(main)
