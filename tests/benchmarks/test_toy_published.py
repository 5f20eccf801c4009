"""benchmarks/toy_published.py: its plan, its statistics, and the verdict that it writes."""

from __future__ import annotations

import importlib
from math import comb
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("toy_published")


@pytest.fixture
def report(bench: ModuleType) -> ModuleType:
    return importlib.import_module("toy_published_report")


def test_the_plan_has_every_method_and_seed_at_the_published_settings(bench: ModuleType) -> None:
    tasks = bench.plan()
    assert len({task.file_name for task in tasks}) == len(tasks) == 40
    assert {(task.method, task.first_seed) for task in tasks} == {
        (name, seed) for name in bench.NAMES for seed in range(10)
    }
    assert all(task.checkpoints == tuple(range(50, 1501, 50)) for task in tasks)
    configs = [task.config for task in tasks]
    assert len({(config.optimizer, config.batch_size, config.g.z_dim) for config in configs}) == 1
    assert (configs[0].optimizer.k_g, configs[0].g.z_dim) == (3, 128)


def test_a_task_has_the_seed_that_it_names(bench: ModuleType) -> None:
    plan = importlib.import_module("toy_plan")
    seeds = [
        plan.Task("finite", "gauss-finite", "std", 1, (1,), first_seed=first).run()
        for first in (0, 6)
    ]
    assert [arrays["seed"].tolist() for arrays in seeds] == [[0], [6]]
    assert seeds[0]["distance"] != seeds[1]["distance"]


def test_statistics_are_scipys_and_exact(report: ModuleType) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.8, 1, 7), rng.normal(0, 1, 6)
    whole = stats.mannwhitneyu(ours, theirs, alternative="greater", method="exact")
    assert report.chance(ours, theirs) == pytest.approx(whole.statistic / 42)
    assert report.rank_test(ours, theirs) == pytest.approx(whole.pvalue)
    # Complete separation: one of all divisions; with ties too.
    high, low = np.array([3.0, 3.0, 5.0]), np.array([1.0, 1.0, 2.0])
    assert report.rank_test(high, low) == pytest.approx(1 / comb(6, 3))
    assert report.chance(high, low) == 1.0
    assert report.chance(high, high) == 0.5
    assert report.chance_interval(high, low) == (1.0, 1.0)
    assert report.sign_test(np.array([2.0, 3.0, 4.0, 1.0]), np.array([1.0, 2.0, 3.0, 1.0])) == (
        3,
        3,
        1 / 8,
    )
    assert report.sign_test(high, high) == (0, 0, 1.0)


def test_the_interval_covers_the_chance(report: ModuleType) -> None:
    """About 95 of 100 intervals hold the true chance; at ten seeds the bootstrap loses a few."""
    rng = np.random.default_rng(1)
    true = stats.norm.cdf(1 / np.sqrt(2))
    intervals = [
        report.chance_interval(rng.normal(1, 1, 10), rng.normal(0, 1, 10)) for _ in range(100)
    ]
    assert sum(low <= true <= high for low, high in intervals) >= 83  # 95 - 5.5 standard errors


def methods(quality: dict[str, list[float]]) -> dict[str, dict[str, np.ndarray]]:
    """Measures at iteration 500 with one seed per value."""
    return {
        name: {
            "iteration": np.full(len(values), 500),
            "seed": np.arange(len(values)),
            "high_quality": np.array(values),
            "num_modes": np.full(len(values), 4),
            "sigma": np.full(len(values), 0.05),
            "cpu_seconds": np.array(60.0),
        }
        for name, values in quality.items()
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([5, 6, 7, 8], [1, 2, 3, 4], "The hypothesis is supported."),
        ([1, 2, 3, 4], [5, 6, 7, 8], "The opposite of the hypothesis is supported."),
        ([1, 4, 5, 8], [2, 3, 6, 7], "the question stays open"),
    ],
)
def test_the_verdict_follows_the_test(
    report: ModuleType, tmp_path: Path, ours: list[float], theirs: list[float], verdict: str
) -> None:
    found = methods({"realness": ours, "std": theirs, "lsgan": [90, 91, 92, 93]})
    text = report.report(found, 12, 12)
    assert verdict in text
    early = report.report(found, 11, 12)
    assert verdict not in early
    assert "No verdict before all planned runs are finished." in early
    assert "against LSGAN" in text
    assert "LSGAN: RealnessGAN is clearly ahead at none, clearly behind at 1 (500)" in text
    assert "reached, at any measurement, by no run of any method" in text
    report.draw(found, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > image.height > 200


def test_seeds_that_only_one_method_has_are_left_out(report: ModuleType) -> None:
    found = methods({"realness": [1, 2, 3], "std": [4, 5]})
    ours, theirs = report.pair(found, "std", 500)
    assert (ours.tolist(), theirs.tolist()) == ([1, 2], [4, 5])
