"""on_a_gpu.sh, with a stand-in for the interpreter: what it runs, and how it handles failures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.helpers import ROOT

SCRIPT = ROOT / "benchmarks" / "on_a_gpu.sh"
# Fails in the loader's benchmark, hangs in the step's, and logs every call.
STAND_IN = """#!/bin/sh
echo "$REALNESS_REQUIRE_GPU $*" >> "$CALLS"
case "$*" in
  *loader.py*) echo no images; exit 3 ;;
  *train_step.py*) exec sleep 60 ;;
esac
"""


def run(folder: Path, *parts: str, **environment: str) -> tuple[int, str, list[str]]:
    """Exit status, output, and the interpreter's calls."""
    python, calls = folder / "python", folder / "calls"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls.write_text("")
    settings = {"PYTHON": str(python), "CALLS": str(calls), "REALNESS_GPU_OUT": str(folder / "out")}
    result = subprocess.run(
        [str(SCRIPT), *parts],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout, calls.read_text().splitlines()


def test_a_failure_stops_nothing_but_shows_at_the_end(tmp_path: Path) -> None:
    code, output, calls = run(tmp_path, "loader", "build", "tests")
    assert code == 1
    assert [call.split()[:3] for call in calls] == [
        ["1", "-m", "realness.kernels"],
        ["1", "-m", "pytest"],
        ["1", "benchmarks/loader.py", "--device"],
    ]
    summary = output.rpartition("== summary")[2]
    assert "build: passed" in summary
    assert "loader: FAILED with 3" in summary
    assert (tmp_path / "out" / "loader.log").read_text() == "no images\n"


def test_success_is_status_0(tmp_path: Path) -> None:
    assert run(tmp_path, "build", "tests", "kernels", "compiled")[0] == 0


def test_time_is_limited(tmp_path: Path) -> None:
    """Parts that are not reached count as failed, too."""
    code, output, calls = run(tmp_path, "build", REALNESS_GPU_MINUTES="0")
    assert (code, calls) == (1, [])
    assert "build: not reached" in output
    script = SCRIPT.read_text().replace("part step 480", "part step 1")
    quick = tmp_path / "tests" / "kernels" / SCRIPT.name
    quick.parent.mkdir(parents=True)
    quick.write_text(script)
    quick.chmod(0o755)
    python = tmp_path / "python"
    result = subprocess.run(
        [str(quick), "step"],
        env={**os.environ, "PYTHON": str(python), "CALLS": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "step: TIMED OUT" in result.stdout
