"""R3GAN's networks: the published sizes, and torch's functions in float64 to the second order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from realness import kernels
from realness.trainer.config import ConfigError
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.grouped_conv import grouped_conv3x3
from realness.trainer.networks.r3gan import (
    Conv1x1,
    R3GANBlock,
    R3GANDiscriminator,
    R3GANGenerator,
    Resample,
)
from realness.trainer.networks.r3gan_configs import R3GANDiscriminatorConfig, R3GANGeneratorConfig
from realness.trainer.networks.recompute import recompute_blocks
from realness.trainer.objectives.configs import RealnessConfig, RelativisticConfig
from realness.trainer.objectives.penalties import gradient_squared_norm, zero_centered
from realness.trainer.randomness import Draws, Purpose, Stream

LEAK = 0.2


def settings(width: int = 768, base: int = 24576, in_group: int = 16) -> dict[str, int]:
    return dict(
        max_channels=width, channel_base=base, blocks=2, expansion=2, group_channels=in_group
    )


def small_networks(
    resolution: int = 32, num_outputs: int = 1, num_classes: int = 0, random: bool = True
) -> tuple[R3GANGenerator, R3GANDiscriminator]:
    """8 channels at 4 and 8 pixels, 4 at 16 and 2 at 32, in groups of 4. The third convolutions
    and biases are random, too, unless the weights are to be those of the start."""
    torch.manual_seed(0)
    size = settings(8, 64, 4) | dict(resolution=resolution, num_classes=num_classes)
    g = R3GANGenerator(z_dim=6, **size)
    d = R3GANDiscriminator(num_outputs=num_outputs, **size)
    for network in (g, d):
        for parameter in network.parameters():
            if random and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return g, d


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Counted on the authors' networks. By hand for CIFAR10 (four stages of 768 channels): two blocks a
# stage of 4 * 768^2 + 36 * 768^2 / 96 + 4 * 768 = 2,583,552, so 8 * 2,583,552 = 20,668,416; G has
# 16 * 768 + 64 * 768 + 3 * 768 = 63,744 more, D 3 * 768 + 16 * 768 + 768 = 15,360.
@pytest.mark.parametrize(
    ("resolution", "size", "num_classes", "of_g", "of_d"),
    [
        (256, settings(), 0, 23_057_952, 23_009_568),
        (64, settings(), 0, 22_429_824, 22_381_440),
        (32, settings(), 0, 20_668_416 + 63_744, 20_668_416 + 15_360),
        (32, settings(), 0, 20_732_160, 20_683_776),
        (32, settings(), 10, 20_781_952, 21_280_512),
        (32, settings(1536, 98304, 32), 1000, 82_914_304, 86_548_992),
        (64, settings(1536, 98304, 32), 1000, 103_570_432, 107_205_120),
    ],
)
def test_published_sizes(resolution, size, num_classes, of_g, of_d):
    size = size | dict(resolution=resolution, num_classes=num_classes)
    with torch.device("meta"):
        assert num_parameters(R3GANGenerator(z_dim=64, **size)) == of_g
        assert num_parameters(R3GANDiscriminator(num_outputs=1, **size)) == of_d


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
def test_every_resolution(resolution):
    with torch.device("meta"):
        g = build_generator(R3GANGeneratorConfig(z_dim=64), resolution)
        d = build_discriminator(R3GANDiscriminatorConfig(), resolution, 51)
        images = g(torch.empty(2, 64))
        assert images.shape == (2, 3, resolution, resolution)
        assert d(images).shape == (2, 51)
    widths = {32: 768, 64: 384, 128: 192, 256: 96, 512: 48, 1024: 24}
    blocks = [block for block in g.modules() if isinstance(block, R3GANBlock)]
    assert len(blocks) == 2 * (int(math.log2(resolution)) - 1)
    # 16 channels per group, down to three groups.
    assert blocks[-1].grouped.shape == (2 * widths[resolution], 16, 3, 3)
    assert blocks[-1].groups == 2 * widths[resolution] // 16


# The same functions from torch's own operations.


def resampled(x: Tensor, up: bool) -> Tensor:
    """The filter [1, 3, 3, 1] of each channel; twice the size has 4 times the pixels."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    channels = x.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=1, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)


def plain_block(block: R3GANBlock, x: Tensor) -> Tensor:
    y = F.conv2d(x, block.widen.weight) + block.bias_0[:, None, None]
    y = F.conv2d(F.leaky_relu(y, LEAK), block.grouped, padding=1, groups=block.groups)
    y = F.leaky_relu(y + block.bias_1[:, None, None], LEAK)
    return x + F.conv2d(y, block.narrow.weight)


def plain_stage(stage: nn.Module, x: Tensor) -> Tensor:
    for layer in stage.children():
        if isinstance(layer, R3GANBlock):
            x = plain_block(layer, x)
            continue
        assert isinstance(layer, Resample)
        x = resampled(x, up=False) if not layer.up else x
        if isinstance(layer.conv, Conv1x1):
            x = F.conv2d(x, layer.conv.weight)
        x = resampled(x, up=True) if layer.up else x
    return x


def plain_generator(g: R3GANGenerator, z: Tensor) -> Tensor:
    x = F.linear(z, g.start)[:, :, None, None] * g.basis
    for stage in g.stages:
        x = plain_stage(stage, x)
    return F.conv2d(x, g.to_image.weight)


def plain_discriminator(d: R3GANDiscriminator, images: Tensor) -> Tensor:
    x = F.conv2d(images, d.from_image.weight)
    for stage in d.stages:
        x = plain_stage(stage, x)
    x = F.conv2d(x, d.depthwise[:, None], groups=len(d.depthwise)).flatten(1)
    return F.linear(x, d.head)


def test_networks_are_torchs_functions():
    g, d = small_networks(num_outputs=5)
    g, d = g.double(), d.double()
    z = torch.randn(3, 6, dtype=torch.float64)
    images = g(z)
    torch.testing.assert_close(images, plain_generator(g, z))
    torch.testing.assert_close(d(images), plain_discriminator(d, images))
    upstream = torch.randn(3, 5, dtype=torch.float64)
    parameters = [*g.parameters(), *d.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(d(g(z)), parameters, upstream),
        torch.autograd.grad(plain_discriminator(d, plain_generator(g, z)), parameters, upstream),
    )


def test_loss_and_penalties_are_the_papers():
    """R3GAN's loss of D with R1 and R2, from the formulas in float64, and its gradients."""
    _, d = small_networks()
    d = d.double()
    real, fake = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64).unbind()
    objective = RelativisticConfig().build(1)
    draws = Draws(0, Stream.D_FAKE, torch.arange(4))
    points = torch.cat([real, fake]).requires_grad_()
    of_real, of_fake = d(points).chunk(2)
    loss = objective.d_loss(of_real, of_fake, draws, draws)
    norms = zero_centered(gradient_squared_norm(objective.score(d(points)), points))
    ours = loss + 0.5 * 0.7 * norms[:4].mean() + 0.5 * 0.3 * norms[4:].mean()

    # With the gradients of single images: D(x_b) has none in another image.
    expected = torch.zeros((), dtype=torch.float64)
    for x, y in zip(real, fake, strict=True):
        x, y = x[None].clone().requires_grad_(), y[None].clone().requires_grad_()
        of_x, of_y = plain_discriminator(d, x), plain_discriminator(d, y)
        (slope_x,) = torch.autograd.grad(of_x, x, torch.ones_like(of_x), create_graph=True)
        (slope_y,) = torch.autograd.grad(of_y, y, torch.ones_like(of_y), create_graph=True)
        pair = torch.log1p(torch.exp(-(of_x - of_y))).squeeze()
        penalties = 0.7 / 2 * slope_x.square().sum() + 0.3 / 2 * slope_y.square().sum()
        expected = expected + (pair + penalties) / 4
    # The objective's loss is float32: 2^-24 relative to values of order 1, through a sum of 4.
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    parameters = list(d.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters),
        torch.autograd.grad(expected, parameters),
        rtol=1e-5,
        atol=1e-5,
    )


class Convolutions(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "convolution" in str(func)
        return func(*args, **(kwargs or {}))


def test_grouped_convolution_to_the_second_order():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(
        grouped_conv3x3(x, weight, 3), F.conv2d(x, weight, padding=1, groups=3)
    )
    assert torch.autograd.gradcheck(lambda x, w: grouped_conv3x3(x, w, 3), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_conv3x3(x, w, 3), (x, weight))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_penalty_of_a_grouped_convolution_is_not_split(memory_format):
    """Six convolutions for any number of groups, in the layout of x; PyTorch's own needs more."""
    counts = []
    for groups in (1, 2, 8):
        x = torch.randn(2, 16, 8, 8).contiguous(memory_format=memory_format).requires_grad_()
        weight = torch.randn(16, 16 // groups, 3, 3, requires_grad=True)
        with Convolutions() as convolutions:
            y = grouped_conv3x3(x, weight, groups)
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            slope.square().sum().backward()
        assert x.grad is not None
        assert all(t.is_contiguous(memory_format=memory_format) for t in (y, slope, x.grad))
        counts.append(convolutions.count)
    # y; its slope; then the slope's derivatives in y and in w; then y's in x and in w.
    assert counts == [6, 6, 6]


def test_initial_weights():
    """N(0, gain^2 / fan-in) with Fixup's gain in the blocks, whose branches start at 0."""
    torch.manual_seed(0)
    size = settings(256, 256 * 32) | dict(resolution=32)
    g, d = R3GANGenerator(z_dim=64, **size), R3GANDiscriminator(num_outputs=9, **size)
    gain = math.sqrt(2 / 1.04) * 8 ** (-1 / 4)
    for network in (g, d):
        for block in network.modules():
            if not isinstance(block, R3GANBlock):
                continue
            assert block.widen.weight.std().item() == pytest.approx(gain / 16, rel=0.02)
            assert block.grouped.std().item() == pytest.approx(gain / 12, rel=0.02)
            for zero in (block.narrow.weight, block.bias_0, block.bias_1):
                assert not zero.any()
    for weight, std in (
        (g.basis, 1.0),
        (g.start, 1 / 8),
        (d.depthwise, 1 / 4),
        (d.head, 1 / 16),
        (d.from_image.weight, 1 / math.sqrt(3)),
        (g.to_image.weight, 1 / 16),
    ):
        # Four standard errors of a standard deviation.
        assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * weight.numel()))


def test_classes_choose_the_vectors():
    g, d = small_networks(num_outputs=2, num_classes=3)
    z, labels = torch.randn(4, 6), torch.tensor([2, 0, 2, 1])
    assert g.embedding is not None
    assert d.embedding is not None
    one_hot = F.one_hot(labels, 3).float()
    images = g(z, one_hot)
    joined = torch.cat([z, one_hot @ g.embedding], 1)
    g.num_classes, g.embedding, g.z_dim = 0, None, 12
    torch.testing.assert_close(images, g(joined))
    # Output k is <h_k, e(label)>, h the features' linear map.
    features = plain_discriminator(d, images).unflatten(1, (2, 8))
    expected = torch.einsum("bkc,bc->bk", features, one_hot @ d.embedding)
    torch.testing.assert_close(d(images, one_hot), expected, rtol=1e-4, atol=1e-5)
    assert d.embedding.shape == (3, 8)


def test_bf16_is_for_the_highest_stages():
    """At 128 pixels the stages of 4 and 8 pixels are fp32, as are G's start and D's end."""
    torch.manual_seed(0)
    size = settings(8, 8 * 128, 8) | dict(resolution=128)
    g, d = R3GANGenerator(z_dim=6, **size), R3GANDiscriminator(num_outputs=2, **size)
    seen: dict[R3GANBlock, torch.dtype] = {}
    for block in [*g.modules(), *d.modules()]:
        if isinstance(block, R3GANBlock):
            block.register_forward_hook(lambda m, _, y: seen.update({m: y.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = g(torch.randn(2, 6))
        points = images.float().detach().requires_grad_()
        outputs = d(points)
    assert list(seen.values()) == [torch.float32] * 4 + [torch.bfloat16] * 16 + [torch.float32] * 4
    assert images.dtype == torch.bfloat16
    assert outputs.dtype == torch.float32
    gradient_squared_norm(outputs[:, 0], points).sum().backward()
    assert all(block.grouped.grad is not None for block in d.modules() if block in seen)
    assert [small_networks(side)[0].num_low for side in (32, 64)] == [1, 1]


def test_layout_holds_through_both_networks():
    g, d = small_networks()
    layouts = []

    def record(t: Tensor) -> None:
        layouts.append(t.is_contiguous(memory_format=torch.channels_last))

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        record(output)
        output.register_hook(record)

    for layer in [*g.modules(), *d.modules()]:
        if isinstance(layer, R3GANBlock | Resample | Conv1x1):
            layer.register_forward_hook(watch)
    d(g(torch.randn(4, 6)).float()).sum().backward()
    assert len(layouts) > 80
    assert all(layouts)


def test_recomputed_blocks_have_the_same_penalty():
    (_, d), (_, again) = small_networks(), small_networks()
    assert recompute_blocks(again) == 8
    points = torch.randn(2, 3, 32, 32, requires_grad=True)
    gradients = []
    for network in (d, again):
        penalty = gradient_squared_norm(network(points).squeeze(1), points).sum()
        gradients.append(torch.autograd.grad(penalty, list(network.parameters())))
    torch.testing.assert_close(*gradients)


def test_realness_outcomes_on_r3gans_discriminator():
    objective = RealnessConfig(num_outcomes=7, resample="none").build(1)
    d = build_discriminator(R3GANDiscriminatorConfig(d_max_channels=16), 32, objective.num_outputs)
    draws = Draws(0, Stream.D_FAKE, torch.arange(2))
    images = draws.normal(Purpose.LATENT, 3 * 32 * 32).view(2, 3, 32, 32)
    out = d(images)
    assert out.shape == (2, 7)
    assert objective.d_loss(out, out.flip(0), draws, draws).isfinite()


def test_wrong_settings_and_inputs_are_refused():
    g, d = small_networks()
    with pytest.raises(ValueError, match=r"z has shape \(2, 5\), expected \[B, 6\]"):
        g(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 64\)"):
        d(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected None"):
        g(torch.zeros(2, 6), torch.zeros(2, 3))
    g, d = small_networks(num_classes=3)
    with pytest.raises(ValueError, match=r"has shape None, expected \(2, 3\)"):
        g(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"has shape \(3,\), expected \(2, 3\)"):
        d(torch.zeros(2, 3, 32, 32), torch.zeros(3))
    with pytest.raises(ValueError, match=r"12 channels, widened to 24, .* groups of 16.* 8, or"):
        build_generator(R3GANGeneratorConfig(g_max_channels=12), 32)
    with pytest.raises(ValueError, match="resolution=48 must be a power of two"):
        build_discriminator(R3GANDiscriminatorConfig(), 48, 1)
    with pytest.raises(ValueError, match="no normalisation layers that a posterior code"):
        build_generator(R3GANGeneratorConfig(), 32, code_dim=5)
    for field in ("g_max_channels", "g_channel_base", "g_expansion", "g_group_channels"):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}=0"):
            replace(R3GANGeneratorConfig(), **{field: 0})
    for field in ("d_max_channels", "d_channel_base", "d_expansion", "d_group_channels"):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}=0"):
            replace(R3GANDiscriminatorConfig(), **{field: 0})


@kernels.implementation("reference")
def test_exported_graphs_need_no_autograd_function():
    g, _ = small_networks()
    z = torch.randn(2, 6)
    program = torch.export.export(g.eval(), (z,)).module()
    torch.testing.assert_close(program(z), g(z))


def test_both_networks_compile_whole():
    """In one graph for each precision, with the outputs and gradients of the eager network."""
    g, d = small_networks()
    z, points = torch.randn(2, 6), torch.randn(2, 3, 32, 32)
    for network, x in ((g, z), (d, points)):
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
        parameters = list(network.parameters())
        torch.testing.assert_close(
            *(torch.autograd.grad(run(x).sum(), parameters) for run in (compiled, network))
        )
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            error = (compiled(x) - network(x)).norm() / network(x).norm()
        assert error < 2**-7  # a rounding of bf16
