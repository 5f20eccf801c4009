"""Progressive growing: its schedule, its networks against smaller ones, and transitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer.config import ConfigError, TrainConfig, with_fields
from realness.trainer.config.growth import GrowthConfig, GrowthStage
from realness.trainer.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from realness.trainer.networks.growing import enlarge, faded, shrink
from realness.trainer.networks.stylegan2_discriminator import StyleGAN2Discriminator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
from realness.trainer.networks.stylegan2_layers import fir_filter
from realness.trainer.updates.build import build_networks
from tests.helpers.systems import small, stylegan2

BATCH = 4


def dcgan(resolution: int, width: int, *, growing: bool) -> tuple[Any, Any]:
    size: dict[str, Any] = dict(width=width, resolution=resolution, growing=growing)
    return DCGANGenerator(z_dim=8, **size), DCGANDiscriminator(num_outputs=3, **size)


def style(resolution: int, *, growing: bool) -> tuple[Any, Any]:
    size: dict[str, Any] = dict(channel_base=64, max_channels=8, resolution=resolution)
    g = StyleGAN2Generator(z_dim=8, w_dim=8, mapping_layers=1, style_mixing=0.9, **size)
    return g, StyleGAN2Discriminator(num_outputs=3, group=1, growing=growing, **size)


def pair(family: str, resolution: int, *, growing: bool) -> tuple[Any, Any]:
    if family == "dcgan":
        return dcgan(resolution, 4, growing=growing)
    return style(resolution, growing=growing)


def images_of(g: Any, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(BATCH, g.z_dim, generator=random)
    if not isinstance(g, StyleGAN2Generator):
        return g(z)
    return g(z, torch.randn(BATCH, g.noise_dim, generator=random))


def copy_matching(source: nn.Module, target: nn.Module, renamed: dict[str, str]) -> None:
    """Fill `target` from `source`; `renamed` maps names in the target to names in the source."""
    state = source.state_dict()

    def source_name(name: str) -> str:
        for prefix, other in renamed.items():
            if name.startswith(prefix):
                return other + name.removeprefix(prefix)
        return name

    target.load_state_dict({name: state[source_name(name)] for name in target.state_dict()})


def test_the_schedule() -> None:
    """Karras et al., section 2: a period at each side, and one for each transition."""
    growth = GrowthConfig(grow_kimg=1, grow_from=8)
    stages = [
        growth.at(images, 32) for images in (0, 999, 1000, 1500, 2000, 2999, 3000, 3250, 4000)
    ]
    assert stages == [
        (8, 1.0), (8, 1.0), (16, 0.0), (16, 0.5), (16, 1.0), (16, 1.0), (32, 0.0), (32, 0.25),
        (32, 1.0),
    ]  # fmt: skip
    assert growth.at(10**9, 32) == GrowthStage(32, 1.0)
    assert GrowthConfig().at(0, 64) == GrowthStage(64, 1.0)
    assert growth.warning(32, 4000)
    assert not growth.warning(32, 4001)
    assert not GrowthConfig(grow_from=12).warning(32, 1)  # unused


def test_a_stage_is_the_smaller_network() -> None:
    """At side 32, the networks for 64 pixels are those for 32 with twice the base width."""
    for network in (0, 1):
        grown, plain = dcgan(64, 2, growing=True)[network], dcgan(32, 4, growing=False)[network]
        if network == 0:
            renamed = {"layers.3": "smaller_images.32"}
        else:
            renamed = {"layers.1": "layers.2", "layers.2": "layers.3"}
            renamed["layers.0"] = "smaller_images.32"
        copy_matching(grown.eval(), plain.eval(), renamed)
        grown.stage = GrowthStage(32, 1.0)
        if network == 0:
            small_images = images_of(plain)
            torch.testing.assert_close(images_of(grown), enlarge(small_images, 2), rtol=0, atol=0)
        else:
            images = torch.randn(BATCH, 3, 64, 64)
            torch.testing.assert_close(grown(images), plain(shrink(images, 2)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "build", [lambda g: dcgan(32, 4, growing=g), lambda g: style(32, growing=g)]
)
def test_the_last_stage_is_the_network_that_does_not_grow(build: Any) -> None:
    """And its weights have the same names, so growing only adds layers."""
    for grown, plain in zip(build(True), build(False), strict=True):
        copy_matching(grown.eval(), plain.eval(), {})
        if hasattr(plain, "z_dim"):
            assert torch.equal(images_of(grown), images_of(plain))
        else:
            images = torch.randn(BATCH, 3, 32, 32)
            assert torch.equal(grown(images), plain(images))


@pytest.mark.parametrize(
    "build", [lambda: dcgan(64, 2, growing=True), lambda: style(64, growing=True)]
)
@pytest.mark.parametrize("side", [16, 32, 64])
def test_transitions_begin_at_the_smaller_side(build: Any, side: int) -> None:
    g, d = (network.eval() for network in build())
    images = torch.randn(BATCH, 3, 64, 64)
    g.stage = d.stage = GrowthStage(side // 2, 1.0)
    small_images, outputs = images_of(g), d(images)
    g.stage = d.stage = GrowthStage(side, 0.0)
    torch.testing.assert_close(d(images), outputs)  # means of means are rounded once more
    if isinstance(g, StyleGAN2Generator):  # its images are enlarged by the filter
        below = shrink(small_images, 128 // side)
        filtered = kernels.upfirdn2d(below, fir_filter(), up=2, padding=(2, 1, 2, 1), gain=4.0)
        small_images = enlarge(filtered, 64 // side)
    torch.testing.assert_close(images_of(g), small_images)


UNREACHED = {
    "dcgan": (["layers.3.weight"], ["layers.0.weight", "smaller_images.8.weight"]),
    "stylegan2": (["blocks.3.convs.0.bias"], ["from_image.bias", "blocks.0.skip.weight"]),
}
"""Some weights of G and D that images of 16 pixels do not use."""


@pytest.mark.parametrize("family", UNREACHED)
def test_layers_that_are_not_reached_have_no_gradient(family: str) -> None:
    networks = pair(family, 32, growing=True)
    for network in networks:
        network.stage = GrowthStage(16, 1.0)
    g, d = networks
    d(images_of(g)).square().sum().backward()
    for network, unreached in zip(networks, UNREACHED[family], strict=True):
        without = {name for name, weight in network.named_parameters() if weight.grad is None}
        assert without.issuperset(unreached)
        assert len(without) <= len(list(network.parameters())) / 2


def test_real_images_lose_their_finest_details_in_a_transition() -> None:
    """Means over squares, by a loop in float64."""
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def means(size: int) -> Tensor:
        y = images.clone()
        for top in range(0, 16, size):
            for left in range(0, 16, size):
                patch = images[:, :, top : top + size, left : left + size]
                y[:, :, top : top + size, left : left + size] = patch.mean((2, 3), keepdim=True)
        return y

    found = faded(images, GrowthStage(8, 0.25))
    torch.testing.assert_close(found, 0.25 * means(2) + 0.75 * means(4))
    assert faded(images, GrowthStage(8, 1.0)) is images


@pytest.mark.parametrize(
    ("system", "changes", "message"),
    [
        ("cifar10-far-resnet", {}, "--generator dcgan or stylegan2"),
        ("cifar10-p2gan-dcgan", {}, "--objective=p2gan, whose codes"),
        ("cifar10-realness-dcgan", {"grow_from": 12}, "use 8, 16, or --grow-kimg 0"),
        ("cifar10-realness-dcgan", {"grow_from": 32}, "not a side below --resolution=32"),
        ("cifar10-realness-dcgan", {"zero_d": 3}, "--zero-d=3"),
        (
            "cifar10-realness-dcgan",
            {"cuda_graphs": True, "zero_g": 0, "zero_d": 0},
            "--cuda-graphs or --compile",
        ),
    ],
)
def test_what_cannot_grow_is_refused(system: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_fields(small(system), grow_kimg=1.0, **changes)


@pytest.mark.parametrize(
    "config", [small("cifar10-realness-dcgan"), stylegan2("ffhq256-stylegan2")]
)
def test_growing_adds_layers_to_a_run(config: TrainConfig) -> None:
    whole, growing = names(config), names(with_fields(config, grow_kimg=1.0))
    assert whole < growing
    assert all("smaller" in name for name in growing - whole)


def names(config: TrainConfig) -> set[str]:
    """The names of the weights of both networks."""
    networks = zip("gd", build_networks(config)[:2], strict=True)
    return {f"{kind}.{name}" for kind, network in networks for name in network.state_dict()}
