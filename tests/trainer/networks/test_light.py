"""The light networks: against torch's functions, and sizes derived by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness import kernels
from realness.trainer.config import ConfigError
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.light import GatedBlock, HalvingBlock, LightGenerator, gate
from realness.trainer.networks.light_configs import LightDiscriminatorConfig, LightGeneratorConfig
from realness.trainer.networks.posterior import BatchNormGenerator, PosteriorBatchNorm
from realness.trainer.networks.recompute import recompute_blocks
from realness.trainer.objectives.penalties import gradient_squared_norm

RESOLUTIONS = [32, 64, 128, 256, 512, 1024]


@pytest.fixture(autouse=True)
def plain_operations() -> Iterator[None]:
    """Use PyTorch's operations; the fused ones are tested separately."""
    with kernels.implementation("reference"):
        yield


def make_generator(width: int, resolution: int, code_dim: int = 0, **options) -> BatchNormGenerator:
    torch.manual_seed(0)
    config = LightGeneratorConfig(g_width=width, **options)
    generator = build_generator(config, resolution, code_dim=code_dim)
    assert isinstance(generator, BatchNormGenerator)
    return generator


def inputs(generator: nn.Module, batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """z [batch, z_dim] and noise [batch, noise_dim]."""
    assert isinstance(generator, LightGenerator)
    dims = generator.z_dim, generator.noise_dim
    return [torch.randn(batch, dim, dtype=dtype) for dim in dims]


def make_discriminator(width: int, resolution: int, num_outputs: int = 1, **options) -> nn.Module:
    torch.manual_seed(0)
    config = LightDiscriminatorConfig(d_width=width, **options)
    return build_discriminator(config, resolution, num_outputs)


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# By hand at width 8, 64x64. G has 128, 64, 32, 16 and 8 channels at 4 to 64 pixels, and twice as
# many before each gate: 128 * 16 * 256 = 524,288 from z; 3x3 convolutions of 18 * below * above,
# 18 * (8,192 + 2,048 + 512 + 128) = 195,840; 9 * 8 * 3 + 3 = 219 to RGB.
CONVOLUTIONS_OF_G = 524_288 + 195_840 + 219
FEATURES_OF_G = 2 * (128 + 64 + 32 + 16 + 8)
NOISE_OF_G = 2 * (64 + 32 + 16 + 8)  # A strength for each feature of the blocks.


def test_parameter_count_of_the_generator():
    generator = make_generator(8, 64)
    expected = CONVOLUTIONS_OF_G + 2 * FEATURES_OF_G + NOISE_OF_G
    assert num_parameters(generator) == expected == 721_579


def test_grey_images_need_one_channel():
    fewer = num_parameters(make_generator(8, 64)) - num_parameters(
        make_generator(8, 64, g_grey=True)
    )
    assert fewer == 2 * (9 * 8 + 1)


def test_parameter_count_with_posterior_codes():
    """Each normalisation has a linear module from 5 to 2 C instead of weight and bias."""
    steered = make_generator(8, 64, code_dim=5)
    expected = CONVOLUTIONS_OF_G + 2 * FEATURES_OF_G * (5 + 1) + NOISE_OF_G
    assert num_parameters(steered) == expected


@pytest.mark.parametrize(("group", "added"), [(4, 1), (1, 0)])
def test_parameter_count_of_the_discriminator(group, added):
    """16, 32, 64 and 128 channels at 32 to 4 pixels: 4x4 from RGB 784; a block has 16 + 1 weights
    per pair of channels and two biases per output; 9 * 128 * 128 + 128 for the 3x3, and 9 * 128 for
    the deviation's channel; the head 2,048 * 10 + 10."""
    blocks = 17 * (16 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)
    last = 9 * (128 + added) * 128 + 128
    expected = 784 + blocks + last + 20_490
    assert num_parameters(make_discriminator(8, 64, 10, minibatch_group=group)) == expected


def test_channels_are_limited():
    generator = make_generator(8, 64, g_max_channels=20)
    blocks = [m for m in generator.modules() if isinstance(m, GatedBlock)]
    pairs = [(20, 20), (20, 20), (20, 16), (16, 8)]
    assert [(b.conv.in_channels, b.conv.out_channels // 2) for b in blocks] == pairs
    network = make_discriminator(8, 64, d_max_channels=20)
    halvings = [m for m in network.modules() if isinstance(m, HalvingBlock)]
    pairs = [(16, 20), (20, 20), (20, 20)]
    assert [(b.conv.in_channels, b.conv.out_channels) for b in halvings] == pairs


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(resolution):
    """On the meta device, as in the estimate of memory; D ends at 4x4."""
    with torch.device("meta"):
        generator = make_generator(2, resolution, z_dim=7)
        discriminator = make_discriminator(2, resolution, 5)
        steered = make_generator(2, resolution, code_dim=3, z_dim=7)
        images = generator(*inputs(generator, 2))
        assert images.shape == (2, 3, resolution, resolution)
        assert steered(*inputs(steered, 2), torch.empty(2, 3)).shape == images.shape
        assert discriminator(images).shape == (2, 5)
        half = torch.empty(2, 4, resolution // 2, resolution // 2)
        blocks = discriminator.get_submodule("blocks")
        assert blocks(half).shape == (2, min(resolution // 2, 512), 4, 4)


def test_gate_is_torchs_glu():
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(gate(x), F.glu(x, dim=1))


def interpolated(x: Tensor) -> Tensor:
    """Zeros between the pixels, then the filter [1, 3, 3, 1] / 4 on both axes; edges repeat."""
    taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(padded, kernel, stride=2, groups=x.shape[1])[:, :, 3:-3, 3:-3]


@pytest.mark.parametrize("grey", [False, True])
def test_generator_layer_by_layer(grey):
    generator = make_generator(2, 32, z_dim=7, g_grey=grey).double()
    z, noise = inputs(generator, 3, torch.float64)
    parts = [
        part.unflatten(1, (1, side, -1))
        for part, side in zip(noise.split([64, 256, 1024], 1), (8, 16, 32), strict=True)
    ]

    def normalised(t: Tensor, norm: nn.Module) -> Tensor:
        assert isinstance(norm, GlobalBatchNorm)
        return F.glu(F.batch_norm(t, None, None, norm.weight, norm.bias, training=True), 1)

    start, norm = generator.get_submodule("start"), generator.get_submodule("norm")
    x = normalised(start(z).view(3, 32, 4, 4), norm)
    for number, block in enumerate(generator.get_submodule("blocks").children(), start=1):
        assert isinstance(block, GatedBlock)
        x = interpolated(x) if number == 3 else x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert not block.noise_strength.any()
        nn.init.normal_(block.noise_strength)
        x = F.conv2d(x, block.conv.weight, padding=1) + block.noise_strength * parts[number - 1]
        x = normalised(x, block.norm)
    expected = generator.get_submodule("to_image")(x).tanh()
    assert expected.shape[1] == (1 if grey else 3)
    images = generator(z, noise)
    torch.testing.assert_close(images, expected.expand(3, 3, 32, 32))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_discriminator_layer_by_layer(group):
    """With a group of 3, the fourth image is a group of its own, whose deviation is sqrt(1e-8)."""
    network = make_discriminator(2, 32, 3, minibatch_group=group).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    x = F.leaky_relu(network.get_submodule("from_image")(images), 0.2)
    for block in network.get_submodule("blocks").children():
        assert isinstance(block, HalvingBlock)
        dx = F.leaky_relu(F.conv2d(x, block.conv.weight, block.conv.bias, 2, 1), 0.2)
        x = (F.avg_pool2d(block.shortcut(x), 2) + dx) / 2**0.5
    if group > 1:
        deviation = [
            (part.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(part))
            for part in x.split(group)
        ]
        x = torch.cat([x, torch.cat(deviation)[:, None, None, None].expand(-1, 1, 4, 4)], 1)
    x = F.leaky_relu(network.get_submodule("conv")(x), 0.2)
    torch.testing.assert_close(network(images), network.get_submodule("head")(x.flatten(1)))


def test_gradients_reach_every_parameter():
    generator, discriminator = make_generator(2, 64), make_discriminator(2, 64, 5)
    images = generator(*inputs(generator, 4))
    assert images.abs().max() <= 1
    discriminator(images).square().sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_of_the_penalty_against_a_finite_difference_along_it(recompute):
    """R1 is a first derivative of the network, and its gradient a second one."""
    network = make_discriminator(2, 32, minibatch_group=2).double()
    if recompute:
        assert recompute_blocks(network) == 2
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    parameters = list(network.parameters())

    def penalty() -> Tensor:
        points = images.clone().requires_grad_()
        return gradient_squared_norm(network(points).squeeze(1), points).mean()

    # The penalty does not depend on the bias of the head.
    gradients = torch.autograd.grad(
        penalty(), parameters, allow_unused=True, materialize_grads=True
    )
    size = sum(g.square().sum().item() for g in gradients)
    step = 1e-6 / size**0.5
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(sign * step * gradient)
        values.append(penalty().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(size, rel=1e-4)


def test_posterior_modules_replace_every_batch_norm():
    generator = make_generator(2, 32, code_dim=3)
    norms = [m for m in generator.modules() if isinstance(m, PosteriorBatchNorm)]
    assert [m.normalize.num_features for m in norms] == [32, 16, 8, 4]
    assert not any(m.affine for m in generator.modules() if isinstance(m, GlobalBatchNorm))
    z, noise, code = *inputs(generator, 4), torch.randn(4, 3)
    assert not torch.allclose(generator(z, noise, code), generator(z, noise, code + 3), atol=1e-4)
    torch.testing.assert_close(generator(z, noise, code, 0.0), generator(z, noise, code + 3, 0.0))


def test_bf16():
    generator, discriminator = make_generator(4, 32), make_discriminator(4, 32)
    z, noise = inputs(generator, 8)
    expected = generator(z, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z, noise)
        points = images.float().detach().requires_grad_()
        score = discriminator(points).squeeze(1)
        penalty = gradient_squared_norm(score.float(), points).mean()
        loss = discriminator(images).float().sum() + penalty
    assert images.dtype == score.dtype == torch.bfloat16
    error = (images.float() - expected).square().mean().sqrt()
    assert error < 0.03 * expected.square().mean().sqrt()
    loss.backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_activations_and_their_gradients_are_channels_last():
    generator, discriminator = make_generator(2, 32, code_dim=3), make_discriminator(2, 32)
    layouts = []

    def record(t: Tensor) -> None:
        layouts.append(t.is_contiguous(memory_format=torch.channels_last))

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        record(output)
        output.register_hook(record)

    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | PosteriorBatchNorm | HalvingBlock):
                layer.register_forward_hook(watch)
    discriminator(generator(*inputs(generator, 4), torch.randn(4, 3))).sum().backward()
    assert len(layouts) == 2 * (4 + 4 + 1 + 2 * 3 + 1)
    assert all(layouts)


def test_wrong_settings_and_inputs_are_refused():
    generator, discriminator = make_generator(2, 32), make_discriminator(2, 32)
    with pytest.raises(ValueError, match=r"z has shape \(2, 6\), expected \[B, 128\]"):
        generator(torch.zeros(2, 6), torch.zeros(2, 1344))
    with pytest.raises(ValueError, match=r"noise has shape \(2, 9\), expected \(2, 1344\)"):
        generator(torch.zeros(2, 128), torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 64\)"):
        discriminator(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="resolution=48 must be a power of two"):
        make_generator(2, 48)
    with pytest.raises(ValueError, match="resolution=16 must be a power of two"):
        make_discriminator(2, 16)
    for field in ("g_width", "g_max_channels"):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}=0"):
            replace(LightGeneratorConfig(), **{field: 0})
    for field in ("d_width", "d_max_channels", "minibatch_group"):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}=0"):
            replace(LightDiscriminatorConfig(), **{field: 0})
    with pytest.raises(ConfigError, match="does not support --d-norm=spectral"):
        LightDiscriminatorConfig(d_norm="spectral")
