"""Builds the HTML report of one or more runs: `python launch/report.py RUN [RUN …]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script, write_and_report

COMPARISON_FILE = "comparison.html"


@dataclass(frozen=True)
class ReportCommand:
    """Build a self-contained HTML report: curves, sample grids, realness distributions,
    configuration. Several runs share one page with overlaid curves.

    It only reads the run folders, so it works on any machine and while a run is in progress.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs (their --run-dir)."""
    out: Path | None = None
    """Path of the page; by default report.html in the run folder, or for several runs
    comparison.html in the current folder."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    command = read_command_line(ReportCommand, arguments)
    return write_and_report(lambda: _write(command), "report")


def _write(command: ReportCommand) -> Path:
    from realness.trainer.reporting import RunFolderError, write_comparison, write_report

    if not command.runs:
        raise RunFolderError("name the folder of at least one run")
    if len(command.runs) == 1:
        return write_report(command.runs[0], command.out)
    return write_comparison(command.runs, command.out or Path(COMPARISON_FILE))


if __name__ == "__main__":
    run_as_script(main)
