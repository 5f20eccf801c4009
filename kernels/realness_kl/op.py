"""The compiled realness_kl: shapes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.library import Operator, differentiate


def fake(logits: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    row = logits.new_empty(logits.shape[0], dtype=accumulation_dtype(logits.dtype))
    return row, row.new_empty((len(row), 2))


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, anchor = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, anchor, output[1])


def backward(ops: Any, ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
    logits, anchor, normalizer = ctx.saved_tensors
    return ops.realness_kl_backward(grad, logits, anchor, normalizer), None


def fake_backward(grad: Tensor, logits: Tensor, anchor: Tensor, normalizer: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def gradient(grad: Tensor, logits: Tensor, anchor: Tensor) -> Tensor:
    """grad (sum(anchor) softmax(logits) - anchor), the formula of KlBackward."""
    q = torch.softmax(logits.to(grad.dtype), dim=1)
    return (grad[:, None] * (anchor.sum(-1, keepdim=True) * q - anchor)).to(logits.dtype)


def backward_backward(ops: Any, ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*differentiate(gradient, ctx.saved_tensors, [grad_grad]), None)


OPERATORS = (
    Operator("realness_kl(Tensor logits, Tensor anchor) -> (Tensor, Tensor)", fake, save, backward),
    Operator(
        "realness_kl_backward(Tensor grad, Tensor logits, Tensor anchor, Tensor normalizer)"
        " -> Tensor",
        fake_backward,
        save_backward,
        backward_backward,
    ),
)
