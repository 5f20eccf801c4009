"""Objectives against float64 formulas, the standard GAN and the theory of the RealnessGAN paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer import distributed
from realness.trainer.config import AnchorConfig, ObjectiveConfig
from realness.trainer.objectives import (
    FixedAnchors,
    GaussianResampling,
    HeadResampling,
    NoResampling,
    RealnessObjective,
    StandardObjective,
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
from realness.trainer.objectives.resampling import resample_gaussian, resample_head
from realness.trainer.objectives.standard import (
    non_saturating_g_loss,
    saturating_g_loss,
    standard_d_loss,
)
from realness.trainer.randomness import Draws, Purpose, Stream, batch_draws

N = 7


def draws(num_samples: int = 4, stream: Stream = Stream.D_FAKE, first: int = 0) -> Draws:
    return batch_draws(3, stream, first, num_samples)


def both_draws(num_samples: int = 4) -> tuple[Draws, Draws]:
    return draws(num_samples, Stream.D_REAL), draws(num_samples, Stream.D_FAKE)


def logits64(num_samples: int = 4, num_outcomes: int = N, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(num_samples, num_outcomes, dtype=torch.float64, generator=generator)
    return values.requires_grad_()


def anchors64(num_outcomes: int = N) -> tuple[Tensor, Tensor]:
    pair = skewnorm_pair(num_outcomes, 5, -5)
    return torch.from_numpy(pair.real), torch.from_numpy(pair.fake)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """sum_i p_i ln(p_i / q_i) of positive distributions, as the definition has it."""
    return (p * (p / q).log()).sum(-1)


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


# Theorem 1.


@pytest.mark.parametrize("num_outcomes", [2, 5, 21])
def test_theorem_1_optimal_discriminator_is_reached(num_outcomes):
    """D is a free table of logits over 4 points; eq. 3 with exact expectations is minimised.

    p_data and p_g are counts out of 10, so batches of 10 rows hold them exactly.
    """
    p_data, p_g = torch.tensor([1, 2, 3, 4]), torch.tensor([6, 1, 3, 0])
    points = torch.arange(4)
    real_rows, fake_rows = points.repeat_interleave(p_data), points.repeat_interleave(p_g)
    a1, a0 = anchors64(num_outcomes)
    table = logits64(4, num_outcomes)
    optimizer = torch.optim.LBFGS(
        [table],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = realness_d_loss(table[real_rows], table[fake_rows], a1, a0)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    expected = (torch.outer(p_data, a1) + torch.outer(p_g, a0)) / (p_data + p_g)[:, None]  # eq. 4
    torch.testing.assert_close(table.detach().softmax(1), expected, atol=1e-6, rtol=0)


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


# Resampling.


def gaussian_formula(logits: Tensor, noise: Tensor) -> Tensor:
    mean = logits.sum(0) / len(logits)
    deviation = (((logits - mean) ** 2).sum(0) / len(logits)) ** 0.5
    return mean + deviation * noise


def test_gaussian_resampling_gradients_flow_through_mean_and_deviation():
    logits, noise = logits64(9), logits64(9, seed=5).detach()
    ours, expected = resample_gaussian(logits, noise), gaussian_formula(logits, noise)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn_like(ours)
    (grad,) = torch.autograd.grad(ours, logits, upstream)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits, upstream)[0])
    # Not the gradient of the mean alone: the deviation carries some of it.
    (mean_only,) = torch.autograd.grad(logits.mean(0).expand_as(ours), logits, upstream)
    assert (grad - mean_only).abs().max() > 0.01


def test_gaussian_resampling_draws_from_the_batchs_gaussian():
    """Over 20,000 rows the new logits keep mean and variance, and forget which row they were."""
    torch.manual_seed(0)
    output = (torch.rand(20_000, 3) ** 2) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor(
        [0.0, -7.0, 3.0]
    )
    sample = GaussianResampling(3).sample(output, draws(20_000))
    torch.testing.assert_close(sample.mean(0), output.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(sample.std(0), output.std(0), atol=0, rtol=0.02)
    standard = (sample - sample.mean(0)) / sample.std(0)
    assert (standard**3).mean(0).abs().max() < 0.1  # the uniform's square is skewed by 0.64
    for i in range(3):
        assert torch.corrcoef(torch.stack([sample[:, i], output[:, i]]))[0, 1].abs() < 0.03
    across = torch.corrcoef(sample.T) - torch.eye(3)
    assert across.abs().max() < 0.03


def test_gaussian_resampling_is_stateless():
    """Noise depends on the sample's index alone: half a batch gets its rows of the whole one's."""
    output = torch.randn(6, N)
    whole = GaussianResampling(N, "local")
    noise = draws(6).normal(Purpose.RESAMPLE, N)
    torch.testing.assert_close(whole.sample(output, draws(6)), gaussian_formula(output, noise))
    assert torch.equal(draws(3, first=3).normal(Purpose.RESAMPLE, N), noise[3:])


def test_gaussian_resampling_merges_the_moments_of_all_ranks(monkeypatch):
    """With a peer that holds the other half, a rank gets its rows of the global resampling."""
    output, noise = logits64(8).detach(), logits64(8, seed=5).detach()
    share, rest = output.chunk(2)

    def merge(mean, variance):
        merged = (mean + rest.mean(0)) / 2
        spread = ((mean - merged) ** 2 + (rest.mean(0) - merged) ** 2) / 2
        return merged, (variance + rest.var(0, correction=0)) / 2 + spread

    monkeypatch.setattr(distributed, "global_moments", merge)
    torch.testing.assert_close(
        resample_gaussian(share, noise[:4], "global"), gaussian_formula(output, noise)[:4]
    )
    torch.testing.assert_close(
        resample_gaussian(share, noise[:4], "local"), gaussian_formula(share, noise[:4])
    )


def test_head_resampling_is_the_formula_with_its_gradients():
    output, noise = logits64(5, 2 * N), draws(5).normal(Purpose.RESAMPLE, N).double()
    ours = HeadResampling(N).sample(output, draws(5))
    mean, log_variance = output[:, :N], output[:, N:]
    expected = mean + noise * (log_variance.exp() ** 0.5)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), output)[0],
        torch.autograd.grad(expected.square().sum(), output)[0],
    )
    zero = torch.zeros(5, N, dtype=torch.float64)
    assert torch.equal(resample_head(mean, log_variance, zero), mean)


@pytest.mark.parametrize("resample", ["gaussian", "head"])
def test_each_batch_of_a_loss_has_its_own_noise(resample):
    """D's loss is that of logits resampled apart for the real and the fake batch."""
    objective = build_objective(ObjectiveConfig(num_outcomes=N, resample=resample))
    real, fake = torch.randn(2, 6, objective.num_outputs).unbind()
    real_draws, fake_draws = both_draws(6)
    method = GaussianResampling(N) if resample == "gaussian" else HeadResampling(N)
    expected = realness_d_loss(
        method.sample(real, real_draws), method.sample(fake, fake_draws), A1.float(), A0.float()
    )
    torch.testing.assert_close(objective.d_loss(real, fake, real_draws, fake_draws), expected)
    swapped = objective.d_loss(real, fake, fake_draws, real_draws)
    assert abs(swapped.item() - expected.item()) > 1e-4


# The standard GAN.


def test_standard_losses_follow_equation_1():
    s_real, s_fake = logits64(5, 1, 1), logits64(5, 1, 2)
    p_real, p_fake = torch.sigmoid(s_real), torch.sigmoid(s_fake)
    formulas = {
        "d": -(p_real.log().mean() + (1 - p_fake).log().mean()),
        True: (1 - p_fake).log().mean(),
        False: -p_fake.log().mean(),
    }
    d_loss = StandardObjective().d_loss(s_real, s_fake, *both_draws(5))
    torch.testing.assert_close(d_loss, formulas["d"])
    torch.testing.assert_close(
        torch.autograd.grad(d_loss, [s_real, s_fake]),
        torch.autograd.grad(formulas["d"], [s_real, s_fake], retain_graph=True),
    )
    for saturating in (True, False):
        objective = build_objective(ObjectiveConfig(objective="standard", saturating=saturating))
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


# What the training step relies on.

CONFIGS = [
    ObjectiveConfig(objective="standard"),
    ObjectiveConfig(objective="standard", saturating=True),
    *(
        ObjectiveConfig(num_outcomes=N, g_objective=g, resample=r, anchor=AnchorConfig(anchors=a))
        for g in (1, 2, 3)
        for r in ("gaussian", "head", "none")
        for a in ("skewnorm", "histogram")
    ),
]


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda c: f"{c.objective}-{c.g_objective}-{c.resample}-{c.anchor.anchors}",
)
def test_every_objective_has_fp32_losses_with_gradients(config):
    """bf16 outputs, inside autocast: losses and scores are fp32 scalars with finite gradients."""
    torch.manual_seed(0)
    objective = build_objective(config)
    shape = (6, objective.num_outputs)
    real, fake = (torch.randn(shape).bfloat16().requires_grad_() for _ in range(2))
    real_draws, fake_draws = both_draws(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d_loss = objective.d_loss(real, fake, real_draws, fake_draws)
        needs_real = objective.needs_real_in_g_step
        g_loss = objective.g_loss(fake, real if needs_real else None, fake_draws, real_draws)
        score = objective.score(real)
    exact = objective.d_loss(real.double(), fake.double(), real_draws, fake_draws)
    assert d_loss.dtype == g_loss.dtype == score.dtype == torch.float32
    assert d_loss.shape == g_loss.shape == ()
    torch.testing.assert_close(d_loss.double(), exact, atol=1e-5, rtol=1e-5)
    for grad in (*torch.autograd.grad(d_loss, [real, fake]), *torch.autograd.grad(g_loss, [fake])):
        assert grad.isfinite().all()
        assert grad.abs().max() > 0


def test_number_of_outputs():
    outputs = {
        resample: build_objective(ObjectiveConfig(resample=resample)).num_outputs
        for resample in ("gaussian", "head", "none")
    }
    assert outputs == {"gaussian": 51, "head": 102, "none": 51}
    assert build_objective(ObjectiveConfig(objective="standard")).num_outputs == 1


def test_unreachable_anchor_divergence_is_refused_when_built():
    with pytest.raises(ValueError, match="out of reach with 3 outcomes"):
        build_objective(ObjectiveConfig(num_outcomes=3, anchor=AnchorConfig(anchor_kl=80.0)))


def test_one_fixed_batch_is_told_apart_by_gradient_descent():
    """D's loss falls to its optimum KL(A1 || A1) + KL(A0 || A0) = 0 on separable logits."""
    real, fake = (torch.zeros(4, N, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([real, fake], 0.1)
    objective = build_objective(ObjectiveConfig(num_outcomes=N, resample="none"))
    for _ in range(400):
        optimizer.zero_grad()
        loss = objective.d_loss(real, fake, *both_draws())
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
    assert objective.score(real).min() > objective.score(fake).max()
    torch.testing.assert_close(F.softmax(real, 1)[0].double(), A1, atol=5e-3, rtol=0)
