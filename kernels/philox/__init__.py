"""Counter-based random numbers: a row depends only on (seed, purpose, index[row]).

Philox4x32-10 with key = (seed low, seed high) and counter = (block j, purpose, index low, index
high); block j gives words 4j .. 4j+3 of a row. So the draws do not depend on the device, the rank
or the split of a batch. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from realness.kernels.library import select

from . import reference

WORDS, UNIFORM, NORMAL = range(3)


def check_draw(seed: int, purpose: int, index: Tensor, dim: int) -> None:
    """Check that the arguments fit the words of the counter and the key."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={seed}; expected a signed 64-bit integer")
    if not 0 <= purpose < 2**32:
        raise ValueError(f"purpose={purpose}; expected 0 <= purpose < 2**32")
    if not 0 <= dim <= 2**31:
        raise ValueError(f"dim={dim}; expected 0 <= dim <= 2**31")
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(
            f"index is {index.dtype} with shape {tuple(index.shape)}; expected int64 [batch]"
        )


class NormalDraws(NamedTuple):
    """Arguments of `philox_normal(seed, purpose, index, dim)`, for operators that draw the noise.

    index: int64 [B], the samples' global numbers.
    """

    seed: int
    purpose: int
    index: Tensor


def philox_uint32(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """`dim` random 32-bit words for every sample, as int64 values 0 .. 2**32 - 1.

    index: int64 [B], the samples' global numbers. Returns int64 [B, dim], identical on any device.
    Raises ValueError for an index of another dtype or shape, or numbers out of range.
    """
    check_draw(seed, purpose, index, dim)
    ops = select(index)
    if ops is None:
        return reference.philox_uint32(seed, purpose, index, dim)
    return ops.philox(seed, purpose, index, dim, WORDS)


def philox_uniform(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """`dim` uniform draws from the open interval (0, 1) for every sample.

    index: int64 [B]. Returns float32 [B, dim] on a grid of 2**23 points, identical on any device.
    Raises ValueError as `philox_uint32` does.
    """
    check_draw(seed, purpose, index, dim)
    ops = select(index)
    if ops is None:
        return reference.philox_uniform(seed, purpose, index, dim)
    return ops.philox(seed, purpose, index, dim, UNIFORM)


def philox_normal(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """`dim` standard normal draws for every sample, by Box-Muller on pairs of words.

    index: int64 [B]. Returns float32 [B, dim], equal on all devices to within a few units in the
    last place, at most 6.8 in magnitude. Raises ValueError as `philox_uint32` does.
    Traffic: 4 bytes out per draw.
    """
    check_draw(seed, purpose, index, dim)
    ops = select(index)
    if ops is None:
        return reference.philox_normal(seed, purpose, index, dim)
    return ops.philox(seed, purpose, index, dim, NORMAL)
