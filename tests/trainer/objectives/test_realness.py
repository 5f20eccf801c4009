"""RealnessGAN's objectives against float64 formulas and the standard GAN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from realness import kernels
from realness.trainer.distributed import collectives, ranks
from realness.trainer.objectives import realness
from realness.trainer.objectives.anchor_source import FixedAnchors
from realness.trainer.objectives.anchors import AnchorPair, skewnorm_pair
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import AnchorConfig, RealnessConfig
from realness.trainer.objectives.realness import (
    RealnessObjective,
    realness_d_loss,
    realness_g_loss1,
    realness_g_loss2,
    realness_g_loss3,
    realness_score,
)
from realness.trainer.objectives.resampling import NoResampling
from realness.trainer.objectives.scalar import (
    non_saturating_g_loss,
    saturating_g_loss,
    standard_d_loss,
)
from tests.helpers.objective_tools import N, anchors64, both_draws, draws, kl, logits64

# Equations 3 and 18-20 written out with probabilities D(x) = softmax(psi), eq. 17.

REAL, FAKE = logits64(seed=1), logits64(seed=2)
A1, A0 = anchors64()
D_REAL, D_FAKE = REAL.softmax(1), FAKE.softmax(1)
FORMULAS = {
    "d": (kl(A1, D_REAL).mean() + kl(A0, D_FAKE).mean()),
    "g1": -kl(A0, D_FAKE).mean(),
    "g2": kl(D_REAL.detach(), D_FAKE).mean() - kl(A0, D_FAKE).mean(),
    "g3": kl(A1, D_FAKE).mean() - kl(A0, D_FAKE).mean(),
}
LOSSES = {
    "d": lambda real, fake, a1, a0: realness_d_loss(real, fake, a1, a0),
    "g1": lambda real, fake, a1, a0: realness_g_loss1(fake, a0),
    "g2": lambda real, fake, a1, a0: realness_g_loss2(fake, real, a0),
    "g3": lambda real, fake, a1, a0: realness_g_loss3(fake, a1, a0),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_realness_losses_and_gradients_follow_their_equations(name, dtype):
    real, fake = (x.detach().to(dtype).requires_grad_() for x in (REAL, FAKE))
    loss = LOSSES[name](real, fake, A1.to(dtype), A0.to(dtype))
    grads = torch.autograd.grad(loss, [real, fake], allow_unused=True)
    expected = torch.autograd.grad(
        FORMULAS[name], [REAL, FAKE], retain_graph=True, allow_unused=True
    )
    rtol, atol = (1e-10, 1e-12) if dtype == torch.float64 else (1e-5, 1e-6)
    torch.testing.assert_close(loss, FORMULAS[name].detach().to(dtype), rtol=rtol, atol=atol)
    for grad, reference in zip(grads, expected, strict=True):
        assert (grad is None) == (reference is None)
        if grad is not None:
            torch.testing.assert_close(grad, reference.to(dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("g_objective", [1, 2, 3])
@kernels.implementation("reference")
def test_objective_chooses_the_equation(g_objective):
    anchors = FixedAnchors(skewnorm_pair(N, 5, -5))
    objective = RealnessObjective(anchors, NoResampling(N), g_objective)
    assert objective.needs_real_in_g_step == (g_objective == 2)
    real_draws, fake_draws = both_draws()
    d_loss = objective.d_loss(REAL, FAKE, real_draws, fake_draws)
    torch.testing.assert_close(d_loss, FORMULAS["d"])
    real = REAL if g_objective == 2 else None
    g_loss = objective.g_loss(FAKE, real, fake_draws, real_draws)
    torch.testing.assert_close(g_loss, FORMULAS[f"g{g_objective}"])


def test_objective_2_needs_real_outputs():
    objective = build_objective(RealnessConfig(num_outcomes=N, g_objective=2))
    with pytest.raises(ValueError, match=r"objective 2 \(eq. 19\) needs D's output on real"):
        objective.g_loss(FAKE, None, draws(), None)


# Two outcomes with one-hot anchors: section 2.2's "generalized version of the original GAN".

ONE_HOT = AnchorPair(real=np.array([0.0, 1.0]), fake=np.array([1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("g_objective", "standard_g_loss"),
    [(1, saturating_g_loss), (3, lambda s: saturating_g_loss(s) + non_saturating_g_loss(s))],
)
def test_two_outcomes_with_one_hot_anchors_are_the_standard_gan(
    g_objective, standard_g_loss, dtype
):
    """Values and gradients of D's loss and of G's objectives 1 and 3; 0 ln 0 is 0 on the way."""
    objective = RealnessObjective(FixedAnchors(ONE_HOT), NoResampling(2), g_objective)
    real, fake = (
        (10 * logits64(6, 2, seed).detach().to(dtype)).requires_grad_() for seed in (1, 2)
    )
    real_draws, fake_draws = both_draws(6)
    logit_real, logit_fake = (x[:, 1] - x[:, 0] for x in (real, fake))
    pairs = [
        (objective.score(real), logit_real),
        (
            objective.d_loss(real, fake, real_draws, fake_draws),
            standard_d_loss(logit_real, logit_fake),
        ),
        (
            objective.g_loss(fake, None, fake_draws, None),
            standard_g_loss(logit_fake),
        ),
    ]
    for ours, standard in pairs:
        torch.testing.assert_close(ours, standard)
        torch.testing.assert_close(
            torch.autograd.grad(ours.sum(), [real, fake], allow_unused=True, retain_graph=True),
            torch.autograd.grad(standard.sum(), [real, fake], allow_unused=True, retain_graph=True),
        )


def test_the_real_term_of_objective_3_is_the_non_saturating_loss():
    """KL(A1 || D(G(z))) with one-hot anchors is -log D(G(z))."""
    fake = logits64(6, 2)
    a1, a0 = torch.from_numpy(ONE_HOT.real), torch.from_numpy(ONE_HOT.fake)
    ours = realness_g_loss3(fake, a1, a0) - realness_g_loss1(fake, a0)
    torch.testing.assert_close(ours, non_saturating_g_loss(fake[:, 1] - fake[:, 0]))


# Earth Mover's Distance in place of the KL divergence (section 2.3).


def emd(p: Tensor, q: Tensor) -> float:
    """Mean over rows of scipy's distance between distributions on 0, 1, ..., N - 1."""
    places = np.arange(N)
    p, q = (x.detach().expand(len(FAKE), N) for x in (p, q))
    rows = zip(p.numpy(), q.numpy(), strict=True)
    return float(np.mean([stats.wasserstein_distance(places, places, *row) for row in rows]))


def test_emd_losses_are_scipys_distances_of_the_same_pairs():
    to_fake_anchor = emd(A0, D_FAKE)
    expected = {
        "d": emd(A1, D_REAL) + to_fake_anchor,
        1: -to_fake_anchor,
        2: emd(D_REAL, D_FAKE) - to_fake_anchor,
        3: emd(A1, D_FAKE) - to_fake_anchor,
    }
    config = RealnessConfig(num_outcomes=N, divergence="emd", resample="none")
    d_loss = build_objective(config).d_loss(REAL, FAKE, *both_draws())
    assert d_loss.item() == pytest.approx(expected["d"], rel=1e-12)
    for number in (1, 2, 3):
        objective = build_objective(replace(config, g_objective=number))
        g_loss = objective.g_loss(FAKE, REAL, *both_draws()[::-1])
        assert g_loss.item() == pytest.approx(expected[number], rel=1e-12)


@pytest.mark.parametrize("g_objective", [1, 2, 3])
@pytest.mark.parametrize("resample", ["gaussian", "head", "none"])
def test_emd_gradients_against_finite_differences(g_objective, resample):
    config = RealnessConfig(
        num_outcomes=N, divergence="emd", resample=resample, g_objective=g_objective
    )
    objective = build_objective(config)
    real, fake = (logits64(4, objective.num_outputs, seed) for seed in (1, 2))
    real_draws, fake_draws = both_draws()
    torch.autograd.gradcheck(
        lambda r, f: objective.d_loss(r, f, real_draws, fake_draws), (real, fake)
    )
    torch.autograd.gradcheck(
        lambda f: objective.g_loss(f, real.detach(), fake_draws, real_draws), (fake,)
    )
    g_loss = objective.g_loss(fake, real, fake_draws, real_draws)
    assert torch.autograd.grad(g_loss, real, allow_unused=True) == (None,)


# Fused losses.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("statistics", ["local", "global"])
@pytest.mark.parametrize("resample", ["gaussian", "head", "none"])
@pytest.mark.parametrize("g_objective", [1, 2, 3])
def test_fused_losses_are_the_separate_ones(monkeypatch, g_objective, resample, statistics, dtype):
    objective = build_objective(
        RealnessConfig(
            num_outcomes=N,
            resample=resample,
            resample_statistics=statistics,
            g_objective=g_objective,
        )
    )
    real, fake = (
        logits64(6, objective.num_outputs, seed).detach().to(dtype).requires_grad_()
        for seed in (1, 2)
    )
    real_draws, fake_draws = both_draws(6)

    def losses_and_gradients() -> list[Tensor]:
        d_loss = objective.d_loss(real, fake, real_draws, fake_draws)
        g_loss = objective.g_loss(fake, real, fake_draws, real_draws)
        d_grads = torch.autograd.grad(d_loss, [real, fake])
        return [d_loss, g_loss, *d_grads, *torch.autograd.grad(g_loss, fake)]

    fused = losses_and_gradients()
    monkeypatch.setattr(realness, "MAX_FUSED_ROWS", 5)
    separate = losses_and_gradients()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fused, separate, rtol=tolerance, atol=tolerance)


FUSED = {"realness_d_loss": 1, "realness_g_loss": 1}


def called(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, int]:
    """Number of runs of each fused loss in one D and one G step, and of those with noise."""
    counts = dict.fromkeys([*FUSED, "noise"], 0)

    def count(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any, **kwargs: Any) -> Tensor:
            counts[name] += 1
            counts["noise"] += len(args) > 4 and args[4] is not None
            return function(*args, **kwargs)

        return counted

    for name in FUSED:
        monkeypatch.setattr(kernels, name, count(name, getattr(kernels, name)))
    rows = settings.pop("rows", 6)
    objective = build_objective(RealnessConfig(num_outcomes=N, g_objective=1, **settings))
    output = torch.randn(rows, objective.num_outputs)
    objective.d_loss(output, output, *both_draws(rows))
    objective.g_loss(output, None, draws(rows), None)
    return {name: number for name, number in counts.items() if number}


def test_a_step_takes_the_fused_losses_and_lets_them_resample(monkeypatch):
    assert called(monkeypatch) == {**FUSED, "noise": 2}


@pytest.mark.parametrize("resample", ["head", "none"])
def test_other_resampling_is_done_before_the_fused_losses(monkeypatch, resample):
    assert called(monkeypatch, resample=resample) == FUSED


@pytest.mark.parametrize(("statistics", "noise"), [("local", {"noise": 2}), ("global", {})])
def test_several_ranks_share_their_moments_before_the_fused_losses(monkeypatch, statistics, noise):
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "global_moments", lambda mean, variance: (mean, variance))
    assert called(monkeypatch, resample_statistics=statistics) == {**FUSED, **noise}


def test_large_batches_and_the_emd_take_the_separate_losses(monkeypatch):
    assert called(monkeypatch, rows=realness.MAX_FUSED_ROWS) == {**FUSED, "noise": 2}
    assert called(monkeypatch, rows=realness.MAX_FUSED_ROWS + 1) == {}
    assert called(monkeypatch, divergence="emd") == {}


# Score.


def test_score_orders_like_the_difference_of_divergences():
    """score = KL(A0 || D(x)) - KL(A1 || D(x)) + const; the softmax's normaliser cancels."""
    difference = kl(A0, D_REAL) - kl(A1, D_REAL) - realness_score(REAL, A1, A0)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference))
    shifted = realness_score(REAL + 5, A1, A0)
    torch.testing.assert_close(shifted, realness_score(REAL, A1, A0))


@pytest.mark.parametrize("resample", ["gaussian", "head", "none"])
@pytest.mark.parametrize("anchors", ["skewnorm", "histogram"])
def test_score_is_per_row_and_prefers_the_real_end(resample, anchors):
    config = RealnessConfig(num_outcomes=N, resample=resample, anchor=AnchorConfig(anchors=anchors))
    objective = build_objective(config)
    output = torch.zeros(3, objective.num_outputs)
    output[0, N - 1] = output[1, 0] = 1
    output[:, N:] = torch.randn(3, objective.num_outputs - N)  # log-variances do not matter
    score = objective.score(output)
    assert score.shape == (3,)
    assert score[0] > 0 > score[1]
    assert score[2] == 0
    torch.testing.assert_close(objective.score(output[1:2]), score[1:2])
