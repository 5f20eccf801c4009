"""The compiled spectral normalisation: shapes and the first derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realness.kernels.library import Operator


def fake_step(weights: list[Tensor], u: list[Tensor], v: list[Tensor], eps: float) -> None:
    return None


def fake_scale(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    scaled = [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights]
    return scaled, u[0].new_empty(len(weights))


def save_scale(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor]) -> None:
    weights, u, v = inputs
    ctx.num_layers = len(weights)
    ctx.save_for_backward(*weights, *u, *v, output[1])


def backward_scale(ops: Any, ctx: Any, grads: list[Tensor], _: Any) -> tuple[Any, None, None]:
    n = ctx.num_layers
    *tensors, sigma = ctx.saved_tensors
    weights, u, v = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
    return ops.spectral_scale_backward(list(grads), weights, u, v, sigma), [None] * n, [None] * n


def fake_scale_backward(
    grads: list[Tensor], weights: list[Tensor], u: list[Tensor], v: list[Tensor], sigma: Tensor
) -> list[Tensor]:
    return [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights]


OPERATORS = (
    Operator(
        "spectral_norm_step(Tensor[] weights, Tensor(a!)[] u, Tensor(b!)[] v, float eps) -> ()",
        fake_step,
    ),
    Operator(
        "spectral_scale(Tensor[] weights, Tensor[] u, Tensor[] v) -> (Tensor[], Tensor)",
        fake_scale,
        save_scale,
        backward_scale,
    ),
    Operator(
        "spectral_scale_backward(Tensor[] grads, Tensor[] weights, Tensor[] u, Tensor[] v,"
        " Tensor sigma) -> Tensor[]",
        fake_scale_backward,
    ),
)
