"""RMSProp equals PyTorch's, and skips the updates that it is told to skip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.config import OptimizerConfig
from realness.trainer.config.components import component
from realness.trainer.engines.optimizers import RMSPropConfig, build_optimizer

CONFIG = OptimizerConfig(RMSPropConfig(rmsprop_alpha=0.9))


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in (3, 50)]


def take(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_rmsprop_is_pytorchs(as_tensor: bool) -> None:
    ours, theirs = weights(), weights()
    rate: float | Tensor = torch.tensor(0.01) if as_tensor else 0.01
    optimizer = build_optimizer(CONFIG, ours, rate)
    expected = torch.optim.RMSprop(theirs, lr=0.01, alpha=0.9, eps=1e-8)
    for step in range(5):
        take(optimizer, ours, step)
        take(expected, theirs, step)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_bad_update_leaves_no_trace(name: str) -> None:
    """Five updates with a bad one in between give the same result as the five."""
    ours, expected = weights(), weights()
    config = OptimizerConfig(component("optimizer", name)())
    skipping, plain = build_optimizer(config, ours, 0.01), build_optimizer(config, expected, 0.01)
    for step in range(5):
        skipping.found_inf = torch.zeros(())  # type: ignore[attr-defined]
        take(skipping, ours, step)
        take(plain, expected, step)
        skipping.found_inf = torch.ones(())  # type: ignore[attr-defined]
        for param in ours:
            param.grad = torch.full_like(param, math.nan)
        skipping.step()
    for mine, other in zip(ours, expected, strict=True):
        assert torch.equal(mine, other)
    assert [state["step"].item() for state in skipping.state.values()] == [5, 5]
