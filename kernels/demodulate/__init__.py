"""StyleGAN2's weight demodulation, without the modulated weights."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import check_floating
from realness.kernels.library import select

from . import reference


def demodulate(weight: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """1 / sqrt(sum over i, k of (style[b, i] * weight[o, i, k])^2 + eps) for every b, o.

    weight: [O, I, kh, kw] or [O, I]; style: [B, I], of one dtype. Returns [B, O] in float32
    (float64 for float64 input). Twice differentiable in both.
    Raises ValueError for other shapes or dtypes, mixed devices, or eps < 0.
    Traffic: weight and style once, B * O values out; backward: the weight in, its gradient out.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), eq. 3.
    """
    check_floating(weight=weight, style=style)
    if weight.dim() not in (2, 4):
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected [O, I, kh, kw]")
    if style.dim() != 2 or style.shape[1] != weight.shape[1]:
        raise ValueError(
            f"style has shape {tuple(style.shape)}; expected [batch, {weight.shape[1]}]"
        )
    if style.dtype != weight.dtype:
        raise ValueError(f"style is {style.dtype}, weight is {weight.dtype}; convert one of them")
    if not eps >= 0:
        raise ValueError(f"eps={eps}; expected a number >= 0")
    ops = select(weight, compiled_on_cpu=False)
    if ops is None:
        return reference.demodulate(weight, style, eps)
    return ops.demodulate(weight, style, eps)[0]
