"""The memory layouts that the kernels work in: contiguous and channels_last."""

from __future__ import annotations

import torch
from torch import Tensor


def format_of(x: Tensor) -> torch.memory_format:
    """channels_last for 4-D tensors that are channels_last and not also contiguous."""
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if channels_last and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def dense_like(x: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """An empty tensor with the dtype, device and layout of a kernel's output for input `x`."""
    shape = tuple(x.shape) if shape is None else shape
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=format_of(x))
