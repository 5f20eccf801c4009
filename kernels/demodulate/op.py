"""The compiled demodulate: shapes and derivatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.layout import dense_like
from realness.kernels.library import Operator, differentiate, mark_internal


def fake(weight: Tensor, style: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(weight.dtype)
    coefficient = weight.new_empty((style.shape[0], weight.shape[0]), dtype=dtype)
    return coefficient, weight.new_empty(weight.shape[:2], dtype=dtype)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    weight, style, ctx.eps = inputs
    mark_internal(ctx, output[1])
    ctx.save_for_backward(weight, style, *output)


def backward(ops: Any, ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return (*ops.demodulate_backward(grad, *ctx.saved_tensors, ctx.eps), None)


def fake_backward(grad: Tensor, weight: Tensor, style: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return dense_like(weight), style.new_empty(style.shape)


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.eps = inputs[5]


def backward_backward(ops: Any, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    def gradient(grad: Tensor, weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """The formulas of DemodulateWeightGrad and DemodulateStyleGrad, from the inputs alone."""
        w, s = weight.to(grad.dtype), style.to(grad.dtype)
        energy = w.square().reshape(*w.shape[:2], -1).sum(2)
        pull = -0.5 * grad * (s.square() @ energy.t() + ctx.eps).rsqrt() ** 3
        per_channel = (pull.t() @ s.square()).reshape(*energy.shape, *[1] * (w.dim() - 2))
        return (2 * w * per_channel).to(weight.dtype), (2 * s * (pull @ energy)).to(style.dtype)

    return (*differentiate(gradient, ctx.saved_tensors, grads), None, None, None)


OPERATORS = (
    Operator(
        "demodulate(Tensor weight, Tensor style, float eps) -> (Tensor, Tensor)",
        fake,
        save,
        backward,
    ),
    Operator(
        "demodulate_backward(Tensor grad, Tensor weight, Tensor style, Tensor coefficient,"
        " Tensor energy, float eps) -> (Tensor, Tensor)",
        fake_backward,
        save_backward,
        backward_backward,
    ),
)
