"""The plain StyleGAN2 that ours is compared with computes the same, and trains."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch

from realness.trainer.networks.stylegan2_discriminator import StyleGAN2Discriminator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator, side_channels
from tests.helpers import ROOT

SIDE, BASE, WIDEST = 32, 128, 8


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("plain_stylegan2")


@pytest.fixture
def updates(plain: ModuleType) -> ModuleType:
    return importlib.import_module("plain_updates")


def test_networks_compute_the_same(plain: ModuleType) -> None:
    torch.manual_seed(0)
    channels = side_channels(BASE, WIDEST, SIDE)
    sizes: dict[str, Any] = {"channel_base": BASE, "max_channels": WIDEST, "resolution": SIDE}
    g = StyleGAN2Generator(z_dim=16, w_dim=16, mapping_layers=2, style_mixing=0.9, **sizes)
    d = StyleGAN2Discriminator(num_outputs=1, group=2, **sizes)
    for parameter in (*g.parameters(), *d.parameters()):  # biases and noise strengths are 0
        torch.nn.init.normal_(parameter)
    other_g, other_d = plain.Generator(channels, 16, 16, 2), plain.Discriminator(channels, 2)
    other_g.load_state_dict({k: v for k, v in g.state_dict().items() if k != "path_length_mean"})
    other_d.load_state_dict(d.state_dict())
    z, mixed = torch.randn(2, 4, 16)
    crossover, noise = torch.tensor([1, 3, 5, g.num_styles]), torch.randn(4, g.noise_dim)
    parts = noise.split([side**2 for side in g.noise_sides], 1)
    maps = [x.unflatten(1, (1, side, side)) for x, side in zip(parts, g.noise_sides, strict=True)]
    images = g(z, noise, mixing=(mixed, crossover))
    same = other_g(other_g.styles(z, mixed, crossover), maps, torch.contiguous_format)
    # Some thousand roundings of 6e-8 on the way.
    torch.testing.assert_close(same, images, rtol=0, atol=1e-4 * images.abs().max().item())
    scores, others = d(images.detach()), other_d(images.detach())
    torch.testing.assert_close(others, scores, rtol=0, atol=1e-4 * scores.abs().max().item())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_iteration_with_all_penalties(
    plain: ModuleType, updates: ModuleType, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    channels = side_channels(BASE, WIDEST, SIDE)
    networks = plain.Generator(channels, 16, 16, 2), plain.Discriminator(channels, 2)
    training = updates.Plain(*networks, 4, SIDE, torch.channels_last, precision)
    before = [parameter.detach().clone() for x in networks for parameter in x.parameters()]
    real = torch.rand(4, 3, SIDE, SIDE)
    for _ in range(2):  # the noise strengths start at 0
        losses = training.iteration(real, r1=True, paths=True)
    assert torch.tensor(losses).isfinite().all()
    after = [parameter for x in networks for parameter in x.parameters()]
    for old, new in zip(before, after, strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)
    assert training.mean > 0
