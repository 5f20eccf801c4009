"""The compiled halves of feature resampling: shapes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype
from realness.kernels.library import Operator, differentiate


def fake_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    mean = logits.new_empty(logits.shape[1], dtype=accumulation_dtype(logits.dtype))
    return mean, torch.empty_like(mean)


def save_moments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def backward_moments(ops: Any, ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
    return ops.logit_moments_backward(grad_mean, grad_variance, *ctx.saved_tensors)


def fake_moments_backward(
    grad_mean: Tensor, grad_variance: Tensor, logits: Tensor, mean: Tensor
) -> Tensor:
    return logits.new_empty(logits.shape)


def save_moments_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def moments_gradient(grad_mean: Tensor, grad_variance: Tensor, logits: Tensor) -> Tensor:
    """The formula of MomentsBackward, as a function of the logits alone."""
    wide = logits.to(grad_mean.dtype)
    centred = wide - wide.mean(0)
    return ((grad_mean + 2 * centred * grad_variance) / len(wide)).to(logits.dtype)


def backward_moments_backward(ops: Any, ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*differentiate(moments_gradient, ctx.saved_tensors, [grad_grad]), None)


def fake_resample(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    return noise.new_empty(noise.shape)


def save_resample(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def backward_resample(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    variance, noise = ctx.saved_tensors
    grad_noise = grad * variance.sqrt() if ctx.needs_input_grad[2] else None
    return (*ops.resample_from_moments_backward(grad, variance, noise), grad_noise)


def fake_resample_backward(grad: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return noise.new_empty(noise.shape[1]), noise.new_empty(noise.shape[1])


def save_resample_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def resample_gradient(grad: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of ResampleBackward."""
    constant = variance == 0
    rate = torch.where(constant, 0.0, 0.5 * torch.where(constant, 1.0, variance).rsqrt())
    return grad.sum(0), (grad * noise).sum(0) * rate


def backward_resample_backward(ops: Any, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(differentiate(resample_gradient, ctx.saved_tensors, grads))


OPERATORS = (
    Operator(
        "logit_moments(Tensor logits) -> (Tensor, Tensor)",
        fake_moments,
        save_moments,
        backward_moments,
    ),
    Operator(
        "logit_moments_backward(Tensor grad_mean, Tensor grad_variance, Tensor logits, Tensor mean)"
        " -> Tensor",
        fake_moments_backward,
        save_moments_backward,
        backward_moments_backward,
    ),
    Operator(
        "resample_from_moments(Tensor mean, Tensor variance, Tensor noise) -> Tensor",
        fake_resample,
        save_resample,
        backward_resample,
    ),
    Operator(
        "resample_from_moments_backward(Tensor grad, Tensor variance, Tensor noise)"
        " -> (Tensor, Tensor)",
        fake_resample_backward,
        save_resample_backward,
        backward_resample_backward,
    ),
)
