"""The compiled realness_kl: shapes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realness.kernels.anchor_distance import operators
from realness.kernels.library import differentiate


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def gradient(grad: Tensor, logits: Tensor, anchor: Tensor) -> Tensor:
    """grad (sum(anchor) softmax(logits) - anchor), the formula of KlBackward."""
    q = torch.softmax(logits.to(grad.dtype), dim=1)
    return (grad[:, None] * (anchor.sum(-1, keepdim=True) * q - anchor)).to(logits.dtype)


def backward_backward(ops: Any, ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*differentiate(gradient, ctx.saved_tensors, [grad_grad]), None)


OPERATORS = operators("realness_kl", save_backward, backward_backward)
