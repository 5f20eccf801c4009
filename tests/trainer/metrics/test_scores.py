"""Scores of features against closed forms, SciPy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from realness.trainer.metrics import kid
from realness.trainer.metrics.frechet import GaussianMoments, frechet_distance
from realness.trainer.metrics.inception_score import inception_score
from realness.trainer.metrics.kid import kernel_distance, unbiased_mmd
from realness.trainer.metrics.precision_recall import precision_recall
from tests.helpers.ranks import run_on_ranks


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moments_of(rows: Tensor, batch: int = 7) -> GaussianMoments:
    moments = GaussianMoments(rows.shape[1])
    for part in rows.split(batch):
        moments.add(part)
    return moments


def moments(mean: Tensor, covariance: Tensor) -> GaussianMoments:
    made = GaussianMoments(len(mean))
    made.count, made.mean, made.scatter = 101, mean.double(), covariance.double() * 100
    return made


# --- the Fréchet distance


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streaming_moments_equal_numpy(offset: float) -> None:
    rows = normal(53, 6) * torch.arange(1, 7) + offset
    streamed = moments_of(rows)
    assert streamed.count == 53
    np.testing.assert_allclose(streamed.mean, rows.numpy().mean(0), rtol=1e-12)
    expected = np.cov((rows - offset).numpy(), rowvar=False)
    np.testing.assert_allclose(streamed.covariance, expected, rtol=1e-6, atol=1e-7)


def test_distance_of_one_dimensional_gaussians() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    first = moments(torch.tensor([1.0]), torch.tensor([[4.0]]))
    second = moments(torch.tensor([-2.0]), torch.tensor([[25.0]]))
    assert frechet_distance(first, second) == pytest.approx(9 + 9, abs=1e-12)


def test_distance_of_commuting_covariances() -> None:
    """Rotations of diagonal matrices: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rotation = torch.linalg.qr(normal(8, 8)).Q
    s1, s2 = torch.arange(1.0, 9.0).double(), torch.linspace(0, 3, 8).double()
    first = moments(torch.zeros(8), rotation @ torch.diag(s1**2) @ rotation.T)
    second = moments(torch.full((8,), 0.5), rotation @ torch.diag(s2**2) @ rotation.T)
    expected = 8 * 0.25 + (s1 - s2).square().sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(c1 @ c2))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_distance_equals_scipys_sqrtm(dim: int, seed: int) -> None:
    mixing = normal(dim, dim, seed=seed + 1)
    a = normal(40, dim, seed=seed + 2) @ mixing
    b = normal(60, dim, seed=seed + 3) + 1
    ours = frechet_distance(moments_of(a), moments_of(b))
    assert ours == pytest.approx(scipy_distance(a.numpy(), b.numpy()), rel=1e-6)


def test_distance_with_fewer_rows_than_dimensions() -> None:
    """Singular covariances: by the nuclear norm, Tr((C1 C2)^(1/2)) = |A^T B|_* for C1 = A A^T."""
    a, b = normal(6, 30), normal(9, 30, seed=1)
    factors = [(x - x.mean(0)).T.numpy() / math.sqrt(len(x) - 1) for x in (a, b)]
    overlap = np.linalg.norm(factors[0].T @ factors[1], ord="nuc")
    traces = sum((factor**2).sum() for factor in factors)
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + traces - 2 * overlap
    assert frechet_distance(moments_of(a), moments_of(b)) == pytest.approx(expected, rel=1e-10)


def test_distance_to_itself_is_zero_and_to_others_symmetric() -> None:
    a, b = moments_of(normal(50, 5)), moments_of(normal(50, 5, seed=1) * 2)
    assert frechet_distance(a, a) < 1e-7
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def moments_on_a_rank(count: int) -> tuple[int, Tensor, Tensor]:
    from realness.trainer.distributed.ranks import rank, world_size

    mine = normal(count, 4)[rank() :: world_size()]
    merged = moments_of(mine).over_ranks()
    return merged.count, merged.mean, merged.scatter


@pytest.mark.slow
def test_moments_merge_over_ranks() -> None:
    count, mean, scatter = moments_on_a_rank(23)
    for other in run_on_ranks(2, moments_on_a_rank, 23):
        assert other[0] == count == 23
        torch.testing.assert_close(other[1], mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other[2], scatter, rtol=1e-12, atol=1e-12)


def test_broken_features_are_refused() -> None:
    moments = GaussianMoments(3)
    with pytest.raises(ValueError, match="not finite"):
        moments.add(torch.tensor([[0.0, math.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        moments.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(moments, moments)
    with pytest.raises(ValueError, match="different networks"):
        frechet_distance(moments, GaussianMoments(4))


# --- the kernel distance


def brute_force_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al.'s equation 3, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    same_x = [kernel(a, b) for a, b in itertools.permutations(x, 2)]
    same_y = [kernel(a, b) for a, b in itertools.permutations(y, 2)]
    across = [kernel(a, b) for a, b in itertools.product(x, y)]
    return float(np.mean(same_x) + np.mean(same_y) - 2 * np.mean(across))


def test_kernel_distance_equals_brute_force() -> None:
    x, y = normal(12, 5), normal(15, 5, seed=1) + 0.5
    assert unbiased_mmd(x, y).item() == pytest.approx(
        brute_force_mmd(x.numpy(), y.numpy()), rel=1e-12
    )
    x = x[:12]
    mean, deviation = kernel_distance(x, y[:12], seed=0)
    assert mean == pytest.approx(brute_force_mmd(x.numpy(), y[:12].numpy()), rel=1e-12)
    assert deviation == 0


def test_kernel_distance_is_unbiased() -> None:
    """Over many draws from one distribution its mean is 0, well within four standard errors."""
    estimates = [
        unbiased_mmd(normal(10, 3, seed=seed), normal(10, 3, seed=seed + 10_000)).item()
        for seed in range(2000)
    ]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / math.sqrt(2000)
    assert min(estimates) < 0


def test_subsets_estimate_the_same_distance_by_seed() -> None:
    x, y = normal(200, 4), normal(300, 4, seed=1) + 0.4
    first = kernel_distance(x, y, seed=3, subset_size=50)
    assert first == kernel_distance(x, y, seed=3, subset_size=50)
    assert first != kernel_distance(x, y, seed=4, subset_size=50)
    assert first[0] == pytest.approx(unbiased_mmd(x, y).item(), abs=3 * first[1] / 10)


def test_subsets_use_all_pairs_or_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same subsets and estimates, but for the order of sums in float64."""
    x, y = normal(90, 5), normal(60, 5) + 0.3
    known = kernel_distance(x, y, seed=1, subset_size=40)
    monkeypatch.setattr(kid, "MAX_PAIRS", 0)
    assert known == pytest.approx(kernel_distance(x, y, seed=1, subset_size=40), rel=1e-9)


def test_kernel_distance_refuses_what_has_no_estimate() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(1, 3), normal(5, 3), seed=0)
    with pytest.raises(ValueError, match="same network"):
        kernel_distance(normal(5, 3), normal(5, 4), seed=0)


# --- the Inception Score


def test_score_of_one_hot_predictions_is_the_number_of_classes_met() -> None:
    classes = torch.arange(40) % 4
    one_hot = torch.nn.functional.one_hot(classes, 10)
    assert inception_score(one_hot, num_splits=5) == pytest.approx((4.0, 0.0), abs=1e-12)


def test_score_is_one_where_predictions_tell_nothing() -> None:
    rows = torch.softmax(normal(1, 8), 1).expand(20, 8)
    assert inception_score(rows, num_splits=2) == pytest.approx((1.0, 0.0), abs=1e-9)


def test_score_equals_a_computation_by_scipy() -> None:
    rows = torch.softmax(3 * normal(30, 6), 1)
    parts = np.split(rows.numpy(), 3)
    scores = [np.exp(scipy.special.rel_entr(p, p.mean(0)).sum(1).mean()) for p in parts]
    ours = inception_score(rows, num_splits=3)
    assert ours == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_score_refuses_logits_and_too_few_rows() -> None:
    with pytest.raises(ValueError, match="softmax"):
        inception_score(normal(20, 5))
    with pytest.raises(ValueError, match="at least 10"):
        inception_score(torch.full((9, 2), 0.5))


# --- precision and recall


def test_precision_and_recall_of_points_on_a_line() -> None:
    """Real points 0..9: balls of k = 1 reach 1 to either side. Two of four fakes lie inside.

    Fakes 4, 5.5, 20, 21: balls reach 1.5, 1.5, 1 and 1, and hold the real points 3, 4, 5, 6, 7.
    """
    real = torch.arange(10.0)[:, None]
    fake = torch.tensor([[4.0], [5.5], [20.0], [21.0]])
    assert precision_recall(real, fake, neighbour=1) == (0.5, 0.5)


def brute_force_share(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    radii = np.sort(distances, axis=1)[:, k]
    inside = np.linalg.norm(points[:, None] - centres[None], axis=2) <= radii
    return float(inside.any(1).mean())


def test_precision_and_recall_equal_brute_force() -> None:
    real, fake = normal(80, 3), 0.7 * normal(50, 3, seed=1) + 1.5
    expected = (
        brute_force_share(fake.numpy(), real.numpy(), 3),
        brute_force_share(real.numpy(), fake.numpy(), 3),
    )
    assert 0 < min(expected) < max(expected) < 1
    assert precision_recall(real, fake) == pytest.approx(expected, abs=1e-12)


def test_collapse_costs_recall_and_scatter_costs_precision() -> None:
    real = normal(200, 4)
    collapsed = real[:5].repeat(10, 1) + 0.01 * normal(50, 4, seed=2)
    scattered = 4 * normal(200, 4, seed=3)
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.95
    assert recall < 0.1
    precision, recall = precision_recall(real, scattered)
    assert precision < 0.3
    assert recall > 0.95


def test_precision_refuses_sets_without_neighbours() -> None:
    with pytest.raises(ValueError, match="neighbour number 3"):
        precision_recall(normal(3, 2), normal(10, 2))
