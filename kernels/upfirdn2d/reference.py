"""Pad, upsample, filter and downsample in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.kernels.checks import accumulation_dtype


def output_size(
    shape: Sequence[int],
    taps: Sequence[int],
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int]:
    """The (height, width) of the result for an input of (height, width)."""
    height = shape[0] * up[1] + padding[2] + padding[3] - taps[0]
    width = shape[1] * up[0] + padding[0] + padding[1] - taps[1]
    if height < 0 or width < 0:
        raise ValueError(
            f"an image of {shape[0]}x{shape[1]} with up={tuple(up)} and padding={tuple(padding)} "
            f"is smaller than the {taps[0]}x{taps[1]} filter; pad more or use a smaller filter"
        )
    return height // down[1] + 1, width // down[0] + 1


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """See `realness.kernels.upfirdn2d`; all arguments are already normalised."""
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
