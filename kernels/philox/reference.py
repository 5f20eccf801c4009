"""Philox4x32-10 in 64-bit integer tensor arithmetic.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Ten rounds on four counter words (int64 tensors of one shape) -> int64 [..., 4]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        # The product wraps modulo 2^64, which keeps all 64 bits of the unsigned product.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & MASK) ^ c1 ^ k0,
            product1 & MASK,
            ((product0 >> 32) & MASK) ^ c3 ^ k1,
            product0 & MASK,
        )
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & MASK, (k1 + KEY_INCREMENTS[1]) & MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def philox_uint32(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """See `realness.kernels.philox_uint32`."""
    block = torch.arange((dim + 3) // 4, dtype=torch.int64, device=index.device)
    index = index[:, None]
    counter = torch.broadcast_tensors(
        block[None], torch.full_like(block, purpose)[None], index & MASK, (index >> 32) & MASK
    )
    words = philox4x32(counter, (seed & MASK, (seed >> 32) & MASK))
    return words.flatten(1)[:, :dim]


def philox_uniform(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """See `realness.kernels.philox_uniform`."""
    # 23 bits plus one half: the most bits for which (k + 1/2) is exact in float32 and stays < 1.
    return ((philox_uint32(seed, purpose, index, dim) >> 9).float() + 0.5) * 2.0**-23


def philox_normal(seed: int, purpose: int, index: Tensor, dim: int) -> Tensor:
    """See `realness.kernels.philox_normal`."""
    words = philox_uint32(seed, purpose, index, (dim + 3) // 4 * 4).double()
    radius_words, angle_words = words[:, 0::2], words[:, 1::2]
    radius = (-2.0 * ((radius_words + 0.5) * 2.0**-32).log()).sqrt()
    angle = angle_words * (2.0 * math.pi * 2.0**-32)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :dim].float()
