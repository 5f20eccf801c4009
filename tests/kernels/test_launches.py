"""The number of kernels that a call launches, counted in the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realness import kernels
from realness.trainer.objectives.anchor_source import FixedAnchors
from realness.trainer.objectives.anchors import skewnorm_pair
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.objectives.resampling import GaussianResampling, NoResampling
from realness.trainer.randomness import Stream, batch_draws
from tests.helpers.kernel_cases import BY_NAME
from tests.helpers.kernel_launches import LAUNCHES, emulated, forward_backward

BATCH, OUTCOMES = 4, 51


@pytest.mark.parametrize(("name", "expected"), LAUNCHES.items())
def test_launches_are_as_documented(name: str, expected: int, emulator: Path) -> None:
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, torch.device("cpu"), "contiguous")
    assert emulated(emulator, lambda: forward_backward(case, inputs, "emu")) == expected


@pytest.mark.parametrize(("resampled", "d_expected", "g_expected"), [(False, 2, 2), (True, 2, 2)])
def test_launches_of_the_trainers_losses(
    resampled: bool, d_expected: int, g_expected: int, emulator: Path
) -> None:
    """Forward and backward of D's loss and G's objective 2, which draw their noise themselves."""
    resampling = GaussianResampling(OUTCOMES) if resampled else NoResampling(OUTCOMES)
    anchors = FixedAnchors(skewnorm_pair(OUTCOMES, 5, -5))
    objective = RealnessObjective(anchors, resampling, g_objective=2)
    on_real = batch_draws(1, Stream.D_REAL, 0, BATCH)
    on_fake = batch_draws(1, Stream.D_FAKE, 0, BATCH)
    real, fake = torch.randn(2, BATCH, OUTCOMES, requires_grad=True).unbind()
    d_step = lambda: objective.d_loss(real, fake, on_real, on_fake).backward(retain_graph=True)  # noqa: E731
    g_step = lambda: objective.g_loss(fake, real, on_fake, on_real).backward(retain_graph=True)  # noqa: E731
    with kernels.implementation("emu"):
        assert emulated(emulator, d_step) == d_expected
        assert emulated(emulator, g_step) == g_expected


def test_losses_that_draw_their_noise(emulator: Path) -> None:
    """Still one launch each way."""
    draws = kernels.NormalDraws(1, 2, torch.arange(BATCH))
    real, fake = torch.randn(2, BATCH, OUTCOMES, requires_grad=True).unbind()
    anchor = torch.randn(OUTCOMES).softmax(0)

    def step() -> None:
        loss = kernels.realness_d_loss(real, fake, anchor, anchor, draws, draws)
        loss.backward(retain_graph=True)

    with kernels.implementation("emu"):
        assert emulated(emulator, step) == 2
