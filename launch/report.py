"""Builds the HTML report of a run from its folder: `python launch/report.py RUN`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReportCommand:
    """Build a self-contained HTML report of a run: curves, sample grids, configuration.

    Only reads the run folder, so it works while the run goes on and on any machine.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    out: Path | None = None
    """Where the page goes; by default report.html in the run folder."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    command = tyro.cli(ReportCommand, args=arguments, prog="report.py")
    from realness.trainer.reporting import RunFolderError, write_report

    try:
        print(write_report(command.run, command.out))
    except RunFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write the report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
