"""The compiled bias_act: shapes and derivatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.layout import dense_like
from realness.kernels.library import Operator

from .reference import ACTIVATIONS

CURVED = {list(ACTIVATIONS).index(name) for name in ("sigmoid", "tanh", "softplus")}


def sum_to_bias(ctx: Any, position: int, grad: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """The bias gradient, from the gradient of the sum x + bias."""
    if grad is None or bias is None or not ctx.needs_input_grad[position]:
        return None
    return grad.sum([d for d in range(grad.dim()) if d != 1], dtype=bias.dtype)


def fake(x: Tensor, bias: Tensor | None, *parameters: Any) -> Tensor:
    return dense_like(x)


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, *ctx.parameters = inputs
    ctx.save_for_backward(x, bias)


def backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias = ctx.saved_tensors
    grad_x = ops.bias_act_grad(grad, x, bias, *ctx.parameters)
    return grad_x, sum_to_bias(ctx, 1, grad_x, bias), None, None, None, None


def fake_grad(grad: Tensor, x: Tensor, bias: Tensor | None, *parameters: Any) -> Tensor:
    return dense_like(x)


def save_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, bias, *ctx.parameters = inputs
    ctx.save_for_backward(grad, x, bias)


def backward_grad(ops: Any, ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    grad, x, bias = ctx.saved_tensors
    to_grad = ops.bias_act_grad(grad_grad, x, bias, *ctx.parameters)
    to_x = None
    if ctx.parameters[0] in CURVED and any(ctx.needs_input_grad[1:3]):
        to_x = ops.bias_act_grad_grad(grad_grad, grad, x, bias, *ctx.parameters)
    return to_grad, to_x, sum_to_bias(ctx, 2, to_x, bias), None, None, None, None


def fake_grad_grad(
    grad_grad: Tensor, grad: Tensor, x: Tensor, bias: Tensor | None, *parameters: Any
) -> Tensor:
    return dense_like(x)


PARAMETERS = "Tensor? bias, int activation, float slope, float gain, float clamp) -> Tensor"

OPERATORS = (
    Operator(f"bias_act(Tensor x, {PARAMETERS}", fake, save, backward),
    Operator(
        f"bias_act_grad(Tensor grad, Tensor x, {PARAMETERS}", fake_grad, save_grad, backward_grad
    ),
    Operator(
        f"bias_act_grad_grad(Tensor grad_grad, Tensor grad, Tensor x, {PARAMETERS}", fake_grad_grad
    ),
)
