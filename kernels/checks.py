"""Input checks of the public functions; messages name the problem, the value and the remedy."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_OUTCOMES = 1024


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and losses: float64 for float64 input, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_floating(**tensors: Tensor | None) -> None:
    """Check that all are floating-point tensors of a supported dtype, on one device."""
    device = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
        if tensor.dtype not in FLOATING_DTYPES:
            raise ValueError(
                f"{name} has dtype {tensor.dtype}; expected float32, float64, bfloat16 or float16"
            )
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device} but the first tensor is on {device}; "
                "move all of them to one device"
            )


def check_logits(name: str, logits: Tensor) -> None:
    """Check that `logits` is [B, N] with 1 <= N <= MAX_OUTCOMES."""
    if logits.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(logits.shape)}; expected [batch, outcomes]")
    if not 1 <= logits.shape[1] <= MAX_OUTCOMES:
        raise ValueError(
            f"{name} has {logits.shape[1]} outcomes; expected between 1 and {MAX_OUTCOMES}"
        )


def check_anchor(name: str, anchor: Tensor, logits: Tensor) -> None:
    """Check that `anchor` is a constant [N], or [B, N] like `logits`."""
    if anchor.shape not in (logits.shape[1:], logits.shape):
        raise ValueError(
            f"{name} has shape {tuple(anchor.shape)}; expected [{logits.shape[1]}] or "
            f"{list(logits.shape)} to match the logits"
        )
    if anchor.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, but anchors are constants: detach it, "
            "or use realness_divergence for a learned target"
        )


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that both shapes are equal."""
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, {other_name} has {tuple(other.shape)}; "
            "expected equal shapes"
        )
