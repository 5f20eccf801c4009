"""Properties that the training step relies on, for every objective."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from realness.trainer.config import flatten
from realness.trainer.config.components import component
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import (
    AnchorConfig,
    HingeConfig,
    LSGANConfig,
    P2GANConfig,
    PosteriorConfig,
    RealnessConfig,
    RelativisticConfig,
    StandardConfig,
    WassersteinConfig,
)
from tests.helpers.objective_tools import N, anchors64, both_draws

A1, A0 = anchors64()

CONFIGS = [
    StandardConfig(),
    StandardConfig(saturating=True),
    LSGANConfig(),
    HingeConfig(),
    WassersteinConfig(),
    RelativisticConfig(),
    P2GANConfig(),
    *(
        RealnessConfig(num_outcomes=N, g_objective=g, resample=r, anchor=AnchorConfig(anchors=a))
        for g in (1, 2, 3)
        for r in ("gaussian", "head", "none")
        for a in ("skewnorm", "histogram")
    ),
    *(RealnessConfig(num_outcomes=N, g_objective=g, divergence="emd") for g in (1, 2, 3)),
]


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda c: "-".join(map(str, flatten(c).values())),
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
        resample: build_objective(RealnessConfig(resample=resample)).num_outputs
        for resample in ("gaussian", "head", "none")
    }
    assert outputs == {"gaussian": 51, "head": 102, "none": 51}
    scalar = ("standard", "lsgan", "hinge", "wgan", "relativistic")
    assert {build_objective(component("objective", o)()).num_outputs for o in scalar} == {1}
    posterior = PosteriorConfig(posterior_dim=20)
    p2gan = build_objective(P2GANConfig(posterior=posterior))
    assert (p2gan.num_outputs, p2gan.code_dim) == (40, 20)


@pytest.mark.parametrize("name", ["realness", "standard", "relativistic"])
def test_only_p2gan_gives_codes_to_g_and_measures_its_convergence(name):
    objective = build_objective(component("objective", name)())
    output = torch.randn(4, objective.num_outputs)
    assert objective.code_dim == 0
    assert objective.measures(output, output, *both_draws()) == {}


def test_unreachable_anchor_divergence_is_refused_when_built():
    with pytest.raises(ValueError, match="out of reach with 3 outcomes"):
        build_objective(RealnessConfig(num_outcomes=3, anchor=AnchorConfig(anchor_kl=80.0)))


def test_one_fixed_batch_is_told_apart_by_gradient_descent():
    """D's loss falls to its optimum KL(A1 || A1) + KL(A0 || A0) = 0 on separable logits."""
    real, fake = (torch.zeros(4, N, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([real, fake], 0.1)
    objective = build_objective(RealnessConfig(num_outcomes=N, resample="none"))
    for _ in range(400):
        optimizer.zero_grad()
        loss = objective.d_loss(real, fake, *both_draws())
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
    assert objective.score(real).min() > objective.score(fake).max()
    torch.testing.assert_close(F.softmax(real, 1)[0].double(), A1, atol=5e-3, rtol=0)
