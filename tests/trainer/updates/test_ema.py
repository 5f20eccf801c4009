"""The moving average of G against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from realness.trainer.networks.dcgan import DCGANGenerator
from realness.trainer.updates.ema import Ema


def constant(value: float) -> nn.Module:
    module = nn.BatchNorm1d(2)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    return module


@pytest.mark.parametrize("batch", [10, 25])
def test_half_of_the_distance_is_left_after_a_half_life(batch: int) -> None:
    """Independent of the batch size: durations are counted in images."""
    ema, target = Ema(constant(0), halflife_images=100), constant(8)
    for images in range(batch, 101, batch):
        ema.update(target, batch, images)
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(ema.module.state_dict()[name], torch.full((2,), 4.0))
    assert ema.module.state_dict()["num_batches_tracked"] == 8


def test_ramp_up_shows_the_network_from_the_start() -> None:
    """At 100 images and a ramp of 0.05 the half-life is 5: a batch of 10 leaves a quarter."""
    ema = Ema(constant(0), halflife_images=10_000, rampup=0.05)
    ema.update(constant(8), 10, 100)
    torch.testing.assert_close(ema.module.state_dict()["weight"], torch.full((2,), 6.0))


def test_the_average_is_wide_and_frozen() -> None:
    ema = Ema(constant(0).bfloat16(), 10)
    assert ema.module.state_dict()["weight"].dtype == torch.float32
    assert not ema.module.training
    assert not any(weight.requires_grad for weight in ema.module.parameters())


def test_moving_averages_are_copied() -> None:
    source = DCGANGenerator(z_dim=4, width=2, resolution=32, code_dim=3)
    ema = Ema(source, 1000)
    source.track_codes(torch.ones(3), torch.zeros(3))
    ema.update(source, 10, 10)
    assert torch.equal(ema.module.state_dict()["code_mean"], source.code_mean)
    assert source.code_mean.tolist() == pytest.approx([0.1] * 3)
