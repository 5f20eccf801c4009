"""Resample images on affine grids, and mix their colours, in one pass: ADA's augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import check_floating
from realness.kernels.library import select

from . import reference

COLORS = 3


def check_matrix(name: str, matrix: Tensor, shape: tuple[int, ...]) -> None:
    """Check that `matrix` is a float32 constant of that shape."""
    if matrix.shape != shape or matrix.dtype != torch.float32:
        raise ValueError(
            f"{name} is {matrix.dtype} {tuple(matrix.shape)}; expected torch.float32 {shape}"
        )
    if matrix.requires_grad:
        raise ValueError(f"{name} requires a gradient, but the matrix is a constant: detach it")


def warp(images: Tensor, inverse: Tensor, color: Tensor | None = None) -> Tensor:
    """Resample every image on an affine grid with a wavelet's filters, then mix its colours.

    images: [B, C, H, W], contiguous or channels_last (other strides are copied first); inverse:
    [B, 2, 3] float32, the matrix from a position (x, y) in the output to the one in the input, in
    pixels from the image's centre: column j is at j + 0.5 - W/2. color: [B, 3, 4] float32 for
    images of 3 channels, applied to every pixel of the result; its last column is added. Returns
    [B, C, H, W] in the dtype and layout of images.

    Beyond its border the image is reflected, without repeating the border pixels. It is
    upsampled by 2 with sym6, sampled bilinearly at twice the output's resolution, and downsampled
    by 2 with the flipped filter. Both filters keep a constant, and one undoes the other. Tap 5
    counts as the centre of both, so that samples lie on pixel centres and half-way between them.
    The centre of mass is at mu = 5.098 instead: with A the first two columns of inverse, a blob
    moves by (A^-1 - 1) e more than the matrix says, e = (mu - 5) / 2 = 0.049 pixels on both axes.
    That is 0 for a shift and 0.1 pixels per axis for half a turn.

    An image is copied exactly, without filtering, if A permutes the axes, with signs, and pixel
    centres map onto pixel centres: identity, flips, quarter turns, whole-pixel shifts. The device
    decides for each image. Entries of A are limited to +-16, translations to +-16 times the longer
    side. An image whose matrix is not finite becomes NaN.

    Differentiable in images to any order; inverse and color are constants. The kernels sum in a
    fixed order, so that gradients are the same in every run. Raises ValueError for other shapes or
    dtypes, empty images, mixed devices, or a matrix that requires a gradient. Traffic: images in,
    result out; backward: the same for the gradients, and four times the gradient in float32 written
    and read.
    Source: Karras et al., "Training generative adversarial networks with limited data" (2020),
    app. B; Daubechies, "Ten lectures on wavelets" (1992), table 6.3, for sym6.
    """
    check_floating(images=images, inverse=inverse, color=color)
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images has shape {tuple(images.shape)}; expected [batch, channels, height, width]"
        )
    check_matrix("inverse", inverse, (len(images), 2, 3))
    if color is not None:
        if images.shape[1] != COLORS:
            raise ValueError(f"images has {images.shape[1]} channels; color expects {COLORS}")
        check_matrix("color", color, (len(images), COLORS, COLORS + 1))
    ops = select(images)
    if ops is None:
        return reference.warp(images, inverse, color)
    return ops.warp(images, inverse, color, False)
