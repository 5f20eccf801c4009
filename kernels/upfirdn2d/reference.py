"""Pad, upsample, filter and downsample in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """See `realness.kernels.upfirdn2d`; here every argument is already normalised."""
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    y = x.to(dtype).reshape(batch * channels, 1, height, 1, width, 1)
    y = F.pad(y, (0, up[0] - 1, 0, 0, 0, up[1] - 1)).reshape(
        batch * channels, 1, height * up[1], width * up[0]
    )
    y = F.pad(y, padding)
    kernel = f.to(dtype) * gain
    if f.dim() == 1:
        kernel = torch.outer(f.to(dtype), kernel)
    if not flip:  # conv2d correlates
        kernel = kernel.flip((0, 1))
    y = F.conv2d(y, kernel[None, None], stride=(down[1], down[0]))
    return y.reshape(batch, channels, *y.shape[2:]).to(x.dtype)
