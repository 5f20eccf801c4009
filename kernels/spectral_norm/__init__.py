"""Spectral normalisation of all the layers of a network at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from realness.kernels.checks import accumulation_dtype, check_floating
from realness.kernels.library import select

from . import reference


def check_layers(weights: list[Tensor], u: list[Tensor], v: list[Tensor]) -> None:
    """Check that every layer has matching weight [out, ...], u [out] and v [in * ...]."""
    if not len(weights) == len(u) == len(v):
        raise ValueError(f"got {len(weights)} weights, {len(u)} u and {len(v)} v; expected equal")
    for i, (weight, left, right) in enumerate(zip(weights, u, v, strict=True)):
        check_floating(**{"weights[0]": weights[0], f"weights[{i}]": weight})
        check_floating(**{f"weights[{i}]": weight, f"u[{i}]": left, f"v[{i}]": right})
        if weight.dim() < 2 or weight.numel() == 0:
            raise ValueError(
                f"weights[{i}] has shape {tuple(weight.shape)}; expected [out, in, ...], not empty"
            )
        if weight.dtype != weights[0].dtype:
            raise ValueError(
                f"weights[{i}] is {weight.dtype}, weights[0] is {weights[0].dtype}; expected one"
            )
        dtype = accumulation_dtype(weight.dtype)
        shapes = (weight.shape[0],), (math.prod(weight.shape[1:]),)
        for name, vector, shape in (("u", left, shapes[0]), ("v", right, shapes[1])):
            if tuple(vector.shape) != shape or vector.dtype != dtype or not vector.is_contiguous():
                raise ValueError(
                    f"{name}[{i}] is {vector.dtype} {tuple(vector.shape)}; expected a contiguous "
                    f"{dtype} vector of shape {shape} for a weight of {tuple(weight.shape)}"
                )


def spectral_norm_step(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], eps: float = 1e-12
) -> None:
    """One power iteration for every layer: v = W^T u / |W^T u|, then u = W v / |W v|, in place.

    weights: [out, in, ...] each, of one dtype, read as matrices [out, in * ...]; u: [out] and
    v: [in * ...] each, float32 (float64 for float64 weights). Norms below eps count as eps. Not
    recorded by autograd. Raises ValueError for other shapes or dtypes or mixed devices.
    Traffic: every weight twice. Source: Miyato et al., "Spectral Normalization for Generative
    Adversarial Networks" (ICLR 2018), algorithm 1.
    """
    check_layers(weights, u, v)
    if not weights:
        return
    ops = select(weights[0])
    if ops is None:
        reference.spectral_norm_step(weights, u, v, eps)
        return
    with torch.no_grad():
        ops.spectral_norm_step(weights, u, v, eps)


def spectral_scale(weights: list[Tensor], u: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    """W / (u^T W v) of every layer, with u and v constants.

    Arguments as for `spectral_norm_step`. Returns tensors like `weights`, computed in float32
    (float64 for float64). Once differentiable in the weights (any order on the reference).
    Raises ValueError for other shapes or dtypes or mixed devices.
    Traffic: every weight twice in, once out; backward: weights and gradients twice in, once out.
    Source: Miyato et al., "Spectral Normalization for GANs" (ICLR 2018), eq. 8 and 12.
    """
    check_layers(weights, u, v)
    if not weights:
        return []
    ops = select(weights[0])
    if ops is None:
        return reference.spectral_scale(weights, u, v)
    return ops.spectral_scale(weights, u, v)[0]
