"""The compiled per-sample inner product and scaling; each is the other's derivative."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.layout import dense_like
from realness.kernels.library import Operator


def fake_dot(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], dtype=accumulation_dtype(x.dtype))


def save_dot(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y = inputs
    ctx.same = x is y
    ctx.save_for_backward(x, y)


def backward_dot(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, y = ctx.saved_tensors
    if ctx.same:  # the squared norm: both halves in one pass
        return ops.scale_samples(x, 2 * grad), None
    grad_x = ops.scale_samples(y, grad) if ctx.needs_input_grad[0] else None
    grad_y = ops.scale_samples(x, grad) if ctx.needs_input_grad[1] else None
    return grad_x, grad_y


def fake_scale(x: Tensor, scale: Tensor) -> Tensor:
    return dense_like(x)


def save_scale(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def backward_scale(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, scale = ctx.saved_tensors
    grad_x = ops.scale_samples(grad, scale) if ctx.needs_input_grad[0] else None
    grad_scale = ops.sample_dot(grad, x) if ctx.needs_input_grad[1] else None
    return grad_x, grad_scale


OPERATORS = (
    Operator("sample_dot(Tensor x, Tensor y) -> Tensor", fake_dot, save_dot, backward_dot),
    Operator(
        "scale_samples(Tensor x, Tensor scale) -> Tensor", fake_scale, save_scale, backward_scale
    ),
)
