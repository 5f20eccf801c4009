"""The compiled warp: shapes, and its derivative, the transposed operator; each is the other's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.layout import dense_like
from realness.kernels.library import Operator


def fake(images: Tensor, *_: Any) -> Tensor:
    return dense_like(images)


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])


def backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return ops.warp_backward(grad, *ctx.saved_tensors), *[None] * 3


def backward_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return ops.warp(grad, *ctx.saved_tensors, True), *[None] * 2


OPERATORS = (
    Operator(
        "warp(Tensor images, Tensor inverse, Tensor? color, bool linear) -> Tensor",
        fake,
        save,
        backward,
    ),
    Operator(
        "warp_backward(Tensor grad, Tensor inverse, Tensor? color) -> Tensor",
        fake,
        save,
        backward_backward,
    ),
)
