"""benchmarks/far_long.py: its plan, its verdicts, and a tiny run."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("far_long")


def test_the_plan_is_the_papers_length(bench: ModuleType) -> None:
    tasks = bench.plan(list(bench.ARMS), 5, bench.ITERATIONS)
    assert [(task.data, task.method) for task in tasks] == [
        *(("gauss-finite", name) for name in ("far", "std", "0gp-sample", "0gp-interpolation")),
        *(("grid25", name) for name in ("far", "0gp-sample")),
    ]
    assert {task.checkpoints for task in tasks} == {tuple(range(5000, 100_001, 5000))}
    assert {task.config.optimizer.lr_g for task in tasks} == {3e-3}


def made_up(data: str, arm: str, distances: list[float], quality: float, modes: int) -> list[dict]:
    """Two seeds that differ by a thousandth."""
    return [
        {
            "data": data,
            "arm": arm,
            "seed": seed,
            "iteration": 1000 * (k + 1),
            "distance": distance + seed / 1000,
            "high_quality": quality if data == "grid25" else "",
            "num_modes": modes if data == "grid25" else "",
        }
        for seed in (0, 1)
        for k, distance in enumerate(distances)
    ]


def test_verdicts_follow_the_halves(bench: ModuleType) -> None:
    rows = [
        *made_up("gauss-finite", "FAR-GAN", [0.03, 0.02, 0.02, 0.01], 0, 0),
        *made_up("gauss-finite", "Std-GAN", [0.10, 0.20, 0.30, 0.40], 0, 0),
        *made_up("gauss-finite", "0GP-sample", [0.010, 0.010, 0.009, 0.008], 0, 0),
        *made_up("grid25", "FAR-GAN", [0.2, 0.1], 13, 24),
        *made_up("grid25", "0GP-sample", [0.2, 0.3], 40, 24),
    ]
    text = bench.page(rows)
    for line in (
        "**supported**: FAR-GAN does not get farther",
        "**supported**: Std-GAN gets farther from the Gaussian",
        "**contradicted**: 0GP-sample gets farther from the Gaussian",
        "**supported**: FAR-GAN is closer to the Gaussian than Std-GAN",
        "**contradicted**: FAR-GAN is closer to the Gaussian than 0GP-sample",
        "**contradicted**: FAR-GAN covers 25 of 25 modes at the end (24, 24; 25 claimed)",
        "**open**: FAR-GAN has more modes than 0GP-sample",
        "**contradicted**: FAR-GAN has more high-quality samples",
        "(13, 13 against 40, 40)",
        "**supported**: FAR-GAN is closer than 0GP-sample at the end, in energy distance",
    ):
        assert line in text, line


def test_a_tiny_run(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MEASUREMENTS", 2)
    monkeypatch.setattr(
        bench, "run_all", lambda tasks, folder, jobs: [task.run_once(folder) for task in tasks]
    )
    words = ["--iterations", "2", "--seeds", "2"]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert bench.main(words) == 0
    with (tmp_path / "out" / "far_long.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2 * 2
    assert {row["num_modes"] == "" for row in rows if row["data"] == "gauss-finite"} == {True}
    assert (tmp_path / "out" / "far_long.png").read_bytes().startswith(b"\x89PNG")
    assert "## The paper's claims" in (tmp_path / "out" / "far_long.md").read_text()
