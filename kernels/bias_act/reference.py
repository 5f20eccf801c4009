"""Bias, activation, gain and clamp in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.kernels.checks import accumulation_dtype

# The position is the number by which the compiled kernels identify an activation.
ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda x, slope: x,
    "relu": lambda x, slope: F.relu(x),
    "lrelu": lambda x, slope: F.leaky_relu(x, slope),
    "sigmoid": lambda x, slope: torch.sigmoid(x),
    "tanh": lambda x, slope: torch.tanh(x),
    "softplus": lambda x, slope: F.softplus(x),
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "linear",
    slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """See `realness.kernels.bias_act`."""
    y = x.to(accumulation_dtype(x.dtype))
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * (x.dim() - 2))
    y = ACTIVATIONS[act](y, slope)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y.to(x.dtype)
