"""The compiled realness_divergence: shapes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.library import Operator, differentiate, mark_internal


def fake(logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    row = logits_p.new_empty(logits_p.shape[0], dtype=accumulation_dtype(logits_p.dtype))
    return row, row.new_empty((len(row), 2)), row.new_empty((len(row), 2))


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    mark_internal(ctx, *output[1:])
    ctx.save_for_backward(*inputs, *output)


def backward(ops: Any, ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return ops.realness_divergence_backward(grad, *ctx.saved_tensors)


def fake_backward(
    grad: Tensor, logits_p: Tensor, logits_q: Tensor, divergence: Tensor, *normalizers: Tensor
) -> tuple[Tensor, Tensor]:
    return logits_p.new_empty(logits_p.shape), logits_p.new_empty(logits_p.shape)


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def gradient(grad: Tensor, logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of DivergenceBackward, as a function of the logits alone."""
    log_p = torch.log_softmax(logits_p.to(grad.dtype), dim=1)
    log_q = torch.log_softmax(logits_q.to(grad.dtype), dim=1)
    p, q = log_p.exp(), log_q.exp()
    log_ratio = torch.where(p == 0, 0.0, log_p - log_q)
    grad = grad[:, None]
    pull = p * (log_ratio - (p * log_ratio).sum(1, keepdim=True))
    return (grad * pull).to(logits_p.dtype), (grad * (q - p)).to(logits_q.dtype)


def backward_backward(ops: Any, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return (*differentiate(gradient, ctx.saved_tensors, grads), None, None, None)


OPERATORS = (
    Operator(
        "realness_divergence(Tensor logits_p, Tensor logits_q) -> (Tensor, Tensor, Tensor)",
        fake,
        save,
        backward,
    ),
    Operator(
        "realness_divergence_backward(Tensor grad, Tensor logits_p, Tensor logits_q,"
        " Tensor divergence, Tensor normalizer_p, Tensor normalizer_q) -> (Tensor, Tensor)",
        fake_backward,
        save_backward,
        backward_backward,
    ),
)
