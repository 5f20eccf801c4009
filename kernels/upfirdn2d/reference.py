"""Pad, upsample, filter and downsample in plain PyTorch: a convolution with a group per channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.layout import format_of


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
    """See `realness.kernels.upfirdn2d`; all arguments are already normalised.

    Without upsampling the filter is rounded to the dtype of x, as convolutions want it. Upsampling
    runs in float32: transposed convolutions in bfloat16 are several times slower on a CPU.
    """
    f = f.to(accumulation_dtype(x.dtype))
    kernel = (torch.outer(f, f) if f.dim() == 1 else f) * gain
    if not flip:  # conv2d correlates
        kernel = kernel.flip((0, 1))
    if tuple(up) == (1, 1):
        y = filtered(x, kernel.to(x.dtype), down, padding)
    else:
        y = interpolated(x.to(kernel.dtype), kernel, up, down, padding).to(x.dtype)
    return y.contiguous(memory_format=format_of(x))


def per_channel(kernel: Tensor, channels: int) -> Tensor:
    """The weight [C, 1, kh, kw] of a convolution with a group per channel."""
    return kernel.expand(channels, 1, -1, -1)


def filtered(
    x: Tensor, kernel: Tensor, down: tuple[int, int], padding: tuple[int, int, int, int]
) -> Tensor:
    """A convolution with stride `down`."""
    left, right, top, bottom = padding
    sides = (top, left)
    if left != right or top != bottom or min(sides) < 0:  # not what conv2d can do by itself
        x, sides = F.pad(x, padding), (0, 0)
    channels = x.shape[1]
    weight = per_channel(kernel, channels)
    return F.conv2d(x, weight, stride=(down[1], down[0]), padding=sides, groups=channels)


def interpolated(
    x: Tensor,
    kernel: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Tensor:
    """A transposed convolution with stride `up`, which skips the zeros between the pixels."""
    channels, (height, width) = x.shape[1], kernel.shape
    weight = per_channel(kernel.flip((0, 1)), channels)
    y = F.conv_transpose2d(x, weight, stride=(up[1], up[0]), groups=channels)
    # It reaches taps - 1 pixels beyond the image on both sides, without the last up - 1 zeros.
    left, right, top, bottom = padding
    right, bottom = right + up[0] - 1, bottom + up[1] - 1
    y = F.pad(y, (left - width + 1, right - width + 1, top - height + 1, bottom - height + 1))
    return y[:, :, :: down[1], :: down[0]]
