"""StyleGAN2's demodulation coefficients in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def demodulate(weight: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """See `realness.kernels.demodulate`."""
    dtype = accumulation_dtype(weight.dtype)
    energy = weight.to(dtype).square().reshape(*weight.shape[:2], -1).sum(2)  # [O, I]
    return (style.to(dtype).square() @ energy.t() + eps).rsqrt()
