"""Penalties on the gradient of the discriminator's score with respect to its input.

All apply to points of one batch, [B, ...]: real images for R1, generated ones for R2, or points
between the two. R1 and R2 weight `zero_centered` by gamma/2, the interpolated forms by lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from realness import kernels

# Step size for pixels in [-1, 1]. With smaller steps fp32 rounding dominates the error, with larger
# ones the curvature does.
STEP = 2e-3


def gradient_squared_norm(score: Tensor, points: Tensor) -> Tensor:
    """||grad_x score(x)||^2 per sample, [B] fp32, which can be differentiated again.

    score: [B], where row b depends only on points[b]; points: [B, ...], which must require
    gradients before the forward pass.

    Raises:
        ValueError: if the shapes do not fit, or `points` does not require gradients.
    """
    if score.dim() != 1 or score.shape[0] != points.shape[0]:
        raise ValueError(
            f"score has shape {tuple(score.shape)}, expected [{points.shape[0]}], one per sample"
        )
    if not points.requires_grad:
        raise ValueError("points need requires_grad_() before D's forward pass for a penalty")
    (gradient,) = torch.autograd.grad(score.sum(), points, create_graph=True)
    return kernels.squared_norm(gradient)


def finite_difference_squared_norm(
    score_of: Callable[[Tensor], Tensor], points: Tensor, *, step: float = STEP
) -> Tensor:
    """||grad_x score(x)||^2 per sample, [B], whose gradient needs no second backward pass.

    score_of: points [B, ...] -> scores [B], row by row; points must require gradients. With g the
    gradient at x, u = g / ||g|| and theta the weights of D,

        d||g||^2 / d theta = 2 ||g|| d(u . g) / d theta,
        u . g = d score(x + h u) / dh  ~  (score(x + h u) - score(x - h u)) / 2h,

    with ||g|| and u constant: their own derivatives cancel, because u . u = 1. h moves pixels by
    `step` in the root mean square. The error is of order h^2 if the score is smooth along u. With
    rectifiers it is not: g is piecewise constant, and the difference includes jumps of g, which do
    not contribute to the derivative.
    """
    (gradient,) = torch.autograd.grad(score_of(points).sum(), points)
    squared_norm = gradient.flatten(1).square().sum(1)
    norm = squared_norm.sqrt()
    h = step * math.sqrt(gradient[0].numel())
    per_sample = (-1, *[1] * (points.dim() - 1))
    shift = gradient * (h / norm.clamp_min(torch.finfo(norm.dtype).tiny)).view(per_sample)
    start = points.detach()
    ahead, behind = score_of(torch.cat([start + shift, start - shift])).chunk(2)
    slope = (ahead - behind) / (2 * h)
    return squared_norm + 2 * norm * (slope - slope.detach())


def zero_centered(squared_norm: Tensor) -> Tensor:
    """||grad||^2, [B] -> [B].

    On real images this is R1 (Mescheder et al., "Which Training Methods for GANs do actually
    Converge?", ICML 2018, eq. 9), on generated ones R2, between the two 0GP-interpolation
    (Thanh-Tung et al., "Improving Generalization and Stability of Generative Adversarial Networks",
    ICLR 2019).
    """
    return squared_norm


def one_centered(squared_norm: Tensor) -> Tensor:
    """(||grad|| - 1)^2, [B] -> [B].

    WGAN-GP (Gulrajani et al., "Improved Training of Wasserstein GANs", NIPS 2017, eq. 3). If the
    gradient is 0, the norm has no derivative; the penalty is then 1 and its gradient is 0.
    """
    zero = squared_norm == 0
    norm = torch.where(zero, 0.0, torch.where(zero, 1.0, squared_norm).sqrt())
    return (norm - 1).square()


def interpolate(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """real + share * (fake - real), one share per sample; real, fake: [B, ...], share: [B, 1].

    Raises:
        ValueError: if the shapes do not fit.
    """
    if real.shape != fake.shape or share.shape != (len(real), 1):
        raise ValueError(
            f"cannot interpolate between real {tuple(real.shape)} and fake {tuple(fake.shape)} by "
            f"shares {tuple(share.shape)}; expected two equal shapes and [{len(real)}, 1]"
        )
    return real + share.reshape(-1, *[1] * (real.dim() - 1)) * (fake - real)
