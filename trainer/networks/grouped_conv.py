"""Grouped 3x3 convolutions with derivatives of any order that stay grouped.

PyTorch differentiates the derivative of a grouped convolution with one small convolution per group:
96 of them, and a concatenation, for each of R3GAN's convolutions in every update with R1. But the
derivatives of a convolution are of the same family. With <y, x * w> = T(x, w, y), linear in each
factor,

    dT/dy = x * w,  the convolution,
    dT/dx,          the gradient of its input for the gradient y,
    dT/dw,          the gradient of its weight for the gradient y.

The derivative of each, in either of its two factors, is one of the three again.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_SIZE = 3
PADDING = 1

Factor = Literal[0, 1, 2]
"""x, w or y."""


def grouped_conv3x3(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Convolution of the same size: x [B, in, H, W] -> [B, out, H, W], in the dtype of x.

    weight: [out, in / groups, 3, 3], cast to the dtype of x. Differentiable in both to any order,
    always with `groups` groups in one call.
    """
    weight = weight.to(x.dtype)
    # A graph that torch.compile or torch.export makes is differentiated at most once.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, padding=PADDING, groups=groups)
    # A view, because autograd cannot tell whether it needs the gradient of a leaf.
    return _Missing.apply(2, groups, x, weight.view_as(weight), None)  # type: ignore[return-value]


class _Missing(torch.autograd.Function):
    """The derivative of T(x, w, y) in one factor, which is ignored but for the shape of x or w."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, missing: Factor, groups: int, *factors: Tensor | None
    ) -> Tensor:
        ctx.missing, ctx.groups = missing, groups
        ctx.save_for_backward(
            *(None if place == missing else factor for place, factor in enumerate(factors))
        )
        x, w, y = factors
        if missing == 2:
            return F.conv2d(x, w, padding=PADDING, groups=groups)  # type: ignore[arg-type]
        pair = [PADDING, PADDING]
        wanted = [missing == 0, missing == 1, False]
        settings = [1, 1], pair, [1, 1], False, [0, 0], groups
        gradients = torch.ops.aten.convolution_backward(y, x, w, None, *settings, wanted)
        return gradients[missing]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        factors = [grad if factor is None else factor for factor in ctx.saved_tensors]
        gradients: list[Tensor | None] = [None, None, None]
        for place in range(3):
            wanted = place != ctx.missing and ctx.needs_input_grad[2 + place]
            if wanted and (place != 1 or _needed(ctx.next_functions[1][0])):
                gradients[place] = _Missing.apply(place, ctx.groups, *factors)  # type: ignore[assignment]
        return None, None, *gradients


def _needed(node: Any) -> bool:
    """Whether the backward pass under way continues to this node: it does not to the weights when
    only the gradient of images is computed, for a penalty."""
    return torch._C._will_engine_execute_node(node)
