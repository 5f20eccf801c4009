"""The papers' theorems, checked on problems small enough to be solved exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch import Tensor

from realness import kernels
from realness.trainer.objectives.p2gan import (
    GaussianPrior,
    exact_distance,
    midpoint,
    p2gan_d_loss,
    posterior_factors,
    sampled_distance,
)
from realness.trainer.objectives.realness import realness_d_loss
from tests.helpers.objective_tools import anchors64, kl, logits64

# Densities on four points, as counts out of 10: batches of 10 rows hold them exactly.
P_DATA, P_G = torch.tensor([1, 2, 3, 4]), torch.tensor([6, 1, 3, 0])
REAL_ROWS = torch.arange(4).repeat_interleave(P_DATA)
FAKE_ROWS = torch.arange(4).repeat_interleave(P_G)
DENSITY = P_DATA.double() / 10


def minimize(table: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The table of D's outputs, one row per point, that minimises a loss."""
    optimizer = torch.optim.LBFGS(
        [table],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return table.detach()


def random_densities(count: int, num_points: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, num_points, dtype=torch.float64, generator=generator).softmax(1)


# RealnessGAN, theorem 1.


@pytest.mark.parametrize("num_outcomes", [2, 5, 11])
def test_theorem_1_optimal_discriminator_is_reached(num_outcomes):
    """D is a free table of logits over 4 points; eq. 3 with exact expectations is minimised."""
    a1, a0 = anchors64(num_outcomes)
    table = minimize(
        logits64(4, num_outcomes),
        lambda table: realness_d_loss(table[REAL_ROWS], table[FAKE_ROWS], a1, a0),
    )
    expected = (torch.outer(P_DATA, a1) + torch.outer(P_G, a0)) / (P_DATA + P_G)[:, None]  # eq. 4
    torch.testing.assert_close(table.softmax(1), expected, atol=1e-6, rtol=0)


# RealnessGAN, theorem 2.


@kernels.implementation("reference")
def realness_value(p_data: Tensor, p_g: Tensor, a1: Tensor, a0: Tensor) -> Tensor:
    """V(G, D*) of eq. 3 with D* of eq. 4, exact; densities [points], anchors [N]."""
    best = (torch.outer(p_data, a1) + torch.outer(p_g, a0)) / (p_data + p_g)[:, None]
    on_real = kernels.realness_kl(best.log(), a1)
    return p_data @ on_real + p_g @ kernels.realness_kl(best.log(), a0)


@pytest.mark.parametrize("num_outcomes", [2, 5, 11])
def test_theorem_2_the_value_is_greatest_where_g_has_the_datas_density(num_outcomes):
    """V at p_g = p_data is eq. 11's, and falls short of it elsewhere by eq. 14's divergence."""
    a1, a0 = anchors64(num_outcomes)
    p_data = DENSITY
    best = realness_value(p_data, p_data, a1, a0)
    middle = (a1 + a0) / 2
    torch.testing.assert_close(best, kl(a1, middle) + kl(a0, middle))  # eq. 11
    for p_g in random_densities(200):
        joint = (torch.outer(p_data, a1) + torch.outer(p_g, a0)) / 2
        product = torch.outer(p_data + p_g, a1 + a0) / 4
        shortfall = best - realness_value(p_data, p_g, a1, a0)
        torch.testing.assert_close(shortfall, 2 * kl(joint.flatten(), product.flatten()))  # eq. 14
        assert shortfall > 1e-4 * (p_data - p_g).square().sum() > 0


def test_theorem_2_ascent_leads_g_to_the_data():
    """G follows the gradient of V against a D that is always at its optimum."""
    a1, a0 = anchors64(5)
    logits = minimize(
        logits64(1, 4), lambda table: -realness_value(DENSITY, table[0].softmax(0), a1, a0)
    )
    torch.testing.assert_close(logits[0].softmax(0), DENSITY, atol=1e-5, rtol=0)


def test_theorem_2_needs_anchors_that_differ():
    """With A1 = A0 the value is the same for every G: nothing is learned."""
    a1, _ = anchors64(5)
    values = [realness_value(DENSITY, p_g, a1, a1) for p_g in random_densities(10)]
    torch.testing.assert_close(torch.stack(values), torch.zeros(10, dtype=torch.float64))


# FAR-GAN, propositions 2 and 3.


def far_optimum(
    k0: float, m0: int, p0: float, n: float = 8.0, m: float = 8.0
) -> tuple[float, float]:
    """The scores (xi_0*, xi_i*) of a real point and of the m0 fakes near it that maximise h.

    h is eq. 10, and f of eq. 8 where p0 = 0. It is concave; all m0 + 1 scores are free.
    """

    def loss(xi: np.ndarray) -> float:
        real, fakes = xi[0], xi[1:]
        h = special.log_expit(real) + (p0 * special.log_expit(fakes)).sum()
        h += n / m * special.log_expit(-fakes).sum()
        return -(h - n * k0 / m0 * ((real - fakes) ** 2).sum())

    def slope(xi: np.ndarray) -> np.ndarray:
        real, fakes = xi[0], xi[1:]
        pull = 2 * n * k0 / m0 * (real - fakes)
        on_fakes = p0 * special.expit(-fakes) - n / m * special.expit(fakes) + pull
        return -np.concatenate([[special.expit(-real) - pull.sum()], on_fakes])

    start = np.random.default_rng(0).normal(size=m0 + 1)
    assert optimize.check_grad(loss, slope, start) < 1e-5
    result = optimize.minimize(loss, start, jac=slope, method="BFGS", options={"gtol": 1e-9})
    # The search ends where the loss no longer changes, by eps = 2e-16: at slopes of sqrt(eps * a
    # curvature of up to 100) = 1.5e-7 and more.
    assert np.abs(slope(result.x)).max() < 1e-6
    assert np.ptp(result.x[1:]) < 1e-5
    return float(result.x[0]), float(result.x[1:].mean())


def g_gradient(real: float, fake: float) -> float:
    """The norm of the gradient that G gets at the fake, times the distance of the pair (eq. 6)."""
    return (real - fake) / (1 + math.exp(fake))


def far_table(settings: list[tuple[float, int, float]]) -> dict[str, np.ndarray]:
    """Steps between neighbours of a list of (k0, m0, p0), for every column of table 2."""
    optima = [far_optimum(*setting) for setting in settings]
    columns = {
        "real": [real for real, _ in optima],
        "fake": [fake for _, fake in optima],
        "difference": [real - fake for real, fake in optima],
        "gradient": [g_gradient(*scores) for scores in optima],
    }
    return {name: np.diff(column) for name, column in columns.items()}


def assert_directions(table: dict[str, np.ndarray], **signs: int) -> None:
    for name, sign in signs.items():
        assert (sign * table[name] > 1e-6).all(), name


@pytest.mark.parametrize(("k0", "m0", "p0"), [(0.1, 1, 0.0), (0.5, 3, 0.2), (2.0, 8, 1.0)])
def test_far_optimum_solves_the_equations_of_the_appendix(k0, m0, p0):
    """Eq. 26 and 28. Eq. 35 follows from eq. 10 with p0 m0 where the paper prints p0."""
    n, m = 6.0, 9.0
    real, fake = far_optimum(k0, m0, p0, n, m)
    odds = 1 + math.exp(real)
    assert 1 / odds == pytest.approx(2 * n * k0 * (real - fake), abs=1e-6)
    expected = -math.log((n * m0 / m * odds - 1) / (1 + p0 * m0 * odds))
    assert fake == pytest.approx(expected, abs=1e-5)


STRENGTHS = [0.02, 0.1, 0.3, 1.0, 3.0]


@pytest.mark.parametrize("m0", [1, 2, 5])
@pytest.mark.parametrize("p0", [0.0, 0.5])
def test_proposition_2_a_stronger_pull_closes_the_gap(m0, p0):
    table = far_table([(k0, m0, p0) for k0 in STRENGTHS])
    assert_directions(table, real=-1, fake=1, difference=-1, gradient=-1)


@pytest.mark.parametrize("k0", STRENGTHS)
def test_proposition_2_more_fakes_open_the_gap(k0):
    """More generated samples at one real sample pull distant ones harder."""
    table = far_table([(k0, m0, 0.0) for m0 in (1, 2, 3, 5, 8)])
    assert_directions(table, real=-1, fake=-1, difference=1, gradient=1)


@pytest.mark.parametrize("k0", [0.1, 1.0])
@pytest.mark.parametrize("m0", [1, 3, 6])
def test_proposition_3_fakes_called_real_close_the_gap(k0, m0):
    table = far_table([(k0, m0, p0) for p0 in (0.0, 0.1, 0.3, 0.6, 1.0)])
    assert_directions(table, real=1, fake=1, difference=-1, gradient=-1)


# P2GAN, section 4.

P_A, P_B = GaussianPrior(-4.0, 1.0), GaussianPrior(4.0, 3.0)
P_C = midpoint(P_A, P_B)


def test_sampled_distance_is_the_closed_form_on_average():
    """Eq. 7: over 200,000 rows of noise shared by both sides."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 2, dtype=torch.float64, generator=generator)
    mean, std = torch.tensor([[1.0, -6.0]]).double(), torch.tensor([[0.5, 4.0]]).double()
    factors = mean.expand_as(noise), std.expand_as(noise)
    by_hand = (((1 + 4) ** 2 + 0.5**2) / 2 + ((-6 + 4) ** 2 + 3**2) / 2) / 2
    assert sampled_distance(factors, P_A, noise).item() == pytest.approx(by_hand, rel=0.01)
    assert exact_distance((mean, std), P_A).item() == pytest.approx(by_hand)


def test_noise_of_its_own_for_each_side_would_not_tell_equal_gaussians():
    """Why eq. 6 shares the noise: otherwise equal distributions are sigma^2 apart, not 0."""
    generator = torch.Generator().manual_seed(0)
    noise, other = torch.randn(2, 100_000, generator=generator).unbind()
    same = torch.full_like(noise, P_B.mean), torch.full_like(noise, P_B.std)
    assert sampled_distance(same, P_B, noise) == 0
    apart = (P_B.mean + P_B.std * noise - P_B.mean - P_B.std * other).square().mean() / 2
    assert apart.item() == pytest.approx(P_B.std**2, rel=0.02)


def test_p2gan_optimal_discriminator_is_reached():
    """Eq. 14 for mu and for sigma. Noise of -1 and +1 has the normal's first two moments, so the
    mean over both is the expectation over eps."""
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    real_rows, fake_rows = REAL_ROWS.repeat(2), FAKE_ROWS.repeat(2)
    noise = signs.repeat_interleave(10)[:, None]

    def loss(table: Tensor) -> Tensor:
        real, fake = posterior_factors(table[real_rows]), posterior_factors(table[fake_rows])
        return p2gan_d_loss(real, fake, noise, noise, P_B, P_A)

    mean, std = posterior_factors(minimize(logits64(4, 2), loss))
    share = (P_DATA / (P_DATA + P_G)).double()[:, None]
    torch.testing.assert_close(mean, -4 + 8 * share, atol=1e-5, rtol=0)
    torch.testing.assert_close(std, 1 + 2 * share, atol=1e-5, rtol=0)


def test_p2gan_generator_minimises_pearsons_divergence():
    """2 C(G) of eq. 15 at D* is (P_b - P_a)^2 / 4 times the divergence of eq. 18."""
    p_data = DENSITY
    for p_g in [p_data, *random_densities(50)]:
        share = p_data / (p_data + p_g)
        best = [(-4 + 8 * s.reshape(1, 1), 1 + 2 * s.reshape(1, 1)) for s in share]
        to_center = torch.stack([exact_distance(factors, P_C) for factors in best])
        twice_c = 2 * (p_data @ to_center + p_g @ to_center)
        pearson = ((p_g - p_data).square() / (p_data + p_g)).sum()
        torch.testing.assert_close(twice_c, (8**2 + 2**2) / 4 * pearson)
