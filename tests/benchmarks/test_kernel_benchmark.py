"""benchmarks/kernels.py: rows as they are measured, and the verdict at the end."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import ROOT


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("kernel_report")


def row(impl: str, milliseconds: float, **changes: Any) -> dict[str, Any]:
    shared = {"op": "swirl", "shape": "4x8", "dtype": "float32", "layout": "contiguous"}
    numbers = {"pass": "forward", "impl": impl, "median_ms": milliseconds, "share_of_copy": 0.5}
    return shared | numbers | changes


def test_ours_is_compared_with_the_best_of_the_others(report: ModuleType) -> None:
    rows = [row("ours", 2.0), row("eager", 6.0), row("compile", 3.0)]
    rows += [row("ours", 2.0, dtype="bfloat16"), row("eager", 1.0, dtype="bfloat16")]
    rows += [row("ours", 2.0, op="alone")]
    found = [(r["dtype"], r["best"], r["ratio"]) for r in report.comparisons(rows)]
    assert found == [("float32", "compile", 1.5), ("bfloat16", "eager", 0.5)]


def test_the_summary_names_what_loses(
    report: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("ours", 2.0), row("eager", 2.2), row("ours", 2.0, layout="channels_last")]
    rows += [row("library", 1.5, layout="channels_last")]
    report.print_summary(rows)
    text = capsys.readouterr().out
    assert "0.75" in text  # the worst of both layouts
    assert "ours loses: swirl 4x8 float32 channels_last forward: 2.000 ms, library 1.500" in text
    report.print_summary(rows[:2])
    assert "ours loses nowhere by more than 5 %" in capsys.readouterr().out


@pytest.mark.slow
def test_one_op_from_start_to_end(tmp_path: Path) -> None:
    """A screen, and a row of each contender for each pass."""
    file = tmp_path / "rows.csv"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "kernels.py"),
        "--quick",
        "--device",
        "cpu",
    ]
    command += ["--csv", str(file), "--dtype", "float32", "--op", "squared_norm"]
    ended = subprocess.run(
        [*command, "--impl", "ours", "eager"], capture_output=True, text=True, check=True
    )
    assert re.search(r"squared_norm +float32 +\d+\.\d\d +eager", ended.stdout)
    with file.open() as lines:
        found = [(r["pass"], r["impl"]) for r in csv.DictReader(lines)]
    passes = ("forward", "forward+backward")
    assert found == [(name, impl) for name in passes for impl in ("ours", "eager")]
