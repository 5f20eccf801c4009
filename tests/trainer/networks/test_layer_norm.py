"""Layer normalisation in discriminators: against its definition, and under gradient penalties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from realness import kernels
from realness.trainer.networks.build import build_discriminator
from realness.trainer.networks.configs import DCGANDiscriminatorConfig
from realness.trainer.networks.layer_norm import LayerNorm
from realness.trainer.networks.spectral_norm import SpectralConv2d
from realness.trainer.objectives.penalties import gradient_squared_norm


def small_discriminator(norm: str = "layer") -> nn.Module:
    torch.manual_seed(0)
    return build_discriminator(DCGANDiscriminatorConfig(d_width=2, d_norm=norm), 32, 1)  # type: ignore[arg-type]


def test_definition():
    """Each sample has mean 0 and variance 1 over channels and pixels; then scale and shift."""
    torch.manual_seed(0)
    norm = LayerNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 4 * torch.randn(2, 3, 5, 4, dtype=torch.float64) - 7
    y = norm(x)
    for b in range(2):
        plain = (x[b] - x[b].mean()) / (x[b].var(correction=0) + 1e-5).sqrt()
        for c in range(3):
            torch.testing.assert_close(y[b, c], norm.weight[c] * plain[c] + norm.bias[c])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_is_kept(layout):
    x = torch.randn(2, 4, 6, 5).contiguous(memory_format=layout)
    assert LayerNorm(4)(x).is_contiguous(memory_format=layout)


def test_differentiable_twice():
    norm = LayerNorm(2).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: norm(x).square(), (x,))


def test_where_the_discriminator_has_it():
    """After every convolution but the first; convolutions and head are not spectral. By hand at
    width 2: 2, 4 and 8 channels, so 2 * (4 + 8) parameters more than without."""
    layered, plain = small_discriminator(), small_discriminator("none")
    norms = [m for m in layered.modules() if isinstance(m, LayerNorm)]
    assert [m.num_channels for m in norms] == [4, 8]
    assert not any(isinstance(m, SpectralConv2d) for m in layered.modules())
    extra = sum(p.numel() for p in layered.parameters()) - sum(
        p.numel() for p in plain.parameters()
    )
    assert extra == 2 * (4 + 8)


def test_discriminator_is_the_torch_sequential():
    torch.manual_seed(0)
    network = small_discriminator().double()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, LayerNorm)]
    x = images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    for i, conv in enumerate(convs):
        x = nn.functional.conv2d(x, conv.weight, None, 2, 1)
        if i:
            norm = norms[i - 1]
            x = nn.functional.layer_norm(x, x.shape[1:])
            x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
        x = nn.functional.leaky_relu(x, 0.2)
    head = network.get_submodule("head")
    torch.testing.assert_close(network(images), head(x.flatten(1)))


@kernels.implementation("reference")
def test_gradient_of_the_penalty_against_a_finite_difference_along_it():
    """R1 is a first derivative of the network, and its gradient a second one."""
    network = small_discriminator().double()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)

    def penalty() -> torch.Tensor:
        score = network(images).squeeze(1)
        return gradient_squared_norm(score, images).mean()

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(penalty(), parameters)
    norm = sum(g.square().sum().item() for g in gradients)
    assert norm > 0
    values = []
    step = 1e-6 / norm**0.5
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(sign * step * gradient)
            with torch.enable_grad():
                values.append(penalty().item())
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(norm, rel=1e-4)


def test_meta_device_and_bf16():
    with torch.device("meta"):
        assert small_discriminator()(torch.empty(2, 3, 32, 32)).shape == (2, 1)
    network, images = small_discriminator(), torch.randn(4, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score = network(images).squeeze(1)
        penalty = gradient_squared_norm(score.float(), images).mean()
    (score.float().sum() + penalty).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
