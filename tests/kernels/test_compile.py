"""torch.compile with inductor, its default: all training ops in one graph, to first order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from realness import kernels

pytestmark = pytest.mark.slow
BATCH, OUTCOMES = 6, 51


def losses(z: Tensor, other: Tensor, target: Tensor, index: Tensor) -> Tensor:
    """Every op on logits, summed with different weights."""
    noise = kernels.philox_normal(3, 1, index, OUTCOMES)
    rows = (
        kernels.realness_kl(z, target)
        + 2 * kernels.realness_divergence(z, other)
        + 3 * kernels.realness_emd(other, target)
        + 4 * kernels.realness_kl(kernels.resample_logits(z, noise), target)
    )
    total = rows.sum() + 5 * kernels.realness_d_loss(z, other, target, target)
    total = total + 6 * kernels.realness_d_loss(z, other, target, target, noise, noise)
    for objective in (1, 2, 3):
        total = total + objective * kernels.realness_g_loss(
            other, z, target, target, noise, noise, objective=objective
        )
    return total


def images(x: Tensor, bias: Tensor, taps: Tensor, matrices: Tensor, colors: Tensor) -> Tensor:
    """Activation, resampling by 2 up and down and on a grid, and a sum over each sample."""
    y = kernels.bias_act(x, bias, "lrelu", gain=2**0.5, clamp=3.0)
    y = kernels.upfirdn2d(y, taps, up=2, padding=(2, 1), gain=4.0)
    y = kernels.warp(y, matrices, colors)
    y = torch.nn.functional.avg_pool2d(y, 2) + kernels.upfirdn2d(y, taps, down=2, padding=1)
    return kernels.squared_norm(y).sum()


def weights(w: Tensor, style: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Modulated and spectrally normalised weights; the power iteration works in place."""
    scale = kernels.demodulate(w, style)
    kernels.spectral_norm_step([w], [u], [v])
    (normalised,) = kernels.spectral_scale([w], [u], [v])
    return scale.square().sum() + normalised.sin().sum()


def inputs(device: torch.device) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The inputs of each function above."""
    torch.manual_seed(0)
    anchor = torch.randn(OUTCOMES).softmax(0)
    w, style = torch.randn(8, 3, 3, 3), torch.randn(BATCH, 3)
    u, v = torch.randn(8), torch.randn(27)
    parts = (
        [torch.randn(BATCH, OUTCOMES), torch.randn(BATCH, OUTCOMES), anchor, torch.arange(BATCH)],
        [
            *(torch.randn(2, 3, 8, 8), torch.randn(3), torch.tensor([0.125, 0.375, 0.375, 0.125])),
            *(torch.randn(2, 2, 3), torch.randn(2, 3, 4)),
        ],
        [w, style, u / u.norm(), v / v.norm()],
    )
    a, b, c = ([x.to(device) for x in part] for part in parts)
    for x in (a[0], a[1], b[0], b[1], c[0], c[1]):
        x.requires_grad_()
    return a, b, c


@pytest.mark.parametrize(
    "impl", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True
)
def test_inductor_agrees_with_eager(device: torch.device, impl: kernels.Impl) -> None:
    def every(parts: Sequence[list[Tensor]]) -> tuple[Tensor, ...]:
        return losses(*parts[0]), images(*parts[1]), weights(*parts[2])

    found = []
    for function in (every, torch.compile(every, fullgraph=True)):
        parts = inputs(device)
        with kernels.implementation(impl):
            values = function(parts)
        leaves = [x for part in parts for x in part if x.requires_grad]
        vectors = parts[2][2:]
        found.append([*values, *torch.autograd.grad(sum(values), leaves), *vectors])  # type: ignore[arg-type]
    assert len(found[0]) == 3 + 6 + 2
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
