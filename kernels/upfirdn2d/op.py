"""The compiled upfirdn2d: shapes, and its derivative, which is another upfirdn2d."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realness.kernels.layout import dense_like
from realness.kernels.library import Operator

from .reference import output_size


def fake(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    correlate: bool,
    gain: float,
) -> Tensor:
    height, width = output_size(x.shape[2:], f.shape, up, down, padding)
    return dense_like(x, (x.shape[0], x.shape[1], height, width))


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *ctx.parameters = inputs
    ctx.in_shape, ctx.out_shape = x.shape, output.shape
    ctx.save_for_backward(f)


def backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    up, down, padding, correlate, gain = ctx.parameters
    sides = []
    for axis in (0, 1):  # x, y
        taps, before = f.shape[1 - axis], f.shape[1 - axis] - 1 - padding[2 * axis]
        size, upsampled = ctx.in_shape[3 - axis], ctx.out_shape[3 - axis] * down[axis]
        sides += [before, (size - 1) * up[axis] + taps - upsampled - before]
    return ops.upfirdn2d(grad, f, down, up, sides, not correlate, gain), *[None] * 6


OPERATORS = (
    Operator(
        "upfirdn2d(Tensor x, Tensor f, int[] up, int[] down, int[] padding, bool correlate,"
        " float gain) -> Tensor",
        fake,
        save,
        backward,
    ),
)
