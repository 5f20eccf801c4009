"""Gradient penalties on the discriminator."""

from __future__ import annotations

import torch
from torch import Tensor

from realness import kernels


def r1_penalty(score: Tensor, images: Tensor, *, impl: kernels.Impl = "auto") -> Tensor:
    """||grad_x score(x)||^2 of each sample, [B] fp32, ready for a second backward.

    The R1 term of D's loss is gamma/2 times its mean over real images (Mescheder et al., "Which
    Training Methods for GANs do actually Converge?", ICML 2018, eq. 9). score: [B], where row b
    depends on images[b] alone; images: [B, ...], with gradients required before the forward pass.

    Raises:
        ValueError: if the shapes do not fit, or `images` does not require gradients.
    """
    if score.dim() != 1 or score.shape[0] != images.shape[0]:
        raise ValueError(
            f"score has shape {tuple(score.shape)}, expected [{images.shape[0]}], one a sample"
        )
    if not images.requires_grad:
        raise ValueError("images need requires_grad_() before D's forward pass for the R1 penalty")
    (gradient,) = torch.autograd.grad(score.sum(), images, create_graph=True)
    return kernels.squared_norm(gradient, impl=impl)
