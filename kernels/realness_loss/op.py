"""The compiled objectives: shapes, and the derivative, which the forward pass has stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.library import Operator, mark_internal


def wide(logits: Tensor, *shape: int) -> Tensor:
    return logits.new_empty(shape, dtype=accumulation_dtype(logits.dtype))


def fake_d(logits_real: Tensor, logits_fake: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        wide(logits_fake),
        wide(logits_real, *logits_real.shape),
        wide(logits_fake, *logits_fake.shape),
    )


def save_d(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    mark_internal(ctx, *output[1:])
    ctx.save_for_backward(*inputs[:2], *output[1:])


def backward_d(ops: Any, ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    real, fake, unit_real, unit_fake = ctx.saved_tensors
    gradients = ops.realness_loss_backward(grad, [unit_real, unit_fake], [real, fake])
    return (*gradients, *[None] * 5)


def fake_g(logits_fake: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return wide(logits_fake), wide(logits_fake, *logits_fake.shape)


def save_g(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    mark_internal(ctx, output[1])
    ctx.save_for_backward(inputs[0], output[1])


def backward_g(ops: Any, ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    fake, unit_fake = ctx.saved_tensors
    (gradient,) = ops.realness_loss_backward(grad, [unit_fake], [fake])
    return (gradient, *[None] * 7)


def fake_backward(grad: Tensor, unit_gradients: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in logits]


OPERATORS = (
    Operator(
        "realness_d_loss(Tensor logits_real, Tensor logits_fake, Tensor anchor_real,"
        " Tensor anchor_fake, Tensor? noise_real, Tensor? noise_fake, int[] keys)"
        " -> (Tensor, Tensor, Tensor)",
        fake_d,
        save_d,
        backward_d,
    ),
    Operator(
        "realness_g_loss(Tensor logits_fake, Tensor? logits_real, Tensor anchor_real,"
        " Tensor anchor_fake, Tensor? noise_fake, Tensor? noise_real, int objective, int[] keys)"
        " -> (Tensor, Tensor)",
        fake_g,
        save_g,
        backward_g,
    ),
    Operator(
        "realness_loss_backward(Tensor grad, Tensor[] unit_gradients, Tensor[] logits) -> Tensor[]",
        fake_backward,
    ),
)
