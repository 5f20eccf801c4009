"""The compiled realness_emd: shapes and its first derivative."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.library import Operator


def fake(logits: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    row = logits.new_empty(logits.shape[0], dtype=accumulation_dtype(logits.dtype))
    return row, row.new_empty((len(row), 2))


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def backward(ops: Any, ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
    return ops.realness_emd_backward(grad, *ctx.saved_tensors), None


def fake_backward(grad: Tensor, logits: Tensor, anchor: Tensor, normalizer: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


OPERATORS = (
    Operator(
        "realness_emd(Tensor logits, Tensor anchor) -> (Tensor, Tensor)", fake, save, backward
    ),
    Operator(
        "realness_emd_backward(Tensor grad, Tensor logits, Tensor anchor, Tensor normalizer)"
        " -> Tensor",
        fake_backward,
    ),
)
