"""SNGAN's residual networks: against torch's functions, and sizes derived by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness import kernels
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.configs import SNResNetDiscriminatorConfig, SNResNetGeneratorConfig
from realness.trainer.networks.layer_norm import LayerNorm
from realness.trainer.networks.posterior import BatchNormGenerator, PosteriorBatchNorm
from realness.trainer.networks.sn_resnet import DiscriminatorBlock, UpBlock, upsample
from realness.trainer.networks.spectral_norm import SpectralConv2d, SpectralLinear
from realness.trainer.objectives.penalties import gradient_squared_norm

RESOLUTIONS = [32, 64, 128, 256, 512, 1024]


@pytest.fixture(autouse=True)
def plain_operations() -> Iterator[None]:
    """Use PyTorch's operations; the fused ones are tested separately."""
    with kernels.implementation("reference"):
        yield


def make_generator(width: int, resolution: int, code_dim: int = 0, **options) -> BatchNormGenerator:
    torch.manual_seed(0)
    config = SNResNetGeneratorConfig(g_width=width, **options)
    generator = build_generator(config, resolution, code_dim=code_dim)
    assert isinstance(generator, BatchNormGenerator)
    return generator


def make_discriminator(
    width: int, resolution: int, num_outputs: int = 1, norm: str = "spectral"
) -> nn.Module:
    torch.manual_seed(0)
    config = SNResNetDiscriminatorConfig(d_width=width, d_norm=norm)  # type: ignore[arg-type]
    return build_discriminator(config, resolution, num_outputs)


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# By hand at c = 64, 32x32. G has 256 channels everywhere: 64 * 4,096 + 4,096 = 266,240 from z of 64
# dimensions; a block is two 3x3 convolutions of 9 * 256^2 = 589,824, a 1x1 of 65,536 and two
# normalisations; three blocks, one more normalisation, and 9 * 256 * 3 + 3 = 6,915 to RGB.
CONVOLUTIONS_OF_G = 266_240 + 3 * (2 * 589_824 + 65_536) + 6_915


def test_parameter_count_of_the_cifar_generator():
    plain = make_generator(64, 32, z_dim=64)
    assert num_parameters(plain) == CONVOLUTIONS_OF_G + 7 * 512 == 4_012_291


def test_parameter_count_of_p2gans_cifar_generator():
    """Each of the 7 normalisations has a linear module from 5 to 512 instead of weight and bias."""
    steered = make_generator(64, 32, code_dim=5, z_dim=64)
    assert num_parameters(steered) == CONVOLUTIONS_OF_G + 7 * (5 * 512 + 512) == 4_030_211


def test_parameter_count_of_the_cifar_discriminator():
    """128 channels: 3x3 from RGB 3,584, 3x3 147,584, 1x1 from RGB 512; a halving block 2 * 147,584
    and a 1x1 of 16,512; two blocks that keep the side, without 1x1; the head 128 * 10 + 10."""
    first, halving, keeping = 3_584 + 147_584 + 512, 2 * 147_584 + 16_512, 2 * 147_584
    expected = first + halving + 2 * keeping + 1_290
    assert num_parameters(make_discriminator(64, 32, 10)) == expected == 1_054_986


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(resolution):
    """On the meta device, as in the estimate of memory; D ends at 8x8."""
    with torch.device("meta"):
        generator = make_generator(2, resolution, z_dim=7)
        discriminator = make_discriminator(2, resolution, 5)
        steered = make_generator(2, resolution, code_dim=3, z_dim=7)
        images = generator(torch.empty(2, 7))
        assert images.shape == (2, 3, resolution, resolution)
        assert steered(torch.empty(2, 7), torch.empty(2, 3)).shape == images.shape
        assert discriminator(images).shape == (2, 5)
        assert discriminator.get_submodule("blocks")(images).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_up_block_in_the_order_of_the_paper(leak):
    torch.manual_seed(0)
    norms = (GlobalBatchNorm(3), GlobalBatchNorm(3))
    block = UpBlock(3, norms, leak).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    twice = lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731

    def normalised(t: Tensor, norm: GlobalBatchNorm) -> Tensor:
        return F.batch_norm(t, None, None, norm.weight, norm.bias, training=True)

    dx = twice(F.leaky_relu(normalised(x, norms[0]), leak))
    dx = F.leaky_relu(normalised(F.conv2d(dx, block.conv_0.weight, padding=1), norms[1]), leak)
    dx = F.conv2d(dx, block.conv_1.weight, padding=1)
    shortcut = F.conv2d(twice(x), block.shortcut.weight)
    torch.testing.assert_close(block(x), shortcut + dx)
    assert torch.equal(upsample(x), twice(x))


@pytest.mark.parametrize(
    ("in_channels", "first", "halve"), [(3, True, True), (4, False, True), (4, False, False)]
)
@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
def test_discriminator_block_in_the_order_of_the_paper(norm, in_channels, first, halve):
    """Pooling comes last in the paper, after the shortcut's convolution too."""
    torch.manual_seed(0)
    block = DiscriminatorBlock(in_channels, 4, first=first, halve=halve, norm=norm).double()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d | LayerNorm):
            assert layer.bias is not None
            nn.init.normal_(layer.bias)
    x = torch.randn(2, in_channels, 6, 6, dtype=torch.float64)

    def convolved(t: Tensor, layer: nn.Module) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight
        if isinstance(layer, SpectralConv2d):
            weight = weight / (layer.u @ weight.flatten(1) @ layer.v)
        return F.conv2d(t, weight, layer.bias, padding=layer.padding)  # type: ignore[arg-type]

    def activated(t: Tensor, layer: nn.Module) -> Tensor:
        if norm == "layer" and not first:
            assert isinstance(layer, LayerNorm)
            shape = t.shape[1:]
            t = F.layer_norm(t, shape) + layer.bias[:, None, None]
        return F.relu(t)

    dx = convolved(x if first else activated(x, block.norm_0), block.conv_0)
    dx = convolved(activated(dx, block.norm_1), block.conv_1)
    shortcut = convolved(x, block.shortcut) if halve else x
    expected = F.avg_pool2d(shortcut + dx, 2) if halve else shortcut + dx
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("activation", "leak"), [("relu", 0.0), ("lrelu", 0.2)])
def test_generator_around_its_blocks(activation, leak):
    generator = make_generator(2, 32, z_dim=7, g_activation=activation).double()
    blocks = [m for m in generator.modules() if isinstance(m, UpBlock)]
    assert [block.leak for block in blocks] == [leak] * 3
    z = torch.randn(3, 7, dtype=torch.float64)
    start, last = generator.get_submodule("start"), generator.get_submodule("to_image")
    x = start(z).view(3, 8, 4, 4)
    for block in blocks:
        x = block(x)
    x = F.leaky_relu(generator.get_submodule("norm")(x), leak)
    torch.testing.assert_close(generator(z), last(x).tanh())


def test_discriminator_sums_over_pixels():
    network = make_discriminator(2, 32, 3, "none").double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = network.get_submodule("blocks")(images).clamp(min=0)
    head = network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    expected = torch.einsum("bchw,oc->bo", features, head.weight) + head.bias
    torch.testing.assert_close(network(images), expected)


def test_every_layer_of_the_discriminator_is_spectral():
    network = make_discriminator(2, 64)
    weights = [p for name, p in network.named_parameters() if name.endswith("weight")]
    spectral = [m for m in network.modules() if isinstance(m, SpectralConv2d | SpectralLinear)]
    assert len(weights) == len(spectral) == 2 * 5 + 3 + 1
    for layer in spectral:
        top = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item()
        sigma = (layer.u @ layer.weight.flatten(1) @ layer.v).item()
        assert 0.7 * top < sigma <= top * (1 + 1e-5)


def test_layer_norm_is_in_every_block_but_the_first():
    network = make_discriminator(2, 64, norm="layer")
    blocks = [m for m in network.modules() if isinstance(m, DiscriminatorBlock)]
    counts = [sum(isinstance(m, LayerNorm) for m in block.modules()) for block in blocks]
    assert counts == [0, 2, 2, 2, 2]
    assert not any(isinstance(m, SpectralConv2d | SpectralLinear) for m in network.modules())


def test_initial_weights_are_glorots():
    """Uniform with variance 2 gain^2 / (fan in + fan out), gain^2 = 2 on residual branches."""
    generator, discriminator = make_generator(16, 32), make_discriminator(32, 32)
    fan = 2 * 9 * 64
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            if "conv_1.weight" in name:
                assert parameter.var().item() == pytest.approx(2 * 2 / fan, rel=0.05)
            if "conv" in name and name.endswith("bias"):
                assert parameter.abs().max() == 0
    shortcut = generator.get_parameter("blocks.0.shortcut.weight")
    assert shortcut.var().item() == pytest.approx(2 / 128, rel=0.05)


@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
def test_gradients_reach_every_parameter(norm):
    generator, discriminator = make_generator(2, 64), make_discriminator(2, 64, 5, norm)
    images = generator(torch.randn(3, 128))
    assert images.abs().max() <= 1
    discriminator(images).square().sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-4


@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
def test_gradient_of_the_penalty_against_a_finite_difference_along_it(norm):
    """R1 is a first derivative of the network, and its gradient a second one."""
    network = make_discriminator(2, 32, norm=norm).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
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
    assert [m.normalize.num_features for m in norms] == [8] * 7
    assert not any(m.affine for m in generator.modules() if isinstance(m, GlobalBatchNorm))
    z, code = torch.randn(4, 128), torch.randn(4, 3)
    assert not torch.allclose(generator(z, code), generator(z, code + 3), atol=1e-4)
    torch.testing.assert_close(generator(z, code, 0.0), generator(z, code + 3, 0.0))
    generator(z, code, 0.0).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None
        assert "posterior" not in name or parameter.grad.abs().max() == 0


@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
def test_bf16(norm):
    generator, discriminator = make_generator(4, 32), make_discriminator(4, 32, norm=norm)
    z = torch.randn(8, 128)
    expected = generator(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z)
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


@pytest.mark.parametrize("norm", ["spectral", "layer"])
def test_activations_are_channels_last(norm):
    generator, discriminator = (
        make_generator(2, 32, code_dim=3),
        make_discriminator(2, 32, norm=norm),
    )
    layouts = []
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | UpBlock | DiscriminatorBlock):
                layer.register_forward_hook(
                    lambda _, x, y: layouts.append(
                        y.is_contiguous(memory_format=torch.channels_last)
                    )
                )
    discriminator(generator(torch.randn(2, 128), torch.randn(2, 3)))
    assert len(layouts) == 3 * 4 + 1 + 4 + 4 * 2 + 2
    assert all(layouts)


def test_wrong_settings_and_inputs_are_refused():
    generator, discriminator = make_generator(2, 32), make_discriminator(2, 32)
    with pytest.raises(ValueError, match=r"z has shape \(2, 6\), expected \[B, 128\]"):
        generator(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 64\)"):
        discriminator(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="resolution=48 must be a power of two"):
        make_generator(2, 48)
    with pytest.raises(ValueError, match="resolution=16 must be a power of two"):
        make_discriminator(2, 16)
