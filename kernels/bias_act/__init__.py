"""Bias, activation, gain and clamp in one pass over the activations."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from realness.kernels.checks import accumulation_dtype, check_floating
from realness.kernels.library import select

from . import reference

Activation = Literal["linear", "relu", "lrelu", "sigmoid", "tanh", "softplus"]


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: Activation = "linear",
    *,
    slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + bias)), with the bias along dimension 1.

    x: [B, C] or [B, C, ...], contiguous or channels_last (other strides are copied first);
    bias: [C] in any floating dtype, or None; slope is lrelu's; |y| <= clamp.
    Returns the shape, dtype and layout of x; computed in float32 (float64 for float64).
    Twice differentiable in x and bias. Raises ValueError for an unknown activation, other shapes
    or dtypes, mixed devices, or a clamp that is not positive.
    Traffic: x in, y out; backward: gradient and x in, gradient out.
    """
    check_floating(x=x, bias=bias)
    if act not in reference.ACTIVATIONS:
        raise ValueError(f"act={act!r}; expected one of {', '.join(reference.ACTIVATIONS)}")
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [batch, channels, ...]")
    if bias is not None and bias.shape != x.shape[1:2]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; expected [{x.shape[1]}]")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp={clamp}; expected a positive number or None")
    ops = select(x)
    if ops is None:
        return reference.bias_act(x, bias, act, slope, gain, clamp)
    number = list(reference.ACTIVATIONS).index(act)
    bias = None if bias is None else bias.to(accumulation_dtype(x.dtype))
    return ops.bias_act(x, bias, number, slope, gain, math.inf if clamp is None else clamp)
