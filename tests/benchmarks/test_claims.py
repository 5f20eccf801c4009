"""benchmarks/claims.py and seed_curves.py: verdicts by stated rules, and curves over seeds."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("claims")


@pytest.fixture
def curves(claims: ModuleType) -> ModuleType:
    return importlib.import_module("seed_curves")


def test_a_comparison_needs_ranges_that_are_apart(claims: ModuleType) -> None:
    low, high = np.array([1.0, 2.0]), np.array([2.5, 3.0])
    assert claims.smaller("a", low, high).verdict == "supported"
    assert claims.smaller("a", high, low).verdict == "contradicted"
    assert claims.smaller("a", low, np.array([1.5, 3.0])).verdict == "open"
    assert claims.smaller("a", low[:1], high).verdict == "open"
    assert claims.smaller("a", low, np.array([np.nan, 3.0])).verdict == "open"
    found = claims.smaller("FD is lower", low, high, ".1f").line()
    assert found == "- **supported**: FD is lower (1.0, 2.0 against 2.5, 3.0)"


def test_a_change_needs_every_seed(claims: ModuleType) -> None:
    early = np.array([1.0, 5.0])
    assert claims.falls("a", early, early - 0.5).verdict == "supported"
    assert claims.falls("a", early, early + 0.5).verdict == "contradicted"
    assert claims.falls("a", early, np.array([0.5, 6.0])).verdict == "open"
    assert claims.falls("a", early[:1], early[:1] - 1).verdict == "open"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_chances_that_the_module_states(claims: ModuleType, seeds: int) -> None:
    """Of all divisions of equal values into two arms, those that get a verdict."""
    ranks = set(range(2 * seeds))
    divisions = list(itertools.combinations(ranks, seeds))
    decided = [
        division
        for division in divisions
        if claims.smaller("a", np.array(division), np.array([*ranks - set(division)])).verdict
        != "open"
    ]
    assert len(divisions) / len(decided) == {2: 3, 3: 10, 5: 126}[seeds]


def test_curves_of_seeds(curves: ModuleType, tmp_path: Path) -> None:
    rows = [
        {"arm": arm, "seed": seed, "kimg": kimg, "FD": 10 * seed + kimg, "r_t": ""}
        for arm in ("a", "b")
        for seed in (1, 0, 2)
        for kimg in (2, 1)
    ]
    times, values = curves.curve(rows, "FD", arm="a")
    assert times == [1, 2]
    assert values.tolist() == [[1, 2], [11, 12], [21, 22]]
    assert np.isnan(curves.curve(rows, "r_t", arm="a")[1]).all()
    assert curves.curve(rows, "FD", arm="c")[0] == []
    assert curves.spread(values[:, 0], ".0f") == "11 (1 to 21)"
    assert curves.spread(values[:1, 0], ".0f") == "1"
    assert curves.spread(np.array([np.nan]), ".0f") == "–"
    panels = [curves.Panel("FD", {"a": (times, values), "c": ([], np.empty((0, 0)))})]
    curves.draw(tmp_path / "figure.png", [panels], {"a": "#123456", "c": "#654321"})
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > image.height > 200
