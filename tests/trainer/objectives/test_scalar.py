"""Objectives on scores against numbers by hand, probabilities and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from realness.trainer.config.components import component
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import StandardConfig
from realness.trainer.objectives.scalar import (
    non_saturating_g_loss,
    relativistic_d_loss,
    relativistic_g_loss,
    saturating_g_loss,
    standard_d_loss,
    wgan_d_loss,
    wgan_g_loss,
)
from tests.helpers.objective_tools import both_draws, draws, logits64

NAMES = ["standard", "lsgan", "hinge", "wgan", "relativistic"]


def losses(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(D's, G's) loss of the objective called `name`; real, fake: scores [B]."""
    objective = build_objective(component("objective", name)())
    outputs = real[:, None], fake[:, None]
    needed = outputs[0] if objective.needs_real_in_g_step else None
    real_draws, fake_draws = both_draws(len(real))
    return (
        objective.d_loss(*outputs, real_draws, fake_draws),
        objective.g_loss(outputs[1], needed, fake_draws, real_draws),
    )


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Two rows of scores, real (2, 0.5) and fake (-1, 0.25), worked out by hand: D's loss, G's loss.
REAL, FAKE = [2.0, 0.5], [-1.0, 0.25]
BY_HAND = {
    "standard": (
        (softplus(-2) + softplus(-0.5)) / 2 + (softplus(-1) + softplus(0.25)) / 2,
        (softplus(1) + softplus(-0.25)) / 2,
    ),
    # (1 + 0.25)/2/2 + (1 + 0.0625)/2/2 and (4 + 0.5625)/2/2
    "lsgan": (0.578125, 1.140625),
    # (0 + 0.5)/2 + (0 + 1.25)/2 and 0.75/2
    "hinge": (0.875, 0.375),
    # -0.375 - 1.25 and 0.75/2
    "wgan": (-1.625, 0.375),
    # differences 3 and 0.25
    "relativistic": (
        (softplus(-3) + softplus(-0.25)) / 2,
        (softplus(3) + softplus(0.25)) / 2,
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_losses_by_hand(name):
    d_loss, g_loss = losses(name, torch.tensor(REAL), torch.tensor(FAKE))
    assert (d_loss.item(), g_loss.item()) == pytest.approx(BY_HAND[name], rel=1e-6)


def test_hinge_is_flat_beyond_the_margin():
    real = torch.tensor([1.5, 0.5], requires_grad=True)
    fake = torch.tensor([-0.5, -1.5], requires_grad=True)
    d_loss, _ = losses("hinge", real, fake)
    grads = torch.autograd.grad(d_loss, [real, fake])
    torch.testing.assert_close(torch.stack(grads), torch.tensor([[0.0, -0.5], [0.5, 0.0]]))


@pytest.mark.parametrize("name", NAMES)
def test_d_tells_the_two_apart_and_g_pulls_the_fake_one_up(name):
    """For scores in (0, 1), D's gradient step raises real and lowers fake ones; G's raises fake."""
    real, fake = (logits64(6, 1, seed).sigmoid().squeeze(1) for seed in (1, 2))
    d_loss, g_loss = losses(name, real, fake)
    real_grad, fake_grad = torch.autograd.grad(d_loss, [real, fake])
    assert real_grad.max() < 0 < fake_grad.min()
    assert torch.autograd.grad(g_loss, fake)[0].max() < 0


def test_only_the_relativistic_pairing_needs_real_images_in_gs_step():
    built = {name: build_objective(component("objective", name)()) for name in NAMES}
    assert [name for name in NAMES if built[name].needs_real_in_g_step] == ["relativistic"]
    with pytest.raises(ValueError, match="loss of G compares with real images"):
        built["relativistic"].g_loss(torch.zeros(2, 1), None, draws(2), None)


def test_relativistic_pairs_rows_and_leaves_the_real_side_alone():
    """Only differences of rows count: a shift of one pair changes nothing, a new pairing does."""
    real, fake = logits64(5, 1, 1).squeeze(1), logits64(5, 1, 2).squeeze(1)
    shift = torch.arange(5.0)
    for loss in (relativistic_d_loss, lambda r, f: relativistic_g_loss(f, r)):
        torch.testing.assert_close(loss(real + shift, fake + shift), loss(real, fake))
        assert (loss(real.flip(0), fake) - loss(real, fake)).abs() > 1e-3
    _, g_loss = losses("relativistic", real, fake)
    assert torch.autograd.grad(g_loss, real, allow_unused=True) == (None,)


def test_relativistic_g_loss_is_d_loss_with_the_sides_exchanged():
    real, fake = logits64(5, 1, 1), logits64(5, 1, 2)
    assert torch.equal(relativistic_g_loss(fake, real), relativistic_d_loss(fake, real))


def test_wgan_losses_are_the_slopes_that_both_players_see():
    """D's loss is the negative of the dual's value; G moves its own half of it."""
    real, fake = logits64(5, 1, 1), logits64(5, 1, 2)
    torch.testing.assert_close(wgan_d_loss(real, fake) + wgan_g_loss(fake), -real.mean())


def test_lsgan_optimal_scores_are_the_class_probabilities():
    """For fixed densities LSGAN's best score is (b p_data + a p_g) / (p_data + p_g): here p_data's
    share, reached by Newton's step from 0 because the loss is quadratic."""
    p_data = torch.tensor([1, 2, 3, 4])
    p_g = torch.tensor([6, 1, 3, 0])
    points = torch.arange(4)
    real_rows, fake_rows = points.repeat_interleave(p_data), points.repeat_interleave(p_g)
    table = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    d_loss, _ = losses("lsgan", table[real_rows], table[fake_rows])
    (slope,) = torch.autograd.grad(d_loss, table, create_graph=True)
    curvature = torch.stack([torch.autograd.grad(s, table, retain_graph=True)[0] for s in slope])
    best = -torch.linalg.solve(curvature, slope)
    torch.testing.assert_close(best.detach(), (p_data / (p_data + p_g)).double())


def test_standard_losses_follow_equation_1():
    s_real, s_fake = logits64(5, 1, 1), logits64(5, 1, 2)
    p_real, p_fake = torch.sigmoid(s_real), torch.sigmoid(s_fake)
    formulas = {
        "d": -(p_real.log().mean() + (1 - p_fake).log().mean()),
        True: (1 - p_fake).log().mean(),
        False: -p_fake.log().mean(),
    }
    d_loss = standard_d_loss(s_real, s_fake)
    torch.testing.assert_close(d_loss, formulas["d"])
    torch.testing.assert_close(
        torch.autograd.grad(d_loss, [s_real, s_fake]),
        torch.autograd.grad(formulas["d"], [s_real, s_fake], retain_graph=True),
    )
    for saturating in (True, False):
        objective = build_objective(StandardConfig(saturating=saturating))
        g_loss = objective.g_loss(s_fake, None, draws(5), None)
        torch.testing.assert_close(g_loss, formulas[saturating])
        torch.testing.assert_close(
            torch.autograd.grad(g_loss, s_fake),
            torch.autograd.grad(formulas[saturating], s_fake, retain_graph=True),
        )


def test_standard_losses_stay_finite_at_huge_logits():
    real, fake = torch.tensor([-1e4]), torch.tensor([1e4])
    assert standard_d_loss(real, fake) == 2e4
    assert saturating_g_loss(fake) == -1e4
    assert non_saturating_g_loss(real) == 1e4
