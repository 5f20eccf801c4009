"""RealnessGAN's objectives against float64 formulas and the standard GAN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from objective_tools import N, anchors64, both_draws, draws, kl, logits64

from realness.trainer.config import AnchorConfig, ObjectiveConfig
from realness.trainer.objectives import (
    FixedAnchors,
    NoResampling,
    RealnessObjective,
    build_objective,
)
from realness.trainer.objectives.anchors import AnchorPair, skewnorm_pair
from realness.trainer.objectives.realness import (
    realness_d_loss,
    realness_g_loss1,
    realness_g_loss2,
    realness_g_loss3,
    realness_score,
)
from realness.trainer.objectives.scalar import (
    non_saturating_g_loss,
    saturating_g_loss,
    standard_d_loss,
)

# Equations 3 and 18-20 written out with probabilities D(x) = softmax(psi), eq. 17.

REAL, FAKE = logits64(seed=1), logits64(seed=2)
A1, A0 = anchors64()
D_REAL, D_FAKE = REAL.softmax(1), FAKE.softmax(1)
FORMULAS = {
    "d": (kl(A1, D_REAL).mean() + kl(A0, D_FAKE).mean()),
    "g1": -kl(A0, D_FAKE).mean(),
    "g2": kl(D_REAL, D_FAKE).mean() - kl(A0, D_FAKE).mean(),
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
def test_objective_chooses_the_equation(g_objective):
    objective = RealnessObjective(
        FixedAnchors(skewnorm_pair(N, 5, -5)), NoResampling(N), g_objective, "reference"
    )
    assert objective.needs_real_in_g_step == (g_objective == 2)
    real_draws, fake_draws = both_draws()
    d_loss = objective.d_loss(REAL, FAKE, real_draws, fake_draws)
    torch.testing.assert_close(d_loss, FORMULAS["d"])
    real = REAL if g_objective == 2 else None
    g_loss = objective.g_loss(FAKE, real, fake_draws, real_draws)
    torch.testing.assert_close(g_loss, FORMULAS[f"g{g_objective}"])


def test_objective_2_needs_real_outputs():
    objective = build_objective(ObjectiveConfig(num_outcomes=N, g_objective=2))
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
    config = ObjectiveConfig(
        num_outcomes=N, resample=resample, anchor=AnchorConfig(anchors=anchors)
    )
    objective = build_objective(config)
    output = torch.zeros(3, objective.num_outputs)
    output[0, N - 1] = output[1, 0] = 1
    output[:, N:] = torch.randn(3, objective.num_outputs - N)  # log-variances do not matter
    score = objective.score(output)
    assert score.shape == (3,)
    assert score[0] > 0 > score[1]
    assert score[2] == 0
    torch.testing.assert_close(objective.score(output[1:2]), score[1:2])
