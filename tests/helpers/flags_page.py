"""docs/flags.md, made of what `--help` prints: `python -m tests.helpers.flags_page` rewrites it."""

from __future__ import annotations

import os
import subprocess
import sys

from realness.launch.cli import COMMANDS
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "flags.md"
HEAD = """# Flags

The output of `realness COMMAND --help` for every command, made by
`python -m tests.helpers.flags_page`. The defaults of `train` are those of its default preset.
"""


def help_of(command: str) -> str:
    """What `realness COMMAND --help` prints, 100 columns wide."""
    done = subprocess.run(
        [sys.executable, "-m", "realness.launch", command, "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The text of the page."""
    sections = [f"## {name}\n\n```\n{help_of(name)}\n```\n" for name in COMMANDS]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page())
