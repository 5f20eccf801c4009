"""Make a film of a run's sample grids: `python launch/film.py RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script, write_and_report

MAX_FRAMES = 200
LAST_FRAME_MS = 2000


@dataclass(frozen=True)
class FilmCommand:
    """Make a film of a run's sample grids; for RealnessGAN, D's distributions over realness and
    their anchors are shown next to them.

    It only reads the run's folder, so it works on any machine and while a run is in progress.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    out: Path | None = None
    """Path of the film; by default film.gif or film.mp4 in the run folder."""
    animation: Literal["gif", "mp4"] = "gif"
    """Format of the film; mp4 needs the extra `video`."""
    frame_ms: int = 250
    """Milliseconds per frame. The last frame is shown for two seconds."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(FilmCommand, arguments)
    return write_and_report(lambda: _write(command), "film")


def _write(command: FilmCommand) -> Path:
    from realness.trainer.config import ConfigError
    from realness.trainer.inference.video import check_video, write_animation
    from realness.trainer.reporting import load_run
    from realness.trainer.reporting.film import film

    if command.frame_ms < 20:
        raise ConfigError(f"--frame-ms={command.frame_ms}; use at least 20")
    if command.animation == "mp4":
        check_video()
    out = command.out or command.run / f"film.{command.animation}"
    held = round(LAST_FRAME_MS / command.frame_ms)
    frames = film(load_run(command.run), MAX_FRAMES, times_last=max(1, held))
    write_animation(frames, out, frame_ms=command.frame_ms)
    return out


if __name__ == "__main__":
    run_as_script(main)
