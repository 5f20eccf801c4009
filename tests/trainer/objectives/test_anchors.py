"""Anchors against scipy, the paper's divergences and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from realness.trainer.distributed import ranks
from realness.trainer.objectives.anchor_source import (
    FixedAnchors,
    HistogramAnchors,
    anchor_tensors,
)
from realness.trainer.objectives.anchors import (
    FLOOR,
    NUM_HISTOGRAM_SAMPLES,
    AnchorPair,
    expected_histogram_pair,
    histogram_pair,
    shift_on_support,
    skewnorm_anchor,
    skewnorm_pair,
    solve_skewnorm_pair,
)
from realness.trainer.objectives.configs import AnchorConfig
from realness.trainer.randomness import Purpose, Stream, batch_draws

SHAPES = [(5, 0, 1), (-5, 0, 1), (0, 0, 0.3), (3, 0.3, 0.2), (200, 0.1, 0.5), (-40, -0.7, 2)]


@pytest.mark.parametrize(("skew", "loc", "scale"), SHAPES)
@pytest.mark.parametrize("num_outcomes", [1, 2, 3, 10, 51, 1024])
def test_skewnorm_anchor_is_scipys_distribution_binned(num_outcomes, skew, loc, scale):
    edges = np.linspace(-1, 1, num_outcomes + 1)
    expected = np.diff(stats.skewnorm.cdf(edges, skew, loc, scale))
    anchor = skewnorm_anchor(num_outcomes, skew, loc, scale)
    # scipy's cdf has errors of up to 2e-10 at skew 200, as adaptive quadrature of its pdf shows.
    np.testing.assert_allclose(anchor, expected / expected.sum(), rtol=0, atol=5e-10)
    assert anchor.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("outcome", [3, 10, 20])
def test_skewnorm_anchor_keeps_its_digits_in_the_tail(outcome):
    """At skew 12 these bins hold e^-58 to e^-4; differences of cdfs lose all of the first."""
    edges = np.linspace(-1, 1, 52)
    low, high = edges[outcome : outcome + 2]
    offset = stats.skewnorm.logpdf(high, 12.0)
    integral, _ = integrate.quad(
        lambda u: np.exp(stats.skewnorm.logpdf(u, 12.0) - offset), low, high, epsabs=0
    )
    total = stats.skewnorm.cdf(1, 12.0) - stats.skewnorm.cdf(-1, 12.0)
    expected = np.log(integral) + offset - np.log(total)
    assert np.log(skewnorm_anchor(51, 12.0)[outcome]) == pytest.approx(expected, abs=1e-9)


def test_skewnorm_anchor_never_holds_a_zero_in_fp32():
    anchor = torch.from_numpy(skewnorm_anchor(51, 1e6, scale=0.01)).float()
    assert anchor.min() == np.float32(FLOOR)
    assert anchor.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("num_outcomes", "scale", "skew"), [(0, 1.0, 5.0), (51, 0.0, 5.0), (51, 1.0, float("nan"))]
)
def test_skewnorm_anchor_refuses_what_is_no_distribution(num_outcomes, scale, skew):
    with pytest.raises(ValueError, match="no skew-normal anchor"):
        skewnorm_anchor(num_outcomes, skew, scale=scale)


def test_skews_of_five_give_the_papers_divergence():
    """Table 2's row 5.11, computed here from scipy's cdf alone; 5.107 in facts/peers.md."""
    edges = np.linspace(-1, 1, 52)
    real, fake = (np.diff(stats.skewnorm.cdf(edges, skew)) for skew in (5, -5))
    expected = stats.entropy(real, fake)
    pair = skewnorm_pair(51, 5, -5)
    assert pair.kl == pytest.approx(5.107, abs=1e-3)
    assert pair.kl == pytest.approx(expected, abs=1e-6)


def test_pair_is_mirrored():
    pair = skewnorm_pair(51, 4, -4, loc=0.2, scale=0.7)
    np.testing.assert_allclose(pair.real, pair.fake[::-1], rtol=1e-9)
    centre = np.linspace(-1, 1, 51)
    assert pair.real @ centre > 0 > pair.fake @ centre


@pytest.mark.parametrize("kl", [1.66, 5.11, 7.81, 11.05, 33.88])
@pytest.mark.parametrize("num_outcomes", [5, 51, 201])
def test_solver_reaches_the_papers_divergences(kl, num_outcomes):
    pair = solve_skewnorm_pair(kl, num_outcomes)
    assert stats.entropy(pair.real, pair.fake) == pytest.approx(kl, abs=1e-6)
    np.testing.assert_allclose(pair.real, pair.fake[::-1], rtol=1e-6)


def test_solver_finds_known_skews_again():
    pair = solve_skewnorm_pair(skewnorm_pair(51, 3, -6).kl, 51, skew_real=1, skew_fake=-2)
    np.testing.assert_allclose(pair.real, skewnorm_anchor(51, 3), atol=1e-9)
    np.testing.assert_allclose(pair.fake, skewnorm_anchor(51, -6), atol=1e-9)


@pytest.mark.parametrize("options", [{"loc": 0.5}, {"skew_real": 0.0, "skew_fake": 0.0}])
def test_solver_names_the_reachable_range(options):
    with pytest.raises(ValueError, match=r"out of reach with 51 outcomes.* these give"):
        solve_skewnorm_pair(0.01, 51, **options)


def test_solver_refuses_more_than_two_outcomes_can_hold():
    with pytest.raises(ValueError, match="out of reach with 2 outcomes"):
        solve_skewnorm_pair(33.88, 2)


def test_pair_refuses_what_is_no_distribution():
    with pytest.raises(ValueError, match="summing to 1"):
        AnchorPair(np.array([0.5, 0.6]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="same number"):
        AnchorPair(np.array([0.5, 0.5]), np.array([0.5, 0.25, 0.25]))


def test_divergence_of_disjoint_anchors_is_infinite():
    assert AnchorPair(np.array([0.0, 1.0]), np.array([1.0, 0.0])).kl == np.inf


@pytest.mark.parametrize("num_outcomes", [1, 2, 3, 10, 51])
@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_shift_moves_the_mean_and_keeps_the_mass(num_outcomes, shift):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(num_outcomes))
    support = np.linspace(-1, 1, num_outcomes)
    moved = shift_on_support(probabilities, shift)
    assert moved.min() >= 0
    assert moved.sum() == pytest.approx(1)
    if num_outcomes > 1:
        assert moved @ support == pytest.approx(probabilities @ np.clip(support + shift, -1, 1))


def test_histogram_pair_shares_at_most_one_outcome_and_has_the_codes_divergence():
    normals = np.random.default_rng(0).standard_normal((2, NUM_HISTOGRAM_SAMPLES))
    pair = histogram_pair(normals, 51)
    assert np.count_nonzero((pair.real > 0) & (pair.fake > 0)) <= 1
    assert pair.kl == np.inf
    assert special.rel_entr(pair.real, pair.fake + 1e-16).sum() == pytest.approx(34, abs=1)


def test_histograms_scatter_around_their_expectation():
    rng = np.random.default_rng(1)
    pairs = [histogram_pair(rng.standard_normal((2, 1000)), 51) for _ in range(400)]
    expected = expected_histogram_pair(51)
    np.testing.assert_allclose(np.mean([p.real for p in pairs], 0), expected.real, atol=4e-3)
    np.testing.assert_allclose(np.mean([p.fake for p in pairs], 0), expected.fake, atol=4e-3)


def test_histogram_anchors_depend_on_seed_and_position_alone(monkeypatch):
    """Two ranks of 4 rows draw the same as one rank of 8 rows; another position, other anchors."""
    source = HistogramAnchors(51)
    whole = source.pair(batch_draws(7, Stream.D_FAKE, 80, 8))
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        part = source.pair(batch_draws(7, Stream.D_FAKE, 80, 4, rank=rank))
        np.testing.assert_array_equal(part.real, whole.real)
        np.testing.assert_array_equal(part.fake, whole.fake)
    monkeypatch.undo()
    for other in (
        batch_draws(7, Stream.D_FAKE, 88, 8),
        batch_draws(8, Stream.D_FAKE, 80, 8),
        batch_draws(7, Stream.G_FAKE, 80, 8),
    ):
        assert not np.array_equal(source.pair(other).fake, whole.fake)


@pytest.mark.parametrize("num_outcomes", [51, 1024])
def test_histogram_anchors_have_draws_of_their_own(num_outcomes):
    """Anchors have a separate purpose, so they share no draws with the resampling noise."""
    draws = batch_draws(7, Stream.D_FAKE, 80, 8)
    columns = draws.normal(Purpose.ANCHORS, 2 * NUM_HISTOGRAM_SAMPLES)[0]
    resampling = draws.normal(Purpose.RESAMPLE, 2 * NUM_HISTOGRAM_SAMPLES)[0]
    assert not np.intersect1d(columns.numpy(), resampling.numpy()).size
    expected = histogram_pair(columns.reshape(2, -1).numpy(), num_outcomes)
    pair = HistogramAnchors(num_outcomes).pair(draws)
    np.testing.assert_array_equal(pair.fake, expected.fake)
    np.testing.assert_array_equal(pair.real, expected.real)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_panel_edge_may_be_a_rounding_error_away_from_the_end(sign):
    """0.4 - 2 * 0.7 is -1 but for rounding; the anchor is that of the parameters next to these."""
    assert 0.4 - 2 * 0.7 != -1
    found = skewnorm_anchor(51, 3.0 * sign, loc=0.4 * sign, scale=0.7)
    near = skewnorm_anchor(51, 3.0 * sign, loc=0.4 * sign, scale=0.7 + 1e-9)
    # At most, at t = 2: d ln p / d ln scale = t^2 (1 + 3^2) = 40, times 1e-9 / 0.7.
    np.testing.assert_allclose(found, near, rtol=1e-6)


def test_build_anchors_follows_the_configuration():
    draws = batch_draws(0, Stream.D_FAKE, 0, 4)
    fixed = AnchorConfig(skew_real=3.0, skew_fake=-2.0, anchor_scale=0.5).build(21)
    assert isinstance(fixed, FixedAnchors)
    np.testing.assert_array_equal(fixed.pair(draws).fake, skewnorm_anchor(21, -2, scale=0.5))
    solved = AnchorConfig(anchor_kl=11.05).build(51)
    assert solved.typical.kl == pytest.approx(11.05)
    assert isinstance(AnchorConfig(anchors="histogram").build(51), HistogramAnchors)


def test_anchor_tensors_take_dtype_from_the_logits():
    pair = skewnorm_pair(51, 5, -5)
    a1, a0 = anchor_tensors(pair, torch.zeros(2, 51, dtype=torch.float64))
    np.testing.assert_array_equal(a1.numpy(), pair.real)
    np.testing.assert_array_equal(a0.numpy(), pair.fake)
    assert anchor_tensors(pair, torch.zeros(2, 51))[0].dtype == torch.float32
