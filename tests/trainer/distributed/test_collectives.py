"""Collectives and statistics of the global batch, on real gloo ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realness.trainer.config import ConfigError
from realness.trainer.distributed import collectives, ranks
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from tests.helpers.ranks import run_on_ranks

CHANNELS = 5


def batch(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, CHANNELS, 3, 3, generator=generator, dtype=dtype) * 2 + 5


def loss_of(y: torch.Tensor) -> torch.Tensor:
    """A per-sample loss that mixes channels, so that no gradient is trivially zero."""
    weights = torch.arange(1, y[0].numel() + 1, dtype=y.dtype).view_as(y[0])
    return (torch.sin(y) * weights).flatten(1).sum(1).mean()


def mine(x: torch.Tensor) -> torch.Tensor:
    return x.chunk(ranks.world_size())[ranks.rank()].clone().requires_grad_()


def normalised_share() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    norm = GlobalBatchNorm(CHANNELS).double()
    x = mine(batch())
    y = norm(x)
    loss_of(y).backward()
    assert x.grad is not None
    return {
        "y": y.detach().numpy(),
        "grad": x.grad.numpy() / ranks.world_size(),
        "mean": norm.running_mean.numpy(),
        "variance": norm.running_var.numpy(),
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_batch_norm_over_ranks_equals_one_process(world_size: int) -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(CHANNELS).double()
    ours = GlobalBatchNorm(CHANNELS)
    norm.load_state_dict(ours.state_dict(), strict=False)
    torch.manual_seed(0)
    norm.weight.data.copy_(GlobalBatchNorm(CHANNELS).weight)
    x = batch().requires_grad_()
    y = norm(x)
    loss_of(y).backward()
    assert x.grad is not None

    shares = run_on_ranks(world_size, normalised_share)
    for key, expected in (("y", y.detach()), ("grad", x.grad)):
        got = np.concatenate([share[key] for share in shares])
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-9, atol=1e-12)
    for share in shares:
        np.testing.assert_allclose(share["mean"], norm.running_mean, rtol=1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose(share["variance"], norm.running_var, rtol=1e-6)  # type: ignore[arg-type]


def moments_share() -> tuple[np.ndarray, np.ndarray]:
    x = mine(1000 + 1e-3 * batch(torch.float32)).flatten(2).transpose(1, 2).reshape(-1, CHANNELS)
    mean, variance = collectives.global_moments(x.mean(0), x.var(0, correction=0))
    return mean.detach().numpy(), variance.detach().numpy()


def test_merging_moments_does_not_cancel() -> None:
    """A deviation of 2e-3 around 1,000: the textbook E[x^2] - E[x]^2 has no correct digit left."""
    x = (1000 + 1e-3 * batch(torch.float32)).numpy().astype(np.float64)
    for mean, variance in run_on_ranks(2, moments_share):
        np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(variance, x.var((0, 2, 3)), rtol=1e-2)


def second_derivative() -> float:
    x = torch.tensor(1.0 + ranks.rank(), dtype=torch.float64, requires_grad=True)
    total = collectives.sum_over_ranks(x)
    (slope,) = torch.autograd.grad(total**3, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    return curvature.item()


def test_sum_over_ranks_is_twice_differentiable() -> None:
    """L = sum over 2 ranks of s^3 with s = x_0 + x_1 = 3, so d2L/dx2 = 2 * 6 s, summed twice."""
    assert run_on_ranks(2, second_derivative) == [72.0, 72.0]


def fail_on_rank_one() -> str:
    def action() -> int:
        if ranks.rank() == 1:
            raise OSError("disk of rank 1 is full")
        return 7

    try:
        collectives.on_all_ranks(action, failure=ConfigError, what="could not write: ")
    except ConfigError as error:
        return str(error)
    return "no error"


def test_a_failure_on_one_rank_is_raised_on_all() -> None:
    expected = "could not write: rank 1: disk of rank 1 is full"
    assert run_on_ranks(2, fail_on_rank_one) == [expected, expected]
