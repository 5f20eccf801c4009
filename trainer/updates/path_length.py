"""Path-length regularisation of StyleGAN2's generator.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020), section 3.2 and
appendix B: E (||J^T y|| - a)^2 with J = dG(w)/dw, images y of unit normal noise, and a the moving
average of ||J^T y||. A step of fixed length in W then changes the image by the same amount
everywhere.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from realness.kernels import format_of
from realness.trainer.distributed.collectives import mean_over_ranks
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
from realness.trainer.randomness import Draws, Purpose
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.gan import Gan

MEAN_WEIGHT = 0.01
"""Weight of the newest update in the moving average a, i.e. a decay of 0.99."""


def zero_offset(generator: StyleGAN2Generator, like: Tensor) -> Tensor:
    """A zero offset of the styles per row of `like`, with respect to which to differentiate.

    It replaces the styles themselves, of which ZeRO 3 would return copies.
    """
    shape = (like.shape[0], generator.num_styles, generator.w_dim)
    return torch.zeros(shape, dtype=like.dtype, device=like.device, requires_grad=True)


def path_lengths(images: Tensor, offset: Tensor, noise: Tensor) -> Tensor:
    """||J^T y|| per sample, [B] fp32, which can be differentiated again.

    images [B, 3, R, R] are generated from styles w + offset [B, L, w_dim], separate for each layer;
    noise y has the shape of the images. J^T y = grad_w (G(w) . y), one backward pass. Its norm is
    the root of the mean over layers of the squared norms.
    """
    (gradient,) = torch.autograd.grad((images * noise).sum(), offset, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def path_length_penalty(
    gan: Gan, draws: Draws, code_share: float, real: Tensor | None, draws_real: Draws
) -> tuple[Tensor, Stats]:
    """weight * E (||J^T y|| - a)^2 on one of every `path_length_shrink` samples, and statistics.

    The arguments are those of `Gan.inputs`. Noise is divided by the side of the images in pixels,
    so that lengths do not grow with the resolution. The moving average is the one before this
    update. (NVlabs' code moves it first and differentiates through it, which changes the gradient
    by 2 %, but couples the samples of a rank's pass.) Runs the module directly, not through the
    engine, as R1 does.
    """
    penalty, size = gan.config.penalty, gan.config.data.resolution
    rows = slice(None, None, penalty.path_length_shrink)
    draws, draws_real = draws[rows], draws_real[rows]
    inputs = gan.inputs(draws, code_share, None if real is None else real[rows], draws_real)
    generator = cast(StyleGAN2Generator, gan.g.module)
    offset = zero_offset(generator, inputs[0])
    images = generator(*inputs, offset=offset)
    noise = draws.normal(Purpose.PATH, images[0].numel()).view(images.shape) / size
    noise = noise.contiguous(memory_format=format_of(images))
    lengths = path_lengths(images, offset, noise)
    value = (lengths - generator.path_length_mean).square().mean()
    stats = {"path_length": lengths.detach().mean(), "path_penalty": value.detach()}
    return penalty.path_length_weight * value, stats


@torch.no_grad()
def track_path_length(gan: Gan, newest: Tensor) -> None:
    """Update the moving average a with the mean of this update's lengths; collective."""
    average = cast(StyleGAN2Generator, gan.g.module).path_length_mean
    moved = torch.lerp(average, mean_over_ranks(newest).to(average), MEAN_WEIGHT)
    average.copy_(torch.where(moved.isfinite(), moved, average))
