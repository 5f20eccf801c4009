"""P2GAN's batch normalisation and generators: against torch's layers and equation 11 by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.distributed import collectives, ranks
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.build import build_generator
from realness.trainer.networks.configs import DCGANGeneratorConfig
from realness.trainer.networks.posterior import BatchNormGenerator, PosteriorBatchNorm

CODE_DIM = 3


def posterior_norm(channels: int = 4) -> PosteriorBatchNorm:
    """A layer in float64 whose posterior module differs from its initial state."""
    torch.manual_seed(0)
    norm = PosteriorBatchNorm(channels, CODE_DIM).double()
    nn.init.normal_(norm.posterior.weight)
    nn.init.normal_(norm.posterior.bias)
    return norm


def small_generator(**options) -> BatchNormGenerator:
    torch.manual_seed(0)
    config = DCGANGeneratorConfig(z_dim=5, g_width=2, **options)
    generator = build_generator(config, 32, code_dim=CODE_DIM)
    assert isinstance(generator, BatchNormGenerator)
    return generator


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 3)])
def test_non_affine_batch_norm_is_torchs(shape):
    """Values and input gradients in training, then values in evaluation."""
    torch.manual_seed(0)
    ours = GlobalBatchNorm(4, affine=False).double()
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(4, affine=False).double()
    assert not list(ours.parameters())
    assert set(ours.state_dict()) == {"running_mean", "running_var"}
    x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, upstream), torch.autograd.grad(expected, x, upstream)
    )
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def equation_11(norm: PosteriorBatchNorm, x: Tensor, code: Tensor) -> Tensor:
    """Sample by sample and channel by channel, with moments over batch and pixels."""
    result = torch.empty_like(x)
    channels = x.shape[1]
    for b in range(x.shape[0]):
        predicted = norm.posterior.weight @ code[b] + norm.posterior.bias
        for c in range(channels):
            mean, variance = x[:, c].mean(), x[:, c].var(correction=0)
            normalised = (x[b, c] - mean) / (variance + 1e-5).sqrt()
            result[b, c] = predicted[c] * normalised + predicted[channels + c]
    return result


def test_equation_11():
    norm = posterior_norm()
    x = 2 * torch.randn(5, 4, 3, 2, dtype=torch.float64) + 1
    code = torch.randn(5, CODE_DIM, dtype=torch.float64)
    torch.testing.assert_close(norm(x, code), equation_11(norm, x, code))


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_gradcheck(share):
    norm = posterior_norm(channels=2)
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    code = torch.randn(3, CODE_DIM, dtype=torch.float64, requires_grad=True)
    weight, bias = norm.posterior.weight, norm.posterior.bias

    def run(x: Tensor, code: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        replaced = {"posterior.weight": weight, "posterior.bias": bias}
        return torch.func.functional_call(norm, replaced, (x, code, share))

    assert torch.autograd.gradcheck(run, (x, code, weight, bias))


def test_share_blends_between_plain_normalisation_and_equation_11():
    """y is affine in the share: plain at 0, equation 11 at 1."""
    norm = posterior_norm()
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    code = torch.randn(5, CODE_DIM, dtype=torch.float64)
    plain, full = GlobalBatchNorm(4, affine=False).double()(x), norm(x, code)
    torch.testing.assert_close(norm(x, code, 0.0), plain)
    torch.testing.assert_close(norm(x, code, 0.25), 0.75 * plain + 0.25 * full)


def test_a_fresh_layer_is_close_to_plain_normalisation():
    torch.manual_seed(0)
    norm = PosteriorBatchNorm(64, 20)
    scale, shift = norm.posterior(torch.zeros(1, 20)).chunk(2, dim=1)
    assert torch.equal(scale, torch.ones(1, 64))
    assert torch.equal(shift, torch.zeros(1, 64))
    assert norm.posterior.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_statistics_are_those_of_all_ranks(monkeypatch):
    """A rank with half of the rows gets the whole batch's results, and the same running moments."""
    whole = posterior_norm()
    share = copy.deepcopy(whole)
    x = torch.randn(6, 4, 3, 2, dtype=torch.float64)
    code = torch.randn(6, CODE_DIM, dtype=torch.float64)
    expected = whole(x, code)
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "global_moments", lambda *_: (mean, variance))
    torch.testing.assert_close(share(x[:3], code[:3]), expected[:3])
    torch.testing.assert_close(share.normalize.running_mean, whole.normalize.running_mean)
    torch.testing.assert_close(share.normalize.running_var, whole.normalize.running_var)
    torch.testing.assert_close(share.eval()(x, code), whole.eval()(x, code))


def test_every_batch_norm_of_dcgan_is_replaced():
    """By hand at width 2: stages of 8, 4 and 2 channels, a module of (3 + 1) * 2C each."""
    generator, plain = (
        small_generator(),
        build_generator(DCGANGeneratorConfig(z_dim=5, g_width=2), 32),
    )
    norms = [m for m in generator.modules() if isinstance(m, PosteriorBatchNorm)]
    assert [m.normalize.num_features for m in norms] == [8, 4, 2]
    assert not any(m.affine for m in generator.modules() if isinstance(m, GlobalBatchNorm))
    added = sum(p.numel() for p in generator.parameters())
    added -= sum(p.numel() for p in plain.parameters())
    assert added == (8 + 4 + 2) * (4 * 2 - 2)


def test_share_0_is_the_plain_generator_and_leaves_posterior_gradients_at_zero():
    """Pretraining: the same images as batch normalisation of scale 1 and shift 0, for any code."""
    generator = small_generator().double()
    plain = build_generator(DCGANGeneratorConfig(z_dim=5, g_width=2), 32).double()
    convolutions = [
        [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
        for network in (generator, plain)
    ]
    for mine, theirs in zip(*convolutions, strict=True):
        theirs.weight.data = mine.weight.data
    for norm in plain.modules():
        if isinstance(norm, GlobalBatchNorm):
            norm.weight.data.fill_(1.0)
    z = torch.randn(4, 5, dtype=torch.float64)
    code = 100 * torch.randn(4, CODE_DIM, dtype=torch.float64)
    images = generator(z, code, 0.0)
    torch.testing.assert_close(images, plain(z))
    images.square().sum().backward()
    gradients = {name: p.grad for name, p in generator.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient is not None
        assert (gradient.abs().max() == 0) == ("posterior" in name)


def test_codes_steer_images_and_learn():
    generator = small_generator()
    z = torch.randn(4, 5)
    code = torch.randn(4, CODE_DIM, requires_grad=True)
    images = generator(z, code)
    assert images.shape == (4, 3, 32, 32)
    assert images.abs().max() <= 1
    assert not torch.allclose(images, generator(z, code + 3), atol=1e-4)
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.parameters())
    assert code.grad is not None
    assert code.grad.abs().max() > 0


def test_code_buffers_are_a_moving_average():
    """After n equal updates: 1 - 0.9^n of the way from 0 (mean) and 1 (std)."""
    generator = small_generator()
    assert torch.equal(generator.code_mean, torch.zeros(CODE_DIM))
    assert torch.equal(generator.code_std, torch.ones(CODE_DIM))
    mean, std = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 3.0, 0.5])
    for _ in range(5):
        generator.track_codes(mean, std)
    left = 0.9**5
    torch.testing.assert_close(generator.code_mean, (1 - left) * mean)
    torch.testing.assert_close(generator.code_std, left + (1 - left) * std)
    assert {"code_mean", "code_std"} <= set(generator.state_dict())


def test_code_buffers_stay_fp32():
    generator = small_generator().to(torch.bfloat16)
    generator.track_codes(torch.ones(CODE_DIM).bfloat16(), torch.ones(CODE_DIM).bfloat16())
    assert generator.code_mean.dtype == generator.code_std.dtype == torch.float32


def test_wrong_codes_are_refused():
    generator, z = small_generator(), torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"code has shape none, expected \(2, 3\)"):
        generator(z)
    with pytest.raises(ValueError, match=r"code has shape \(3, 3\), expected \(2, 3\)"):
        generator(z, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"z has shape \(2, 4\), expected \[B, 5\]"):
        generator(torch.zeros(2, 4), torch.zeros(2, 3))
    plain = build_generator(DCGANGeneratorConfig(z_dim=5, g_width=2), 32)
    with pytest.raises(ValueError, match="code_dim=0"):
        plain(z, torch.zeros(2, 3))
    assert not hasattr(plain, "code_mean")


def test_meta_device_and_bf16():
    with torch.device("meta"):
        generator = small_generator()
        assert generator(torch.empty(2, 5), torch.empty(2, CODE_DIM)).shape == (2, 3, 32, 32)
    generator, z, code = small_generator(), torch.randn(8, 5), torch.randn(8, CODE_DIM)
    expected = generator(z, code)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z, code)
    assert images.dtype == torch.bfloat16
    error = (images.float() - expected).square().mean().sqrt()
    assert error < 0.02 * expected.square().mean().sqrt()
    images.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def test_activations_are_channels_last():
    """Also through the posterior's scale and shift, or convolutions would convert them back."""
    norm = PosteriorBatchNorm(4, CODE_DIM)
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    y = norm(x, torch.randn(2, CODE_DIM))
    assert y.is_contiguous(memory_format=torch.channels_last)
