"""Pad, upsample, FIR-filter and downsample a batch of images in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype, check_floating
from realness.kernels.library import select

from . import reference

MAX_TAPS = 64
MAX_TAPS_AT_ONCE = 8  # longer separable filters take one pass per axis


def as_pair(name: str, factor: int | tuple[int, int]) -> tuple[int, int]:
    """The (x, y) factors, each at least 1."""
    pair = (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])
    if min(pair) < 1:
        raise ValueError(f"{name}={factor}; expected at least 1")
    return pair


def as_padding(padding: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    """Expand one number, (x, y) or all four to (left, right, top, bottom)."""
    if isinstance(padding, int):
        return (padding, padding, padding, padding)
    if len(padding) == 2:
        return (padding[0], padding[0], padding[1], padding[1])
    if len(padding) != 4:
        raise ValueError(f"padding={padding}; expected 1, 2 or 4 numbers")
    return (padding[0], padding[1], padding[2], padding[3])


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    *,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    padding: int | tuple[int, ...] = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert up-1 zeros after every pixel, pad, convolve with f * gain, keep every down-th pixel.

    x: [B, C, H, W], contiguous or channels_last (other strides are copied first); f: [kh, kw], or
    [k] for the separable filter outer(f, f), a constant of at most 64 taps per side; up, down: a
    factor or (x, y); padding: a number, (x, y) or (left, right, top, bottom), negative to crop;
    flip: correlate instead of convolving. Returns [B, C, H', W'] in the dtype and layout of x, with
    H' = (H * up + top + bottom - kh) // down + 1. Differentiable in x to any order.
    Raises ValueError for other shapes or dtypes, mixed devices, factors below 1, or a filter larger
    than the padded image. Traffic: x in, y out; backward: the same for the gradients.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), app. B.
    """
    check_floating(x=x, f=f)
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [batch, channels, height, width]")
    if f.dim() not in (1, 2) or not all(1 <= taps <= MAX_TAPS for taps in f.shape):
        raise ValueError(
            f"f has shape {tuple(f.shape)}; expected [k] or [kh, kw] with 1 to {MAX_TAPS} taps"
        )
    if f.requires_grad:
        raise ValueError("f requires a gradient, but the filter is a constant: detach it")
    factors = as_pair("up", up), as_pair("down", down)
    sides = as_padding(padding)
    reference.output_size(x.shape[2:], (f.shape[0], f.shape[-1]), *factors, sides)
    ops = select(x)
    if ops is None:
        return reference.upfirdn2d(x, f, *factors, sides, flip, gain)
    f = f.to(accumulation_dtype(x.dtype))
    if f.dim() == 2:
        return ops.upfirdn2d(x, f, *factors, sides, flip, gain)
    if len(f) <= MAX_TAPS_AT_ONCE:
        return ops.upfirdn2d(x, torch.outer(f, f), *factors, sides, flip, gain)
    (up_x, up_y), (down_x, down_y) = factors
    y = ops.upfirdn2d(x, f[None], (up_x, 1), (down_x, 1), (*sides[:2], 0, 0), flip, gain)
    return ops.upfirdn2d(y, f[:, None], (1, up_y), (1, down_y), (0, 0, *sides[2:]), flip, 1.0)
