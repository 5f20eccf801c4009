"""Instance normalisation in generators: against equation 2 of P2GAN, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from realness.trainer.networks.batch_norm import has_batch_statistics
from realness.trainer.networks.build import build_generator
from realness.trainer.networks.configs import DCGANGeneratorConfig, SNResNetGeneratorConfig
from realness.trainer.networks.instance_norm import InstanceNorm
from realness.trainer.networks.posterior import PosteriorInstanceNorm

CODE_DIM, EPS = 3, 1e-5


def normalised(x: Tensor) -> Tensor:
    """(x - mu) / sigma of one map [H, W], with the biased variance."""
    values = x.flatten()
    mean = values.sum() / len(values)
    variance = ((values - mean) ** 2).sum() / len(values)
    return (x - mean) / (variance + EPS).sqrt()


def posterior_norm() -> PosteriorInstanceNorm:
    """A layer of 4 channels in float64 whose posterior module differs from its initial state."""
    torch.manual_seed(0)
    norm = PosteriorInstanceNorm(4, CODE_DIM).double()
    nn.init.normal_(norm.posterior.weight)
    nn.init.normal_(norm.posterior.bias)
    return norm


def test_definition():
    torch.manual_seed(0)
    norm = InstanceNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 4 * torch.randn(2, 3, 5, 4, dtype=torch.float64) - 7
    y = norm(x)
    for b in range(2):
        for c in range(3):
            expected = norm.weight[c] * normalised(x[b, c]) + norm.bias[c]
            torch.testing.assert_close(y[b, c], expected)
    assert torch.equal(norm.eval()(x), y)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_posterior_layer_is_equation_2(share):
    """Plain normalisation at share 0, equation 2 with the module's scale and shift at 1."""
    norm = posterior_norm()
    x = 3 * torch.randn(5, 4, 3, 2, dtype=torch.float64) + 1
    code = torch.randn(5, CODE_DIM, dtype=torch.float64)
    y = norm(x, code, share)
    for b in range(5):
        predicted = norm.posterior.weight @ code[b] + norm.posterior.bias
        for c in range(4):
            scale = 1 + share * (predicted[c] - 1)
            expected = scale * normalised(x[b, c]) + share * predicted[4 + c]
            torch.testing.assert_close(y[b, c], expected)


def test_gradcheck():
    norm = posterior_norm()
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    code = torch.randn(2, CODE_DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x, code))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_dtype_are_kept(layout, dtype):
    x = torch.randn(2, 4, 6, 5).to(dtype).contiguous(memory_format=layout)
    y = InstanceNorm(4, affine=False)(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)


def test_fresh_layers_start_like_batch_normalisation():
    torch.manual_seed(0)
    norm = InstanceNorm(4096)
    # Standard errors are 1/sqrt(n) of the mean and 1/sqrt(2n) of the deviation; 5 of them.
    assert norm.weight.mean().item() == pytest.approx(1, abs=5 * 0.02 / 4096**0.5)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * 4096) ** 0.5)
    assert not norm.bias.any()


def test_a_single_pixel_is_refused():
    with pytest.raises(ValueError, match=r"more than one pixel .* \(2, 4, 1, 1\)"):
        InstanceNorm(4)(torch.zeros(2, 4, 1, 1))


@pytest.mark.parametrize("config", [DCGANGeneratorConfig, SNResNetGeneratorConfig])
@pytest.mark.parametrize("code_dim", [0, CODE_DIM])
def test_images_do_not_depend_on_the_batch(config, code_dim):
    """No batch statistics remain, and each image of a batch is that of the image alone."""
    torch.manual_seed(0)
    chosen = config(z_dim=5, g_width=2, g_norm="instance")
    generator = build_generator(chosen, 32, code_dim=code_dim).double()
    assert not has_batch_statistics(generator)
    z = torch.randn(3, 5, dtype=torch.float64)
    codes = [torch.randn(3, code_dim, dtype=torch.float64)] if code_dim else []
    images = generator(z, *codes)
    alone = [generator(z[b : b + 1], *(code[b : b + 1] for code in codes)) for b in range(3)]
    torch.testing.assert_close(images, torch.cat(alone))
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.parameters())
