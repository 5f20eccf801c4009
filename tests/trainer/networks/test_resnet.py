"""FAR-GAN's residual networks against its tables 5 to 8, and against torch's functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness import kernels
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.configs import ResNetDiscriminatorConfig, ResNetGeneratorConfig
from realness.trainer.networks.resnet import ResBlock
from realness.trainer.objectives.penalties import gradient_squared_norm

RESOLUTIONS = [32, 64, 128, 256, 512, 1024]

# The tables' values for each residual block: side, in -> hidden -> out.
TABLE_5 = [(4, 512, 256, 256), (8, 256, 128, 128), (16, 128, 64, 64), (32, 64, 64, 64)]
TABLE_6 = [(32, 64, 64, 128), (16, 128, 128, 256), (8, 256, 256, 512)]
TABLE_7 = [
    *[(4, 1024, 1024, 1024), (4, 1024, 1024, 1024), (8, 1024, 512, 512), (8, 512, 512, 512)],
    *[(16, 512, 256, 256), (16, 256, 256, 256), (32, 256, 128, 128), (32, 128, 128, 128)],
    *[(64, 128, 64, 64), (64, 64, 64, 64)],
]
TABLE_8 = [
    *[(64, 64, 64, 64), (64, 64, 64, 128), (32, 128, 128, 128), (32, 128, 128, 256)],
    *[(16, 256, 256, 256), (16, 256, 256, 512), (8, 512, 512, 512), (8, 512, 512, 1024)],
    *[(4, 1024, 1024, 1024), (4, 1024, 1024, 1024)],
]


def cifar_networks() -> tuple[nn.Module, nn.Module]:
    g = ResNetGeneratorConfig(z_dim=128, g_width=64, g_max_channels=512, g_blocks=1)
    d = ResNetDiscriminatorConfig(d_width=64, d_max_channels=512, d_blocks=1)
    return build_generator(g, 32), build_discriminator(d, 32, 1)


def imagenet_networks() -> tuple[nn.Module, nn.Module]:
    g = ResNetGeneratorConfig(z_dim=256, g_width=64, g_max_channels=1024, g_blocks=2)
    d = ResNetDiscriminatorConfig(d_width=64, d_max_channels=1024, d_blocks=2)
    return build_generator(g, 64), build_discriminator(d, 64, 1)


def small_networks(
    resolution: int, blocks: int = 1, num_outputs: int = 5
) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    g = ResNetGeneratorConfig(
        z_dim=7,
        g_width=2,
        g_max_channels=8,
        g_blocks=blocks,  # type: ignore[arg-type]
    )
    d = ResNetDiscriminatorConfig(
        d_width=2,
        d_max_channels=8,
        d_blocks=blocks,  # type: ignore[arg-type]
    )
    return build_generator(g, resolution), build_discriminator(d, resolution, num_outputs)


def trace_blocks(network: nn.Module, x: Tensor) -> list[tuple[int, int, int, int]]:
    """(side, in, hidden, out) of each residual block, in the order of one forward pass."""
    seen = []

    def record(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(block, ResBlock)
        side = inputs[0].shape[-1]
        assert output.shape == (x.shape[0], block.conv_1.out_channels, side, side)
        seen.append((side, inputs[0].shape[1], block.conv_0.out_channels, output.shape[1]))

    hooks = [b.register_forward_hook(record) for b in network.modules() if isinstance(b, ResBlock)]
    network(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("build", "z_dim", "resolution", "table_g", "table_d"),
    [
        (cifar_networks, 128, 32, TABLE_5, TABLE_6),
        (imagenet_networks, 256, 64, TABLE_7, TABLE_8),
    ],
)
def test_blocks_are_those_of_the_tables(build, z_dim, resolution, table_g, table_d):
    with torch.device("meta"):
        generator, discriminator = build()
        images = torch.empty(2, 3, resolution, resolution)
        assert trace_blocks(generator, torch.empty(2, z_dim)) == table_g
        assert trace_blocks(discriminator, images) == table_d
        assert generator(torch.empty(2, z_dim)).shape == images.shape
        assert discriminator(images).shape == (2, 1)


def block_size(in_channels: int, hidden: int, out_channels: int) -> int:
    """Parameters of a block: two 3x3 convolutions with bias, and the 1x1 shortcut without."""
    first, second = 9 * in_channels * hidden + hidden, 9 * hidden * out_channels + out_channels
    return first + second + (in_channels * out_channels if in_channels != out_channels else 0)


# Tables 5 to 8 by hand, with biases everywhere but on the shortcuts. For table 5:
#   128 * 8,192 + 8,192 = 1,056,768; 512 -> 256 1,901,056; 256 -> 128 475,392; 128 -> 64 118,912;
#   64 -> 64 73,856; 3x3 to RGB 1,731. Table 6: 1,792; 118,976; 475,520; 1,901,312; 8,193.
def test_parameter_counts_of_the_cifar_networks():
    assert block_size(512, 256, 256) == 1_901_056
    generator, discriminator = cifar_networks()
    blocks_g = sum(block_size(*row[1:]) for row in TABLE_5)
    blocks_d = sum(block_size(*row[1:]) for row in TABLE_6)
    assert num_parameters(generator) == 1_056_768 + blocks_g + 1_731 == 3_627_715
    assert num_parameters(discriminator) == 1_792 + blocks_d + 8_193 == 2_505_793


def test_parameter_counts_of_the_imagenet_networks():
    """256 * 16,384 + 16,384 = 4,210,688 from z; the head of D has 16,384 weights and a bias."""
    with torch.device("meta"):
        generator, discriminator = imagenet_networks()
    blocks_g = sum(block_size(*row[1:]) for row in TABLE_7)
    blocks_d = sum(block_size(*row[1:]) for row in TABLE_8)
    assert num_parameters(generator) == 4_210_688 + blocks_g + 1_731 == 58_332_611
    assert num_parameters(discriminator) == 1_792 + blocks_d + 16_385 == 54_139_329


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("channels", [(4, 4), (3, 5), (5, 3)])
def test_block_is_a_scaled_residual(channels):
    torch.manual_seed(0)
    below, above = channels
    block = ResBlock(below, above).double()
    x = torch.randn(2, below, 5, 4, dtype=torch.float64)
    dx = F.conv2d(F.leaky_relu(x, 0.2), block.conv_0.weight, block.conv_0.bias, padding=1)
    dx = F.conv2d(F.leaky_relu(dx, 0.2), block.conv_1.weight, block.conv_1.bias, padding=1)
    if below == above:
        shortcut = x
    else:
        shortcut = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], x)  # type: ignore[index]
    torch.testing.assert_close(block(x), shortcut + 0.1 * dx)


def around_blocks(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The first residual block's input, and the last one's output after the leaky ReLU."""
    blocks = [m for m in network.modules() if isinstance(m, ResBlock)]
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        inputs.append(args[0])
        outputs.append(output)

    hooks = [block.register_forward_hook(record) for block in blocks]
    network(x)
    for hook in hooks:
        hook.remove()
    return inputs[0], F.leaky_relu(outputs[-1], 0.2)


def test_ends_of_the_generator():
    generator = small_networks(32, 2)[0].double()
    z = torch.randn(2, 7, dtype=torch.float64)
    first, last = around_blocks(generator, z)
    start, to_image = (generator.get_submodule(name) for name in ("start", "to_image"))
    torch.testing.assert_close(first, start(z).view(2, 8, 4, 4))
    torch.testing.assert_close(generator(z), to_image(last).tanh())


def test_ends_of_the_discriminator():
    discriminator = small_networks(32, 2)[1].double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    first, last = around_blocks(discriminator, images)
    from_image, head = (discriminator.get_submodule(name) for name in ("from_image", "head"))
    torch.testing.assert_close(first, from_image(images))
    torch.testing.assert_close(discriminator(images), head(last.flatten(1)))


def stage_transitions(network: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(output of a stage, input of the next) for each pair of neighbours, in one forward pass."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        inputs.append(args[0])
        outputs.append(output)

    for stage in network.get_submodule("stages").children():
        stage.register_forward_hook(record)
    network(x)
    return list(zip(outputs[:-1], inputs[1:], strict=True))


def test_generator_repeats_pixels_between_sides():
    transitions = stage_transitions(small_networks(32)[0], torch.randn(2, 7))
    assert len(transitions) == 3
    for below, above in transitions:
        assert torch.equal(above, below.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_discriminator_averages_windows_between_sides():
    """3x3 windows of stride 2; zeros around the border count."""
    transitions = stage_transitions(small_networks(32)[1], torch.randn(2, 3, 32, 32))
    assert len(transitions) == 3
    for below, above in transitions:
        windows = F.pad(below, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
        torch.testing.assert_close(above, windows.sum((4, 5)) / 9)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(resolution, blocks):
    """On the meta device, as in the estimate of memory."""
    with torch.device("meta"):
        generator, discriminator = small_networks(resolution, blocks)
        images = generator(torch.empty(2, 7))
        assert images.shape == (2, 3, resolution, resolution)
        assert discriminator(images).shape == (2, 5)


def test_gradients_reach_every_parameter():
    generator, discriminator = small_networks(64, 2)
    images = generator(torch.randn(3, 7))
    assert images.abs().max() <= 1
    discriminator(images).square().sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("blocks", [1, 2])
@kernels.implementation("reference")
def test_gradient_of_the_penalty_against_a_finite_difference_along_it(blocks):
    """R1 is a first derivative of the network, and its gradient a second one."""
    _, network = small_networks(32, blocks, num_outputs=1)
    network.double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    parameters = list(network.parameters())

    def penalty() -> Tensor:
        points = images.clone().requires_grad_()
        return gradient_squared_norm(network(points).squeeze(1), points).mean()

    # The penalty does not depend on the bias of the head.
    gradients = torch.autograd.grad(
        penalty(), parameters, allow_unused=True, materialize_grads=True
    )
    norm = sum(g.square().sum().item() for g in gradients)
    step = 1e-5 / norm**0.5
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(sign * step * gradient)
        values.append(penalty().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=1e-4)


def test_bf16():
    generator, discriminator = small_networks(32, num_outputs=1)
    z = torch.randn(4, 7)
    expected = generator(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z)
        points = images.float().detach().requires_grad_()
        score = discriminator(points).squeeze(1)
        penalty = gradient_squared_norm(score.float(), points).mean()
        loss = discriminator(images).float().sum() + penalty
    assert images.dtype == score.dtype == torch.bfloat16
    error = (images.float() - expected).square().mean().sqrt()
    assert error < 0.02 * expected.square().mean().sqrt()
    loss.backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_activations_are_channels_last():
    generator, discriminator = small_networks(32)
    layouts = []
    for network in (generator, discriminator):
        for block in network.modules():
            if isinstance(block, ResBlock):
                block.register_forward_hook(
                    lambda _, x, y: layouts.append(
                        y.is_contiguous(memory_format=torch.channels_last)
                    )
                )
    discriminator(generator(torch.randn(2, 7)))
    assert len(layouts) == 7
    assert all(layouts)


def test_wrong_settings_and_inputs_are_refused():
    generator, discriminator = small_networks(32)
    with pytest.raises(ValueError, match=r"z has shape \(2, 6\), expected \[B, 7\]"):
        generator(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 64\)"):
        discriminator(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="resolution=48 must be a power of two"):
        small_networks(48)
    with pytest.raises(
        ValueError, match=r"resnet has no normalisation layers that a posterior code .code_dim=5"
    ):
        build_generator(ResNetGeneratorConfig(), 32, code_dim=5)
