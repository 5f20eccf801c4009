"""StyleGAN2's networks: sizes by hand, layers against their equations, the papers' properties."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from realness import kernels
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.inputs import training_inputs
from realness.trainer.networks.stylegan2_configs import (
    StyleGAN2DiscriminatorConfig,
    StyleGAN2GeneratorConfig,
)
from realness.trainer.networks.stylegan2_discriminator import StyleGAN2Discriminator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator, side_channels
from realness.trainer.networks.stylegan2_layers import (
    EqualConv2d,
    EqualLinear,
    ModulatedConv2d,
    ToImage,
    minibatch_stddev,
)
from realness.trainer.randomness import Draws, Purpose, Stream, batch_draws

TINY_G = StyleGAN2GeneratorConfig(
    z_dim=6,
    w_dim=5,
    mapping_layers=2,
    g_channel_base=128,
    g_max_channels=8,
)
TINY_D = StyleGAN2DiscriminatorConfig(d_channel_base=128, d_max_channels=8)


def tiny_generator(code_dim: int = 0, **fields: Any) -> StyleGAN2Generator:
    """In float64 at 32x32, with noise strengths and biases different from their initial 0."""
    torch.manual_seed(0)
    generator = build_generator(replace(TINY_G, **fields), 32, code_dim=code_dim)
    assert isinstance(generator, StyleGAN2Generator)
    for name, weight in generator.named_parameters():
        if "noise_strength" in name or name.endswith("bias"):
            nn.init.normal_(weight, weight.mean().item(), 0.1)
    return generator.double()


def draws_of(count: int, stream: Stream = Stream.G_FAKE) -> Draws:
    return batch_draws(0, stream, 0, count)


def inputs_of(generator: StyleGAN2Generator, count: int) -> tuple[Tensor, Tensor]:
    """z and noise."""
    draws = draws_of(count)
    z = draws.normal(Purpose.LATENT, generator.z_dim).double()
    return z, generator.draw_noise(draws).double()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


# --- sizes


def generator_size(resolution: int, base: int, w: int = 512) -> tuple[int, int]:
    """Parameters by hand: of the mapping network, and of the synthesis."""
    mapping = 8 * (w * w + w)
    channels = [min(512, base // side) for side in sides(resolution)]

    def styled(below: int, above: int) -> int:
        """Style's affine map, 3x3 weight, bias, noise strength."""
        return (w + 1) * below + 9 * below * above + above + 1

    def image(c: int) -> int:
        return (w + 1) * c + 3 * c + 3

    synthesis = 16 * channels[0] + styled(channels[0], channels[0]) + image(channels[0])
    for below, c in itertools.pairwise(channels):
        synthesis += styled(below, c) + styled(c, c) + image(c)
    return mapping, synthesis


def discriminator_size(resolution: int, base: int, outputs: int) -> int:
    channels = [min(512, base // side) for side in sides(resolution)][::-1]
    total = 3 * channels[0] + channels[0]
    for c, above in itertools.pairwise(channels):
        total += 9 * c * c + c + 9 * c * above + above + c * above
    last = channels[-1]
    total += 9 * (last + 1) * last + last  # one more channel, of standard deviations
    return total + 16 * last * last + last + last * outputs + outputs


def sides(resolution: int) -> list[int]:
    return [4 << k for k in range(int(math.log2(resolution)) - 1)]


def build_on_meta(resolution: int, base: int, outputs: int = 1) -> tuple[Any, Any]:
    g = StyleGAN2GeneratorConfig(z_dim=512, g_channel_base=base)
    d = StyleGAN2DiscriminatorConfig(d_channel_base=base)
    with torch.device("meta"):
        return build_generator(g, resolution), build_discriminator(d, resolution, outputs)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("base", [16384, 32768])
def test_parameters(resolution: int, base: int) -> None:
    generator, discriminator = build_on_meta(resolution, base, outputs=51)
    mapping, synthesis = generator_size(resolution, base)
    assert count(generator.mapping) == mapping
    assert count(generator) == mapping + synthesis
    assert count(discriminator) == discriminator_size(resolution, base, 51)


def test_configuration_f_at_1024() -> None:
    """The published sizes, 30.37M and 29.01M parameters; 18 styles; the channels of each side."""
    generator, discriminator = build_on_meta(1024, 32768)
    assert (count(generator), count(discriminator)) == (30_370_060, 29_012_513)
    assert generator.num_styles == 18
    assert generator.noise_dim == 16 + 2 * sum(side**2 for side in sides(1024)[1:])
    table = side_channels(32768, 512, 1024)
    assert table == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    shapes = [tuple(c.conv.weight.shape) for b in generator.blocks for c in b.convs]
    expected = [(512, 512, 3, 3)]
    for below, above in itertools.pairwise(table):
        expected += [(above, below, 3, 3), (above, above, 3, 3)]
    assert shapes == expected
    assert [tuple(b.to_image.conv.weight.shape) for b in generator.blocks] == [
        (3, c, 1, 1) for c in table
    ]
    assert [tuple(b.conv_1.weight.shape) for b in discriminator.blocks] == [
        (above, below, 3, 3) for above, below in zip(table[-2::-1], table[:0:-1], strict=True)
    ]
    assert tuple(discriminator.conv.weight.shape) == (512, 513, 3, 3)


def test_operations_at_1024(monkeypatch: pytest.MonkeyPatch) -> None:
    """148.5 and 153.3 GFLOP per image, forward, in convolutions and matrix products."""
    generator, discriminator = build_on_meta(1024, 32768)
    filters = 0

    def without_filter(x: Tensor, f: Tensor, **options: Any) -> Tensor:
        nonlocal filters
        y = upfirdn2d(x, f, **options)
        filters += 2 * f.numel() * y.numel()  # which the reference does as a convolution
        return y

    upfirdn2d = kernels.upfirdn2d
    monkeypatch.setattr(kernels, "upfirdn2d", without_filter)
    with torch.device("meta"):
        draws = Draws(0, Stream.G_FAKE, torch.zeros(4, dtype=torch.int64))
        with FlopCounterMode(display=False) as counter:
            images = generator(*training_inputs(generator, draws, 512))
        assert images.shape == (4, 3, 1024, 1024)
        assert (counter.get_total_flops() - filters) / 4e9 == pytest.approx(148.5, abs=0.1)
        filters = 0
        with FlopCounterMode(display=False) as counter:
            assert discriminator(images).shape == (4, 1)
        assert (counter.get_total_flops() - filters) / 4e9 == pytest.approx(153.3, abs=0.1)


@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("bf16", [False, True])
def test_images_and_outputs(resolution: int, bf16: bool) -> None:
    torch.manual_seed(0)
    base = 2 * resolution
    generator = build_generator(replace(TINY_G, g_channel_base=base), resolution)
    discriminator = build_discriminator(replace(TINY_D, d_channel_base=base), resolution, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        images = generator(*training_inputs(generator, draws_of(4), 6))
        outputs = discriminator(images)
    assert images.shape == (4, 3, resolution, resolution)
    assert images.dtype == torch.float32
    assert outputs.shape == (4, 7)
    assert outputs.dtype == (torch.bfloat16 if bf16 else torch.float32)
    outputs.float().square().mean().backward()
    for network in (generator, discriminator):
        assert all(w.grad is not None and w.grad.isfinite().all() for w in network.parameters())


# --- layers


def test_equalised_learning_rate() -> None:
    """W ~ N(0, 1) acts as W / sqrt(fan-in): unit variance stays, through the activation too."""
    torch.manual_seed(0)
    linear = EqualLinear(256, 512, lr_multiplier=0.01)
    assert linear.weight.std().item() == pytest.approx(100, rel=0.01)
    x = torch.randn(64, 256)
    torch.testing.assert_close(linear(x), x @ linear.weight.t() * (0.01 / 16))
    assert linear(x).var().item() == pytest.approx(1, rel=0.05)
    bias = EqualLinear(4, 3, bias=1.0, lr_multiplier=0.01)
    torch.testing.assert_close(bias(torch.zeros(1, 4)), torch.ones(1, 3))
    conv = EqualConv2d(64, 128, 3, act="lrelu")
    assert conv.weight.std().item() == pytest.approx(1, rel=0.01)
    y = conv(torch.randn(8, 64, 16, 16))[:, :, 1:-1, 1:-1]
    # lrelu(x) sqrt(2) has the second moment (1 + 0.2^2) / 2 * 2.
    assert y.square().mean().item() == pytest.approx(1.04, rel=0.05)


def modulated(x: Tensor, w: Tensor, layer: ModulatedConv2d, up: bool) -> Tensor:
    """Equations 1 and 3 sample by sample, with separate weights for each."""
    rows = []
    for b in range(len(x)):
        style = w[b] @ layer.affine.weight.t() / math.sqrt(w.shape[1]) + layer.affine.bias
        weight = layer.weight / math.sqrt(layer.weight[0].numel())
        weight = style[None, :, None, None] * weight
        if layer.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            y = F.conv_transpose2d(x[b : b + 1], weight.transpose(0, 1), stride=2)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
            blur = torch.outer(taps, taps)[None, None] / 16  # 4 / 64
            blur = blur.expand(y.shape[1], 1, 4, 4)
            rows.append(F.conv2d(y, blur, padding=1, groups=y.shape[1]))
        else:
            rows.append(F.conv2d(x[b : b + 1], weight, padding=weight.shape[-1] // 2))
    return torch.cat(rows)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution(up: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(3, 4, 3, 5, up=up, demodulate=demodulate).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    w = torch.randn(2, 5, dtype=torch.float64)
    y, scale = layer(x, w)
    if scale is not None:
        y = y * scale[:, :, None, None]
    assert y.shape == (2, 4, 6 * (1 + up), 6 * (1 + up))
    torch.testing.assert_close(y, modulated(x, w, layer, up))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_modulated(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = ToImage(4, 5).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64).contiguous(memory_format=layout)
    w = torch.randn(2, 5, dtype=torch.float64)
    y = layer(x.requires_grad_(), w)
    expected = modulated(x, w, layer.conv, up=False) + layer.bias[:, None, None]
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=layout)
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert grad.is_contiguous(memory_format=layout)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x, upstream)[0])


def test_second_derivatives() -> None:
    """Second derivatives of everything that R1 and path lengths differentiate twice."""
    torch.manual_seed(0)
    styled = ModulatedConv2d(2, 2, 3, 2, up=True).double()
    down = EqualConv2d(2, 2, 3, down=True, act="lrelu").double()

    def modulate(x: Tensor, w: Tensor, weight: Tensor) -> Tensor:
        y, scale = torch.func.functional_call(styled, {"weight": weight}, (x, w))
        return y * scale[:, :, None, None]

    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(modulate, (x, w, styled.weight), atol=1e-4)
    assert torch.autograd.gradgradcheck(down, (x,))
    assert torch.autograd.gradgradcheck(lambda x: minibatch_stddev(x, 2), (x,))


def test_demodulation_keeps_unit_variance() -> None:
    """Whatever the styles: [2], section 2.2."""
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 64, 3, 16)
    nn.init.normal_(layer.affine.weight, 0, 3)
    x, w = torch.randn(4, 64, 32, 32), 5 * torch.randn(4, 16)
    y, scale = layer(x, w)
    assert y.var((1, 2, 3)).max() > 100
    variance = (y * scale[:, :, None, None])[:, :, 1:-1, 1:-1].var((1, 2, 3))
    torch.testing.assert_close(variance, torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize(("rows", "group"), [(8, 4), (4, 4), (6, 2), (6, 4), (3, 4)])
def test_minibatch_stddev(rows: int, group: int) -> None:
    """Against the definition, group by group; the remainder forms its own group."""
    torch.manual_seed(0)
    x = torch.randn(rows, 3, 2, 2, dtype=torch.float64)
    y = minibatch_stddev(x, group)
    torch.testing.assert_close(y[:, :3], x)
    for first in range(0, rows, group):
        members = x[first : first + group]
        expected = (members.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[first : first + group, 3], expected.expand(len(members), 2, 2))


def test_groups_mix_neither_real_and_generated_nor_ranks() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(TINY_D, 32, 2).double()
    real, fake = torch.randn(2, 8, 3, 32, 32, dtype=torch.float64)
    apart = torch.cat([discriminator(part) for part in (*real.split(4), *fake.split(4))])
    torch.testing.assert_close(discriminator(torch.cat([real, fake])), apart)
    # And groups do matter: the same image among others has another output.
    assert not torch.allclose(discriminator(real[[0, 4, 5, 6]])[0], apart[0], rtol=1e-3)
    config = TrainConfig(d=TINY_D, batch_size=8)
    config.check_ranks(2)
    with pytest.raises(ConfigError, match="--minibatch-group=4 does not divide the 2 images"):
        config.check_ranks(4)


# --- the generator


def test_noise_belongs_to_the_sample() -> None:
    """Two ranks draw the same numbers as one; every layer has different numbers."""
    generator = tiny_generator()
    whole = training_inputs(generator, batch_draws(0, Stream.G_FAKE, 8, 4), 6)
    ranks = [
        training_inputs(generator, batch_draws(0, Stream.G_FAKE, 8, 2, rank=rank), 6)
        for rank in range(2)
    ]
    for number in (0, 1):  # z, noise
        assert torch.equal(whole[number], torch.cat([rank[number] for rank in ranks]))
    for number in (0, 1):  # of the mixing: second latents, crossovers
        assert torch.equal(whole[4][number], torch.cat([rank[4][number] for rank in ranks]))
    assert whole[2:4] == (None, 1.0)
    noise = whole[1]
    assert noise.shape == (4, 16 + 2 * (64 + 256 + 1024))
    assert noise.unique().numel() > 0.999 * noise.numel()


def test_noise_acts_by_its_strength() -> None:
    generator = tiny_generator()
    z, noise = inputs_of(generator, 2)
    images = generator(z, noise)
    start = 0
    for side in generator.noise_sides:
        changed = noise.clone()
        changed[:, start] += 1  # one pixel of one layer
        assert not torch.equal(generator(z, changed), images)
        start += side**2
    assert start == generator.noise_dim
    for name, weight in generator.named_parameters():
        if "noise_strength" in name:
            nn.init.zeros_(weight)
    assert torch.equal(generator(z, noise), generator(z, -noise))


def test_style_mixing() -> None:
    """Styles before the crossover come from the first latents, the others from the second."""
    generator = tiny_generator()
    z, noise = inputs_of(generator, 3)
    mixed = z.flip(0) + 1
    crossover = torch.tensor([1, 5, generator.num_styles])
    w = generator.styles(z, (mixed, crossover))
    for row, layer in enumerate(crossover):
        first, second = generator.mapping(torch.stack([z[row], mixed[row]]))
        torch.testing.assert_close(w[row, :layer], first.expand(layer, -1))
        torch.testing.assert_close(w[row, layer:], second.expand(len(w[row, layer:]), -1))
    plain, images = generator(z, noise), generator(z, noise, None, 1.0, (mixed, crossover))
    torch.testing.assert_close(images[2], plain[2])
    assert not torch.allclose(images[0], plain[0])


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_crossovers_are_uniform(share: float) -> None:
    generator = tiny_generator(style_mixing=share)
    _, crossover = generator.draw_mixing(draws_of(20_000))
    shares = torch.bincount(crossover, minlength=generator.num_styles + 1) / len(crossover)
    assert shares[0] == 0
    assert shares[-1].item() == pytest.approx(1 - share, abs=0.02)
    expected = torch.full((generator.num_styles - 1,), share / (generator.num_styles - 1))
    torch.testing.assert_close(shares[1:-1], expected, atol=0.02, rtol=0)


def test_truncation() -> None:
    """w' = centre + psi (w - centre): all images are equal at 0, and unchanged at 1."""
    generator = tiny_generator()
    z, noise = inputs_of(generator, 3)
    noise = noise[:1].expand(3, -1)
    draws = draws_of(1000, Stream.CENTRE)
    centre = generator.mapping(draws.normal(Purpose.LATENT, 6).double()).mean(0)
    images, w = generator(z, noise), generator.styles(z)
    halfway = generator(z, noise, offset=(centre - w) / 2)
    torch.testing.assert_close(generator(z, noise, centre=centre, truncation=0.5), halfway)
    assert not torch.allclose(halfway, images)
    torch.testing.assert_close(generator(z, noise, centre=centre, truncation=1.0), images)
    collapsed = generator(z, noise, centre=centre, truncation=0.0)
    torch.testing.assert_close(collapsed, collapsed[:1].expand(3, -1, -1, -1))
    single = generator.float()
    torch.testing.assert_close(single.centre(draws), centre.float(), rtol=1e-4, atol=1e-5)


def test_latents_are_normalised() -> None:
    """The mapping network depends only on the direction of its input."""
    generator = tiny_generator()
    z, noise = inputs_of(generator, 2)
    torch.testing.assert_close(generator(3 * z, noise), generator(z, noise), rtol=1e-5, atol=1e-6)


def test_the_image_is_the_sum_over_sides() -> None:
    """With all convolutions to RGB but one silenced, it is that side's image, enlarged smoothly."""
    generator = tiny_generator()
    z, noise = inputs_of(generator, 2)
    with torch.no_grad():
        for number, block in enumerate(generator.blocks):
            to_image: Any = block.to_image
            to_image.conv.weight.zero_()
            to_image.bias.copy_(torch.tensor([1.0, 10.0, 100.0]) * (number + 1))
    expected = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)  # 1 + 2 + 3 + 4 times
    # Zero padding darkens the border of enlarged images.
    inner = generator(z, noise)[:, :, 12:-12, 12:-12]
    torch.testing.assert_close(inner, expected[None, :, None, None].expand_as(inner))


def test_codes_steer_styled_convolutions() -> None:
    """P2GAN's eq. 11 on demodulated features; at share 0 the plain generator, whatever the code."""
    torch.manual_seed(0)
    generator = tiny_generator(code_dim=3)
    z, noise = inputs_of(generator, 4)
    code = torch.randn(4, 3, dtype=torch.float64)
    plain = generator(z, noise, code=code, share=0.0)
    torch.testing.assert_close(generator(z, noise, code=-code, share=0.0), plain)
    assert not torch.allclose(generator(z, noise, code=code), plain)
    layer: Any = generator.blocks[1].convs[1]  # type: ignore[index]
    x, w = torch.randn(4, 8, 8, 8, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    flat = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    scale, shift = layer.posterior(code).chunk(2, 1)
    normalised = modulated(x, w, layer.conv, up=False)
    steered = scale[:, :, None, None] * normalised + shift[:, :, None, None]
    steered = F.leaky_relu(steered + layer.bias[:, None, None], 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x, w, flat, code, 1.0), steered)
    with pytest.raises(ValueError, match="code has shape none"):
        generator(z, noise)


def test_wrong_inputs_are_named() -> None:
    generator = tiny_generator()
    z, noise = inputs_of(generator, 2)
    with pytest.raises(ValueError, match=r"z has shape \(2, 5\), expected \[B, 6\]"):
        generator(z[:, :5], noise)
    with pytest.raises(ValueError, match="noise has shape"):
        generator(z, noise[:, 1:])
    with pytest.raises(ValueError, match="channel_base=16 must be at least"):
        side_channels(16, 512, 32)
    with pytest.raises(ConfigError, match=r"--style-mixing=1\.5"):
        replace(TINY_G, style_mixing=1.5)
    with pytest.raises(ConfigError, match=r"stylegan2 does not support --d-norm=spectral"):
        replace(TINY_D, d_norm="spectral")


def test_r1_through_the_whole_discriminator() -> None:
    """Its gradient in one weight of each layer, by central differences in float64."""
    torch.manual_seed(0)
    discriminator = build_discriminator(replace(TINY_D, d_channel_base=64), 32, 1).double()
    assert isinstance(discriminator, StyleGAN2Discriminator)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, requires_grad=True)

    def penalty(create_graph: bool) -> Tensor:
        (slope,) = torch.autograd.grad(
            discriminator(images).sum(), images, create_graph=create_graph
        )
        return slope.square().sum()

    penalty(True).backward()
    for name, weight in discriminator.named_parameters():
        if name.endswith("bias"):
            continue  # piecewise linear: they move no slope but at kinks
        place = (0,) * weight.dim()
        with torch.no_grad():
            start, values = weight[place].item(), []
            for step in (1e-6, -1e-6):
                weight[place] = start + step
                with torch.enable_grad():
                    values.append(penalty(False).item())
            weight[place] = start
        assert weight.grad is not None
        numeric = (values[0] - values[1]) / 2e-6
        assert weight.grad[place].item() == pytest.approx(numeric, rel=1e-3, abs=1e-6), name
