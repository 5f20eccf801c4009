"""The 2-D distributions, and the measures on point sets whose answer is known."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from realness.trainer.config import ConfigError
from realness.trainer.toy import NETWORKS_OF, DataName
from realness.trainer.toy.data import DATA, NUM_POINTS, build_data
from realness.trainer.toy.measures import energy_distance, measure_modes, wasserstein_distance

MIXTURES: list[DataName] = ["grid9", "ring8", "grid25"]


def test_names_on_the_command_line_are_those_of_the_data() -> None:
    assert set(get_args(DataName)) == set(DATA) == set(NETWORKS_OF)


@pytest.mark.parametrize(("name", "count"), [("grid9", 9), ("ring8", 8), ("grid25", 25)])
def test_mixtures_have_equal_isotropic_modes(name: DataName, count: int) -> None:
    data = build_data(name)
    assert data.modes is not None
    assert data.std is not None
    points = data.training_points().double()
    assert points.shape == (NUM_POINTS, 2)
    assert len(data.modes) == count
    nearest = torch.cdist(points, data.modes.double()).argmin(1)
    sizes = torch.bincount(nearest, minlength=count)
    # Chi-squared goodness of fit, and moments to 5 standard errors.
    assert stats.chisquare(sizes.numpy()).pvalue > 1e-4
    for mode in range(count):
        own = points[nearest == mode]
        error = data.std / math.sqrt(len(own))
        assert torch.allclose(own.mean(0), data.modes[mode].double(), atol=5 * error)
        covariance = torch.cov(own.T) / data.std**2
        assert torch.allclose(covariance, torch.eye(2).double(), atol=5 * math.sqrt(2 / len(own)))


def test_the_grids_nodes() -> None:
    modes = build_data("grid9").modes
    assert modes is not None
    expected = {(x, y) for x in (-2.0, 0.0, 2.0) for y in (-2.0, 0.0, 2.0)}
    assert {tuple(mode) for mode in modes.tolist()} == expected


def test_swiss_roll_follows_its_curve() -> None:
    """The distance from the origin is t, uniform in [1.5 pi, 4.5 pi], up to the noise."""
    points = 7.5 * build_data("swissroll").training_points().double()
    radius = points.norm(dim=1).numpy()
    low, high = 1.5 * math.pi, 4.5 * math.pi
    inner = radius[(radius > low + 1) & (radius < high - 1)]
    share = stats.kstest(inner, stats.uniform(low + 1, high - low - 2).cdf)
    assert share.pvalue > 1e-4
    t = np.arctan2(points[:, 1].numpy(), points[:, 0].numpy())
    turns = np.round((radius - t) / (2 * math.pi))
    # Noise of 0.25 moves the radius by as much along the curve.
    assert np.std(radius - (t + 2 * math.pi * turns)) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("name", DATA)
def test_points_depend_on_seed_and_index_alone(name: DataName) -> None:
    few, many = build_data(name, num_points=50), build_data(name, num_points=80)
    assert torch.equal(few.training_points(), many.training_points()[:50])
    assert torch.equal(few.training_points(), few.training_points())
    other = build_data(name, num_points=50, seed=1)
    assert not torch.equal(few.training_points(), other.training_points())
    assert not torch.equal(few.training_points(), few.target_points(50))


def test_a_finite_sample_is_small() -> None:
    data = build_data("gauss-finite")
    assert data.training_points().shape == (100, 2)
    assert stats.kstest(data.target_points(5000)[:, 0].numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": -1.0}, "--spacing=-1.0 must be greater than 0"),
        ({"num_points": 0}, "--num-points=0 must be greater than 0"),
    ],
)
def test_impossible_data_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_data("grid9", **change)  # type: ignore[arg-type]


def test_a_scale_belongs_to_a_grid() -> None:
    with pytest.raises(ConfigError, match="not to ring8"):
        build_data("ring8", spacing=1.0)
    with pytest.raises(ConfigError, match="choose one of grid9"):
        build_data("moons")  # type: ignore[arg-type]


# --- measures


def test_measures_of_points_placed_by_hand() -> None:
    """Two modes at distance 10, std 1: 150 good points at one, 100 at the other, 50 far away."""
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    ring = torch.tensor([[3.9, 0.0], [-3.9, 0.0], [0.0, 3.9], [0.0, -3.9], [0.0, 0.0]])
    first = ring.repeat(30, 1)
    second = modes[1].expand(100, 2)
    away = torch.tensor([[0.0, 4.1]]).expand(50, 2)
    found = measure_modes(torch.cat([first, second, away]), modes, 1.0)
    assert found.high_quality == pytest.approx(100 * 250 / 300)
    # 100 samples are not "more than 100".
    assert found.num_modes == 1
    assert found.sigma == pytest.approx(np.std(first.numpy(), axis=0, ddof=1).mean(), rel=1e-6)


def test_one_more_sample_recovers_the_mode() -> None:
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    found = measure_modes(modes[1].expand(101, 2), modes, 1.0)
    assert (found.num_modes, found.high_quality, found.sigma) == (1, 100.0, 0.0)
    assert math.isnan(measure_modes(modes[1].expand(100, 2), modes, 1.0).sigma)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_data_itself_has_full_marks(name: DataName) -> None:
    data = build_data(name)
    assert data.modes is not None
    assert data.std is not None
    found = measure_modes(data.target_points(10_000), data.modes, data.std)
    # Beyond 4 sigma lies exp(-8) = 0.03% of a Gaussian in the plane.
    assert found.high_quality == pytest.approx(100 * (1 - math.exp(-8)), abs=0.1)
    assert found.num_modes == len(data.modes)
    assert found.sigma == pytest.approx(data.std, rel=0.02)


def test_energy_distance_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1300, 2)), rng.normal(1.0, 2.0, size=(700, 2))
    expected = (
        2 * cdist(x, y).mean()
        - cdist(x, x).sum() / (len(x) * (len(x) - 1))
        - cdist(y, y).sum() / (len(y) * (len(y) - 1))
    )
    assert energy_distance(*map(torch.from_numpy, (x, y))) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_in_one_dimension_is_scipys() -> None:
    """On a line it is twice the squared L2 distance of the distribution functions."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=4000), rng.normal(0.7, 1.5, size=4000)
    flat = [torch.from_numpy(np.stack([line, 0 * line], axis=1)) for line in (x, y)]
    assert energy_distance(*flat) == pytest.approx(stats.energy_distance(x, y) ** 2, abs=3e-3)


def test_wasserstein_distance_of_a_shift_and_on_a_line() -> None:
    points = build_data("grid9").target_points(300)
    shift = torch.tensor([3.0, 4.0])
    permuted = points.flip(0) + shift
    assert wasserstein_distance(points, permuted) == pytest.approx(5.0, rel=1e-5)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=200), rng.normal(0.5, 2.0, size=200)
    flat = [torch.from_numpy(np.stack([line, 0 * line], axis=1)) for line in (x, y)]
    expected = stats.wasserstein_distance(x, y)
    assert wasserstein_distance(*flat) == pytest.approx(expected, rel=1e-6)


def test_measures_refuse_what_are_no_points() -> None:
    good = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\)"):
        energy_distance(torch.zeros(4, 3), good)
    with pytest.raises(ValueError, match="give both the same number"):
        wasserstein_distance(good, good[:2])
    with pytest.raises(ValueError, match="samples has shape"):
        measure_modes(torch.zeros(0, 2), good, 1.0)
