"""Power iteration and spectral scaling, layer by layer, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def spectral_norm_step(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], eps: float = 1e-12
) -> None:
    """See `realness.kernels.spectral_norm_step`."""
    with torch.no_grad():
        for weight, left, right in zip(weights, u, v, strict=True):
            matrix = weight.flatten(1).to(left.dtype)
            right.copy_(F.normalize(matrix.t() @ left, dim=0, eps=eps))
            left.copy_(F.normalize(matrix @ right, dim=0, eps=eps))


def spectral_scale(weights: list[Tensor], u: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    """See `realness.kernels.spectral_scale`."""
    scaled = []
    for weight, left, right in zip(weights, u, v, strict=True):
        wide = weight.to(accumulation_dtype(weight.dtype))
        sigma = torch.dot(left.detach().to(wide.dtype), wide.flatten(1) @ right.detach().to(wide))
        scaled.append((wide / sigma).to(weight.dtype))
    return scaled
