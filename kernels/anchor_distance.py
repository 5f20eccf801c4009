"""Common part of the operators that compute a distance between rows of logits and an anchor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .checks import accumulation_dtype, check_anchor, check_floating, check_logits
from .library import Operator, mark_internal, select


def distance(name: str, reference: Callable[..., Tensor], logits: Tensor, anchor: Tensor) -> Tensor:
    """Checks the arguments and calls the compiled operator `name`, or the reference."""
    check_floating(logits=logits, anchor=anchor)
    check_logits("logits", logits)
    check_anchor("anchor", anchor, logits)
    ops = select(logits)
    if ops is None:
        return reference(logits, anchor)
    return getattr(ops, name)(logits, anchor.to(accumulation_dtype(logits.dtype)))[0]


def fake(logits: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    row = logits.new_empty(logits.shape[0], dtype=accumulation_dtype(logits.dtype))
    return row, row.new_empty((len(row), 2))


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    mark_internal(ctx, output[1])
    ctx.save_for_backward(*inputs, output[1])


def fake_backward(grad: Tensor, logits: Tensor, anchor: Tensor, normalizer: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def operators(
    name: str,
    save_backward: Callable[..., None] | None = None,
    backward_backward: Callable[..., Any] | None = None,
) -> tuple[Operator, Operator]:
    """The forward operator `name` and its backward, which may be differentiable too."""

    def backward(ops: Any, ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        return getattr(ops, f"{name}_backward")(grad, *ctx.saved_tensors), None

    return (
        Operator(f"{name}(Tensor logits, Tensor anchor) -> (Tensor, Tensor)", fake, save, backward),
        Operator(
            f"{name}_backward(Tensor grad, Tensor logits, Tensor anchor, Tensor normalizer)"
            " -> Tensor",
            fake_backward,
            save_backward,
            backward_backward,
        ),
    )
