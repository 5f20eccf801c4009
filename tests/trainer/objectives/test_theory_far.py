"""FAR-GAN's proposition 1 and its explanation of exploding gradients, eq. 4 to 6 and 13 to 22."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.objectives.scalar import non_saturating_g_loss, standard_d_loss

NO_INFORMATION = 2 * math.log(1 / 2)
"""The objective of eq. 13 at D = 1/2 everywhere."""
SATURATED = 60.0
"""An input at which the sigmoid is within e^-60 of 1, far below the rounding of float64."""


def objective(on_real: Tensor, on_fake: Tensor) -> float:
    """Eq. 13 for D's outputs in (0, 1)."""
    return -standard_d_loss(on_real.logit(), on_fake.logit()).item()


def on_sphere(count: int, dim: int, seed: int) -> Tensor:
    """Random points of norm 1 (eq. 15), [count, dim]."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return points / points.norm(dim=1, keepdim=True)


class PairDiscriminator(nn.Module):
    """The network of eq. 16 and 17, which marks one real and one generated point of the sphere.

    The paper lets b go to 1 from below, and k_1 and k_2 to infinity. Here b is half way between 1
    and the largest product l of x_0 or y_0 with another point, and both layers are saturated.
    """

    def __init__(self, real: Tensor, fake: Tensor, closest: float, gap: float) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.stack([real, fake]))
        self.w2 = nn.Parameter(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))
        self.w3 = nn.Parameter(torch.tensor([(1 + gap) / 2, (1 - gap) / 2], dtype=torch.float64))
        self.b = nn.Parameter(torch.full((2,), (1 + closest) / 2, dtype=torch.float64))
        self.k1, self.k2 = 2 * SATURATED / (1 - closest), SATURATED

    def forward(self, points: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.k1 * (points @ self.w1.T - self.b))
        return torch.sigmoid(self.k2 * hidden @ self.w2.T) @ self.w3


@pytest.mark.parametrize("dim", [2, 16, 3072])
@pytest.mark.parametrize("gap", [0.02, 0.5])
def test_proposition_1_a_small_network_beats_a_constant(dim, gap):
    """Eq. 21: 1/2 + gap/2 at x_0, 1/2 - gap/2 at y_0, 1/2 at all others; the value is eq. 22's."""
    real, fake = on_sphere(6, dim, seed=0), on_sphere(9, dim, seed=1)
    points = torch.cat([real, fake])
    products = torch.stack([real[0], fake[0]]) @ points.T
    closest = max(products[0, 1:].max().item(), products[1, :6].max().item())
    closest = max(closest, products[1, 7:].max().item())
    network = PairDiscriminator(real[0], fake[0], closest, gap)
    assert sum(p.numel() for p in network.parameters()) == 2 * dim + 8
    # Norms are 1 up to rounding, which k_1 multiplies; the sigmoids stay saturated.
    outputs = network(points)
    expected = torch.full((15,), 0.5, dtype=torch.float64)
    expected[0], expected[6] = (1 + gap) / 2, (1 - gap) / 2
    torch.testing.assert_close(outputs, expected, atol=1e-12, rtol=0)
    by_hand = (1 / 6 + 1 / 9) * math.log((1 + gap) / 2) + (5 / 6 + 8 / 9) * math.log(1 / 2)
    value = objective(outputs[:6], outputs[6:])
    assert value == pytest.approx(by_hand, abs=1e-12)
    assert value > NO_INFORMATION


def test_an_epsilon_optimal_discriminator_beats_a_constant():
    """Eq. 14, where D tells all points apart."""
    on_real, on_fake = torch.tensor([[0.6] * 4, [0.4] * 4], dtype=torch.float64)
    assert objective(on_real, on_fake) == pytest.approx(2 * math.log(0.6))
    assert objective(on_real, on_fake) > NO_INFORMATION


@pytest.mark.parametrize(
    ("fakes", "is_constant"),
    [([1, 1, 1, 1], True), ([3, 3, 3, 3], True), ([1, 2, 2, 3], False), ([5, 1, 1, 1], False)],
)
def test_the_optimum_is_constant_only_for_the_uniform_distribution_on_the_data(fakes, is_constant):
    """A given number of fakes at each of the four real points. D's optimum is p/(p + q)."""
    q = torch.tensor(fakes, dtype=torch.float64)
    real = torch.full((4,), 1 / 4, dtype=torch.float64)
    best = real / (real + q / q.sum())
    scores = best.logit().requires_grad_()
    rows = torch.arange(4).repeat_interleave(torch.tensor(fakes))
    loss = standard_d_loss(scores, scores[rows])
    (slope,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
    assert torch.equal(best, torch.full_like(best, 0.5)) == is_constant
    assert (-loss.item() > NO_INFORMATION + 1e-6) != is_constant


# Exploding gradients.


def network(dim: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)]
    return nn.Sequential(*layers).double()


def test_the_gradient_of_g_is_the_slope_of_d_times_a_factor():
    """Eq. 5: of log sigmoid(D_0(y)) with respect to y."""
    d = network(3)
    y = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(-non_saturating_g_loss(d(y)), y)
    (slope,) = torch.autograd.grad(d(y).sum(), y)
    torch.testing.assert_close(gradient, slope / (1 + d(y).exp())[:, None])


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
def test_at_a_constant_gap_the_gradient_grows_as_the_pair_approaches(distance):
    """Eq. 6 is exact for a D_0 that is linear between the two points."""
    on_fake, gap = -0.7, 0.3
    x0 = torch.tensor([0.6, 0.8], dtype=torch.float64)
    direction = torch.tensor([0.28, -0.96], dtype=torch.float64)
    y0 = (x0 - distance * direction)[None].requires_grad_()
    scores = on_fake + gap * ((y0 - y0.detach()) @ direction) / distance
    (gradient,) = torch.autograd.grad(-non_saturating_g_loss(scores), y0)
    expected = gap / ((1 + math.exp(on_fake)) * distance)
    assert gradient.norm().item() == pytest.approx(expected, rel=1e-12)


def steepest_between(d: nn.Module, x0: Tensor, y0: Tensor) -> float:
    """The largest directional derivative of d on 20,001 points between x0 and y0."""
    share = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    points = (y0 + share * (x0 - y0)).requires_grad_()
    (slopes,) = torch.autograd.grad(d(points).sum(), points)
    return (slopes @ ((x0 - y0) / (x0 - y0).norm())).max().item()


def test_a_network_that_tells_close_points_apart_is_steep():
    """Eq. 4 for proposition 1's network: the gap stays, so the slope is at least gap / distance.

    That is the mean value theorem. This network is steeper, because it rises in steps.
    """
    gap = 0.5
    for angle in (0.1, 0.01, 0.001):
        x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        y0 = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        d = PairDiscriminator(x0, y0, math.cos(angle), gap)
        on_real, on_fake = d(torch.stack([x0, y0])).tolist()
        assert on_real - on_fake == pytest.approx(gap, abs=1e-6)
        assert steepest_between(d, x0, y0) > gap / (x0 - y0).norm().item()


def test_one_close_pair_outweighs_the_rest_of_a_batch():
    """Under eq. 6 with equal gaps, 63 fakes at distance 1 weigh less than one at 1/100."""
    gap = 0.3
    distances = torch.tensor([1e-2, *[1.0] * 63], dtype=torch.float64)
    y = -distances.clone().requires_grad_()
    scores = gap * (y - y.detach()) / distances
    (gradient,) = torch.autograd.grad(-non_saturating_g_loss(scores), y)
    assert gradient[0] / gradient[1:].sum() == pytest.approx(100 / 63)
