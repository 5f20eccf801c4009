"""The command `realness` and its subcommands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realness.launch import cli
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_USAGE
from tests.helpers import ROOT, flags_page


def test_every_script_is_a_subcommand() -> None:
    scripts = {
        path.stem
        for path in (ROOT / "launch").glob("*.py")
        if "def main(" in path.read_text() and path.stem != "cli"
    }
    assert {module for module, _ in cli.COMMANDS.values()} == scripts


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.main(arguments) == EXIT_OK
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in cli.COMMANDS)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == EXIT_OK
    number = capsys.readouterr().out.split()[1]
    assert f'version = "{number}"' in (ROOT / "pyproject.toml").read_text()


def test_the_version_is_known_without_an_installation(tmp_path: Path) -> None:
    """-S leaves out every installed package, and with them what pip wrote about ours."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / '.typings')!r}); import realness as r"
    line = [sys.executable, "-I", "-S", "-c", f"{code}; print(r.__version__)"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    assert f'\nversion = "{done.stdout.strip()}"\n' in (ROOT / "pyproject.toml").read_text()


def test_a_misspelt_command_is_named_with_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["genrate"]) == EXIT_USAGE
    assert "'genrate' is not a command; did you mean 'generate'?" in capsys.readouterr().err


def test_a_subcommand_runs_under_its_own_name(tmp_path: Path) -> None:
    """As a module in an empty folder, with a launcher's --local_rank in front."""
    line = [sys.executable, "-m", "realness.launch", "--local_rank=0", "report", "--help"]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "usage: realness report" in done.stdout, done.stderr


def words(text: str) -> list[str]:
    """A page's words, without the boxes and line breaks, which follow tyro's version."""
    return [word for word in text.split() if not set(word) <= set("╭╮╰╯│─")]


@pytest.mark.slow
def test_the_page_of_flags_is_what_help_prints() -> None:
    """`python -m tests.helpers.flags_page` rewrites it."""
    assert words(flags_page.PAGE.read_text()) == words(flags_page.page())
