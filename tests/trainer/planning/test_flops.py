"""Counted operations against ones derived by hand and against published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from realness.launch.presets import preset
from realness.trainer.config import TrainConfig, flatten
from realness.trainer.planning.flops import count_flops, without_penalties
from tests.helpers.systems import systems


def dcgan_layers(width: int, resolution: int, z_dim: int) -> list[float]:
    """Operations per image of G's layers, from the input on: all kernels 4 x 4, stride 2."""
    channels, side = width * resolution // 8, 4
    layers = [2.0 * z_dim * channels * 16]
    while side < resolution:
        following = channels // 2 if 2 * side < resolution else 3
        # A transposed convolution does its work at every input pixel.
        layers.append(2.0 * channels * following * 16 * side**2)
        channels, side = following, 2 * side
    return layers


@pytest.mark.parametrize("name", ["cifar10-realness-dcgan", "ffhq1024-realness-dcgan"])
def test_dcgan_by_hand(name: str) -> None:
    config = preset(name)
    settings = flatten(config)
    resolution, outcomes = settings["resolution"], settings["num_outcomes"]
    g = dcgan_layers(settings["g_width"], resolution, settings["z_dim"])
    # D mirrors G, except for its head: 4 x 4 features to the outcomes.
    d = [2.0 * settings["d_width"] * resolution // 8 * 16 * outcomes, *g[1:]]
    flops = count_flops(config)
    # D's update: fakes; D on both batches, weights' gradients, inputs' but for the image itself.
    assert flops.d == pytest.approx(sum(g) + 6 * sum(d) - 2 * d[-1], rel=0.01)
    # G's: reals through D; fakes through G and D and back, without D's weights and without z.
    assert flops.g == pytest.approx(3 * sum(g) - g[0] + 3 * sum(d), rel=0.01)
    assert flops.iteration == pytest.approx(flops.d + flops.g)
    assert flops.d_penalised == flops.d


def test_grouped_convolutions_by_hand() -> None:
    """R3GAN at one width C from 4 to 32 pixels: torch counts their weights' gradients too high."""
    config, width, in_group = systems()["r3gan"], 16, 16
    pixels = sum(side**2 for side in (4, 8, 16, 32))
    per_pixel = 2 * (2 * width * width + 2 * width * in_group * 9 + 2 * width * width)
    image = 2.0 * 3 * width * 32**2
    trunk = 2.0 * per_pixel * pixels + image
    flops = count_flops(without_penalties(config))
    # As for DCGAN; the resampling filters, which are not convolutions of the network, count too.
    assert flops.d == pytest.approx(7 * trunk - 2 * image, rel=0.03)
    assert flops.g == pytest.approx(6 * trunk, rel=0.03)


@pytest.mark.parametrize(
    ("name", "expected"), [("ffhq1024-realness-dcgan", 402e9), ("ffhq1024-stylegan2", 1.97e12)]
)
def test_the_derived_figures(name: str, expected: float) -> None:
    assert count_flops(preset(name)).iteration == pytest.approx(expected, rel=0.03)


def lazy(config: TrainConfig, images: int) -> TrainConfig:
    return replace(config, penalty=replace(config.penalty, r1_gamma=10.0, penalty_images=images))


def test_lazy_penalties_count_by_their_share_of_the_updates() -> None:
    config = preset("cifar10-standard-dcgan")
    always = count_flops(lazy(config, 0))
    seldom = count_flops(lazy(config, 4 * config.batch_size))
    assert always.d_penalised > always.d
    assert always.iteration - always.d_penalised == pytest.approx(always.g * config.optimizer.k_g)
    extra = always.d_penalised - always.d
    assert seldom.iteration == pytest.approx(always.iteration - 0.75 * extra)
