"""benchmarks/toy.py: its plan, its stored tasks, and the verdicts that it prints."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("toy_plan")


@pytest.fixture
def tables(plan: ModuleType) -> ModuleType:
    return importlib.import_module("toy_tables")


@pytest.fixture
def verdicts(plan: ModuleType) -> ModuleType:
    return importlib.import_module("toy_verdicts")


def test_the_plan_compares_at_equal_budget(plan: ModuleType) -> None:
    tasks = plan.full_plan()
    assert len({task.file_name for task in tasks}) == len(tasks)
    for part in ("main-1", "main-3"):
        rivals = [task for task in tasks if task.part == part]
        assert {task.method for task in rivals} == {"realness", *plan.MAIN_METHODS}
        budgets = {
            (task.seeds, task.checkpoints, task.config.optimizer, task.config.batch_size)
            for task in rivals
        }
        assert len(budgets) == 1
        assert rivals[0].seeds == 5
        assert plan.PAPER_ITERATIONS in rivals[0].checkpoints


def test_a_task_is_run_once(plan: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    task = plan.Task("finite", "gauss-finite", "far", 2, (1, 2))
    first = task.run_once(tmp_path)
    assert first["seed"].tolist() == [0, 1, 0, 1]
    assert first["iteration"].tolist() == [1, 1, 2, 2]
    assert first["samples"].shape == (4, plan.SHOWN_SAMPLES, 2)
    assert "high_quality" not in first
    monkeypatch.setattr(plan.Task, "run", lambda self: pytest.fail("it was run again"))
    again = task.run_once(tmp_path)
    assert np.array_equal(again["distance"], first["distance"])
    assert [path.name for path in tmp_path.iterdir()] == [task.file_name]
    assert replace(task, seeds=3).file_name != task.file_name


def arrays(quality: list[float], modes: list[int]) -> dict[str, np.ndarray]:
    """Three seeds at iteration 500."""
    return {
        "iteration": np.array([500] * 3),
        "high_quality": np.array(quality),
        "num_modes": np.array(modes),
        "sigma": np.array([0.05, np.nan, 0.07]),
    }


def test_verdicts_follow_the_medians(plan: ModuleType, verdicts: ModuleType) -> None:
    def task(method: str) -> Any:
        return plan.Task("main-1", "grid9", method, 3, (500,), (("k_g", 1),))

    ours = arrays([10.0, 61.0, 90.0], [8, 8, 9])
    finished = {task("realness"): ours, task("std"): arrays([60.0, 60.5, 99.0], [8, 7, 9])}
    text = verdicts.verdict(finished, [500])
    assert "+0.5 points from the best baseline's (Std-GAN)" in text
    assert "beats every baseline holds for the medians, but the seeds' ranges overlap" in text
    assert "reach the paper's 8 modes and 60.2% by iteration 500" in text

    clear = {task("realness"): ours, task("std"): arrays([1.0, 2.0, 9.0], [8, 7, 8])}
    assert "beats every baseline holds." in verdicts.verdict(clear, [500])

    finished[task("lsgan")] = arrays([1.0, 2.0, 3.0], [9, 9, 9])
    assert "with 8 modes to at most 9" in verdicts.verdict(finished, [500])
    assert "does NOT hold" in verdicts.verdict(finished, [500])

    finished = {task("realness"): arrays([59.0, 59.0, 99.0], [8, 8, 8]), task("std"): ours}
    text = verdicts.verdict(finished, [500])
    assert "-2.0 points" in text
    assert "does NOT hold" in text
    assert "NOT within 500 iterations" in text


def test_cells_hold_medians(tables: ModuleType, verdicts: ModuleType) -> None:
    found = arrays([10.0, 61.0, 90.0], [8, 8, 9])
    assert tables.quality(found, 500) == "61.0% (10-90) / 8 / 0.060"
    named = {
        "far": {"iteration": np.array([5, 5, 5, 9, 9, 9]), "distance": np.arange(6.0)},
        "0gp-sample": {"iteration": np.array([5, 5, 5, 9, 9, 9]), "distance": np.arange(6.0)[::-1]},
    }
    tasks = {type("T", (), {"method": name})(): values for name, values in named.items()}
    assert verdicts.far_verdict(tasks, [5, 9]) == "FAR-GAN is closer than 0GP-sample at [5]."


def test_trends_over_outcomes_are_judged(plan: ModuleType, verdicts: ModuleType) -> None:
    def task(outcomes: int, k_g: int) -> Any:
        changes = (("num_outcomes", outcomes), ("k_g", k_g))
        return plan.Task("outcomes", "grid9", "realness", 3, (500,), changes)

    finished = {task(2, 1): arrays([1, 1, 1], [8, 8, 8]), task(3, 1): arrays([1, 1, 1], [6, 5, 6])}
    finished[task(10, 1)] = arrays([1, 1, 1], [3, 4, 3])
    lost = verdicts.outcomes_verdict(finished, raised=False)
    assert (
        "over 9 runs after 500 iterations: with the number of outcomes, modes should fall" in lost
    )
    assert "it reproduces" in lost
    assert verdicts.outcomes_verdict(finished, raised=True) == ""
    # Two arms of the other row: quality falls, modes are equal.
    finished |= {task(n, n): arrays([90 - n, 80 - n, 85 - n], [4, 4, 4]) for n in (10, 60, 80)}
    text = verdicts.outcomes_verdict(finished, raised=True)
    assert "high quality should grow (tau -" in text
    assert "CONTRADICTED" in text
    assert "modes should grow and are the same in all runs: it does NOT reproduce" in text
    assert "no trend" in verdicts.trend(np.array([2, 2, 3, 3]), np.array([1, 3, 2, 2]), 1)


def test_far_is_compared_in_every_measure(plan: ModuleType, verdicts: ModuleType) -> None:
    def task(method: str) -> Any:
        return plan.Task("more", "grid25", method, 3, (500,))

    far = arrays([10.0, 13.0, 30.0], [5, 5, 6]) | {"distance": np.array([0.03, 0.03, 0.04])}
    other = arrays([31.0, 41.6, 46.0], [5, 5, 14]) | {"distance": np.array([0.035, 0.05, 0.06])}
    text = verdicts.other_verdict({task("far"): far, task("0gp-sample"): other})
    assert text == (
        "- grid25: FAR-GAN is BEHIND in high quality (13.0% against 41.6%); level in modes (5 "
        "against 5, ranges overlap); ahead in energy distance (0.0300 against 0.0500, ranges "
        "overlap).\n"
    )
