"""Feature resampling: its formulas, its distribution and its independence of the ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from realness.trainer.distributed import collectives, ranks
from realness.trainer.objectives.base import build_objective
from realness.trainer.objectives.configs import RealnessConfig
from realness.trainer.objectives.realness import realness_d_loss
from realness.trainer.objectives.resampling import (
    GaussianResampling,
    HeadResampling,
    Resampling,
    resample_gaussian,
    resample_head,
)
from realness.trainer.randomness import Draws, Purpose, Stream
from tests.helpers.objective_tools import N, anchors64, both_draws, draws, logits64

A1, A0 = anchors64()


def resampled(method: Resampling, output: Tensor, draws: Draws) -> Tensor:
    (logits,) = method.samples((output, draws))
    return logits


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
    """Over 20,000 rows the new logits keep mean and variance, but are independent of their rows."""
    torch.manual_seed(0)
    output = (torch.rand(20_000, 3) ** 2) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor(
        [0.0, -7.0, 3.0]
    )
    sample = resampled(GaussianResampling(3), output, draws(20_000))
    torch.testing.assert_close(sample.mean(0), output.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(sample.std(0), output.std(0), atol=0, rtol=0.02)
    standard = (sample - sample.mean(0)) / sample.std(0)
    assert (standard**3).mean(0).abs().max() < 0.1  # the uniform's square is skewed by 0.64
    for i in range(3):
        assert torch.corrcoef(torch.stack([sample[:, i], output[:, i]]))[0, 1].abs() < 0.03
    across = torch.corrcoef(sample.T) - torch.eye(3)
    assert across.abs().max() < 0.03


def test_gaussian_resampling_is_stateless():
    """Noise depends only on the sample's index: half a batch gets its rows of the whole batch."""
    output = torch.randn(6, N)
    whole = GaussianResampling(N, "local")
    noise = draws(6).normal(Purpose.RESAMPLE, N)
    torch.testing.assert_close(resampled(whole, output, draws(6)), gaussian_formula(output, noise))
    assert torch.equal(draws(3, first_sample=3).normal(Purpose.RESAMPLE, N), noise[3:])


def test_gaussian_resampling_merges_the_moments_of_all_ranks(monkeypatch):
    """With a peer that holds the other half, a rank gets its rows of the global resampling."""
    output, noise = logits64(8).detach(), logits64(8, seed=5).detach()
    share, rest = output.chunk(2)

    def merge(mean, variance):
        merged = (mean + rest.mean(0)) / 2
        spread = ((mean - merged) ** 2 + (rest.mean(0) - merged) ** 2) / 2
        return merged, (variance + rest.var(0, correction=0)) / 2 + spread

    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "global_moments", merge)
    torch.testing.assert_close(
        resample_gaussian(share, noise[:4], "global"), gaussian_formula(output, noise)[:4]
    )
    torch.testing.assert_close(
        resample_gaussian(share, noise[:4], "local"), gaussian_formula(share, noise[:4])
    )


def members_draws(batch: int, members: int) -> tuple[Draws, list[Draws]]:
    """The draws of an ensemble, rows in turn, and those of its members by themselves."""
    alone = [draws(batch, first_sample=1000 * member) for member in range(members)]
    in_turn = torch.stack([d.index for d in alone], dim=1).flatten()
    return replace(alone[0], index=in_turn), alone


@pytest.mark.parametrize("statistics", ["global", "local"])
@pytest.mark.parametrize(("num_outcomes", "members"), [(5, 3), (N, 1), (1024, 2), (51, 50)])
def test_members_of_an_ensemble_are_resampled_apart(num_outcomes, members, statistics):
    """As if each were alone; also with more columns than one kernel call takes."""
    output = logits64(6 * members, num_outcomes).detach()
    together, alone = members_draws(6, members)
    ensemble = GaussianResampling(num_outcomes, statistics, members=members)
    single = GaussianResampling(num_outcomes, statistics)
    sample = resampled(ensemble, output, together)
    for member, own_draws in enumerate(alone):
        expected = resampled(single, output[member::members], own_draws)
        torch.testing.assert_close(sample[member::members], expected)


@pytest.mark.parametrize("divergence", ["kl", "emd"])
@pytest.mark.parametrize("g_objective", [1, 2, 3])
def test_the_loss_of_an_ensemble_is_the_mean_of_its_members_losses(g_objective, divergence):
    """Gradients are a share of each member's own: nothing passes between members."""
    members = 3
    config = RealnessConfig(num_outcomes=N, g_objective=g_objective, divergence=divergence)
    ensemble, single = build_objective(config, members=members), build_objective(config)
    together, alone = members_draws(4, members)
    real, fake = logits64(4 * members, seed=1), logits64(4 * members, seed=2)
    on_real = [replace(d, stream=Stream.D_REAL) for d in (together, *alone)]

    loss = torch.stack(
        [
            ensemble.d_loss(real, fake, on_real[0], together),
            ensemble.g_loss(fake, real, together, on_real[0]),
        ]
    )
    own = [(real[m::members], fake[m::members], on_real[m + 1], alone[m]) for m in range(members)]
    expected = torch.stack(
        [
            torch.stack([single.d_loss(r, f, dr, df) for r, f, dr, df in own]).mean(),
            torch.stack([single.g_loss(f, r, df, dr) for r, f, dr, df in own]).mean(),
        ]
    )
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(loss, expected, strict=True):
        torch.testing.assert_close(
            torch.autograd.grad(ours, fake, retain_graph=True),
            torch.autograd.grad(theirs, fake, retain_graph=True),
        )


def test_an_ensemble_needs_whole_batches():
    with pytest.raises(ValueError, match="7 rows are not a multiple of 3 members"):
        resampled(GaussianResampling(N, members=3), torch.zeros(7, N), draws(7))


def test_head_resampling_is_the_formula_with_its_gradients():
    output, noise = logits64(5, 2 * N), draws(5).normal(Purpose.RESAMPLE, N).double()
    ours = resampled(HeadResampling(N), output, draws(5))
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
    objective = build_objective(RealnessConfig(num_outcomes=N, resample=resample))
    real, fake = torch.randn(2, 6, objective.num_outputs).unbind()
    real_draws, fake_draws = both_draws(6)
    method = GaussianResampling(N) if resample == "gaussian" else HeadResampling(N)
    expected = realness_d_loss(
        resampled(method, real, real_draws),
        resampled(method, fake, fake_draws),
        A1.float(),
        A0.float(),
    )
    torch.testing.assert_close(objective.d_loss(real, fake, real_draws, fake_draws), expected)
    swapped = objective.d_loss(real, fake, fake_draws, real_draws)
    assert abs(swapped.item() - expected.item()) > 1e-4
