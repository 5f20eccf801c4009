"""P2GAN's losses, score and codes against its equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from realness.trainer.config import ConfigError
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import P2GANConfig, PosteriorConfig
from realness.trainer.objectives.p2gan import (
    GaussianPrior,
    P2GANObjective,
    exact_distance,
    posterior_factors,
)
from realness.trainer.randomness import Purpose, Stream
from tests.helpers.objective_tools import both_draws, draws, logits64

DIM, WEIGHT = 3, 7.0
P_A, P_B = GaussianPrior(-4.0, 1.0), GaussianPrior(4.0, 3.0)
OBJECTIVE = P2GANObjective(P_A, P_B, WEIGHT, DIM)


def outputs64(num_samples: int = 5) -> tuple[Tensor, Tensor]:
    """D's outputs on real and on generated images, [B, 2 DIM] float64."""
    return logits64(num_samples, 2 * DIM, 1), logits64(num_samples, 2 * DIM, 2)


def code_of(output: Tensor, noise: Tensor) -> Tensor:
    """Eq. 3 with mu in the first half of the output and sigma = ln(1 + e^.) of the second."""
    return output[:, :DIM] + noise * (1 + output[:, DIM:].exp()).log()


def output_of(prior: GaussianPrior, num_samples: int = 5) -> Tensor:
    """The output of a D whose posteriors are all the prior."""
    raw = math.log(math.expm1(prior.std))
    row = torch.tensor([prior.mean] * DIM + [raw] * DIM, dtype=torch.float64)
    return row.repeat(num_samples, 1)


def noises(num_samples: int = 5) -> tuple[Tensor, Tensor]:
    real_draws, fake_draws = both_draws(num_samples)
    real, fake = (d.normal(Purpose.CODE, DIM).double() for d in (real_draws, fake_draws))
    return real, fake


def test_d_loss_is_equation_8_on_samples_that_share_their_noise():
    real, fake = outputs64()
    noise_real, noise_fake = noises()
    expected = ((code_of(real, noise_real) - (4 + 3 * noise_real)) ** 2).mean() / 2 + (
        (code_of(fake, noise_fake) - (-4 + noise_fake)) ** 2
    ).mean() / 2
    loss = OBJECTIVE.d_loss(real, fake, *both_draws(5))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, [real, fake]), torch.autograd.grad(expected, [real, fake])
    )


def test_d_loss_is_zero_at_the_priors_and_by_hand_where_they_are_swapped():
    draws_both = both_draws(2000)
    at_priors = OBJECTIVE.d_loss(output_of(P_B, 2000), output_of(P_A, 2000), *draws_both)
    assert at_priors.item() == pytest.approx(0, abs=1e-20)
    # (8^2 + 2^2)/2 for each side, eq. 7; samples scatter around it
    exchanged = OBJECTIVE.d_loss(output_of(P_A, 2000), output_of(P_B, 2000), *draws_both)
    assert exchanged.item() == pytest.approx(68, rel=0.03)


def test_g_loss_is_equation_13_with_one_noise_for_the_pair():
    real, fake = outputs64()
    real_draws, fake_draws = both_draws(5)
    _, noise = noises()
    adversarial = ((code_of(fake, noise) - (0 + 2 * noise)) ** 2).mean() / 2
    regularizer = (code_of(fake, noise) - code_of(real, noise).detach()).abs().mean()
    expected = adversarial + WEIGHT * regularizer
    loss = OBJECTIVE.g_loss(fake, real, fake_draws, real_draws)
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, [fake, real], allow_unused=True)
    torch.testing.assert_close(grads[0], torch.autograd.grad(expected, fake)[0])
    assert grads[1] is None


def test_g_loss_is_zero_where_both_posteriors_are_the_optimum():
    output = output_of(GaussianPrior(0.0, 2.0))
    loss = OBJECTIVE.g_loss(output, output, *both_draws(5)[::-1])
    assert loss.item() == pytest.approx(0, abs=1e-20)


def test_the_regularizer_pairs_rows():
    """Real rows in another order give another loss, and equal posteriors cost nothing."""
    real, fake = outputs64()
    real_draws, fake_draws = both_draws(5)
    alone = P2GANObjective(P_A, P_B, 0.0, DIM).g_loss(real, real, fake_draws, real_draws)
    torch.testing.assert_close(OBJECTIVE.g_loss(real, real, fake_draws, real_draws), alone)
    loss = OBJECTIVE.g_loss(fake, real, fake_draws, real_draws)
    assert (OBJECTIVE.g_loss(fake, real.flip(0), fake_draws, real_draws) - loss).abs() > 1e-3


def test_g_loss_needs_real_outputs():
    with pytest.raises(ValueError, match="needs D's output on real images"):
        OBJECTIVE.g_loss(outputs64()[1], None, draws(5), None)


def test_score_is_the_difference_of_distances_without_its_constant():
    output, _ = outputs64()
    rows = [posterior_factors(row) for row in output.split(1)]
    difference = torch.stack([exact_distance(r, P_A) - exact_distance(r, P_B) for r in rows])
    rest = difference - OBJECTIVE.score(output)
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))
    assert OBJECTIVE.score(output_of(P_B))[0] > OBJECTIVE.score(output_of(P_A))[0]
    # 8 mu + 2 sigma at mu = 4, sigma = 3
    torch.testing.assert_close(OBJECTIVE.score(output_of(P_B)), torch.full((5,), 38.0).double())


def test_convergence_measure_by_hand():
    """Eq. 21 around D* = N(0, 2^2): 0 at D*, and (4^2 + 1^2)/2 for each side at its prior."""

    def measure(real: Tensor, fake: Tensor) -> float:
        return OBJECTIVE.measures(real, fake, *both_draws(5))["convergence"].item()

    optimum = output_of(GaussianPrior(0.0, 2.0))
    assert measure(optimum, optimum) == pytest.approx(0, abs=1e-20)
    assert measure(output_of(P_B), output_of(P_A)) == pytest.approx(17)
    assert measure(output_of(P_B), optimum) == pytest.approx(8.5)


def test_codes_are_drawn_from_the_posterior_of_their_row():
    count = 20_000
    output = torch.tensor([[1.0, -2.0, 0.0, 1.0, -1.0, 3.0]]).repeat(count, 1)
    codes = OBJECTIVE.code(output, draws(count, Stream.D_REAL))
    mean, std = OBJECTIVE.factors(output[:1])
    assert codes.shape == (count, DIM)
    torch.testing.assert_close(codes.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(codes.std(0), std[0], atol=0, rtol=0.02)
    part = OBJECTIVE.code(output[:3], draws(3, Stream.D_REAL, first_sample=4))
    assert torch.equal(part, codes[4:7])


def test_deviations_are_positive_and_finite_for_any_output():
    _, std = OBJECTIVE.factors(torch.tensor([[0.0, 0.0, 0.0, -50.0, 0.0, 50.0]]).bfloat16())
    assert std.dtype == torch.float32
    assert std[0].tolist() == pytest.approx([math.exp(-50), math.log(2), 50.0])


def test_built_from_the_configuration():
    """The paper's CelebA setting: d = 20, priors at -5 and +5; P_c is their midpoint."""
    posterior = PosteriorConfig(
        posterior_dim=20, prior_fake_mean=-5.0, prior_real_mean=6.0, code_weight=2.5
    )
    objective = build_objective(P2GANConfig(posterior=posterior))
    assert objective == P2GANObjective(GaussianPrior(-5, 1), GaussianPrior(6, 3), 2.5, 20)
    assert isinstance(objective, P2GANObjective)
    mean, std = objective.typical_factors()
    assert torch.equal(mean, torch.full((20,), 0.5))
    assert torch.equal(std, torch.full((20,), 2.0))


def test_codes_from_noise_ignore_the_posteriors():
    """Table 5, w/o Z: codes are N(0, I) for any output of D; the losses do not change."""
    ablated = P2GANObjective(P_A, P_B, WEIGHT, DIM, code_source="noise")
    count = 20_000
    codes = ablated.code(torch.full((count, 2 * DIM), 7.0), draws(count, Stream.D_REAL))
    # Standard errors are 1/sqrt(n) of a mean and 1/sqrt(2n) of a deviation; 5 of them.
    torch.testing.assert_close(codes.mean(0), torch.zeros(DIM), atol=5 / count**0.5, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(DIM), atol=5 / (2 * count) ** 0.5, rtol=0)
    assert torch.equal(
        ablated.code(torch.zeros(count, 2 * DIM), draws(count, Stream.D_REAL)), codes
    )
    part = ablated.code(torch.zeros(3, 2 * DIM), draws(3, Stream.D_REAL, first_sample=4))
    assert torch.equal(part, codes[4:7])
    mean, std = ablated.typical_factors()
    assert torch.equal(mean, torch.zeros(DIM))
    assert torch.equal(std, torch.ones(DIM))
    real, fake = outputs64()
    for name in ("d_loss", "g_loss"):
        first, second = (real, fake) if name == "d_loss" else (fake, real)
        values = [getattr(o, name)(first, second, *both_draws(5)) for o in (ablated, OBJECTIVE)]
        assert torch.equal(*values)


def test_without_posterior_modules_g_has_no_code():
    """Table 5, w/o M: D's outputs and the latent code regulariser stay."""
    config = P2GANConfig(PosteriorConfig(posterior_modules=False, pretrain_kimg=3.0))
    ablated = build_objective(config)
    assert (ablated.code_dim, ablated.num_outputs) == (0, 10)
    assert ablated.needs_real_in_g_step
    assert config.code_start_kimg == 0
    full = build_objective(P2GANConfig())
    real, fake = logits64(5, 10, 1), logits64(5, 10, 2)
    losses = [o.g_loss(fake, real, *both_draws(5)) for o in (ablated, full)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(posterior_modules=False, code_source="noise"), "--code-source=noise chooses what"),
        (dict(posterior_modules=False, test_code="ema"), "not take with --no-posterior-modules;"),
        (dict(code_source="noise", test_code="ema"), "not take with --code-source noise; use"),
    ],
)
def test_contradictory_ablations_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PosteriorConfig(**settings)
