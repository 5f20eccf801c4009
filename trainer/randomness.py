"""Stateless randomness: every draw is a function of (seed, stream, purpose, global sample index).

No state has to be saved: a run that is killed and resumed, or resumed on a different number of
ranks, draws the same numbers for the same samples. The generator is Philox4x32-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), from `realness.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from realness import kernels

# log2 of the samples reserved per ensemble member: more than any 2-D experiment draws.
MEMBER_SHIFT = 40


class Stream(IntEnum):
    """Streams of samples; each counts its samples from 0 over the whole run and all ranks."""

    D_REAL = 1
    D_FAKE = 2
    G_REAL = 3
    G_FAKE = 4
    SHOWN = 5
    CANDIDATES = 6
    EVALUATED = 7
    REFERENCE = 8
    PATH = 9
    CENTRE = 10
    INVERTED = 11


class Purpose(IntEnum):
    """Purposes of a sample's draws; different purposes have independent draws."""

    LATENT = 1
    RESAMPLE = 2
    ANCHORS = 3
    CODE = 4
    INTERPOLATION = 5
    DEQUANTIZE = 6
    POINT = 7
    PATCH = 8
    PROJECTION = 9
    MIXED_LATENT = 10
    CROSSOVER = 11
    NOISE = 12
    PATH = 13
    # Augmentation; kinds of amounts that are drawn in the same way share a purpose.
    BLIT = 14
    GEOMETRY = 15
    GEOMETRY_NORMAL = 16
    COLOR = 17
    COLOR_NORMAL = 18
    FILTER = 19
    FILTER_NORMAL = 20
    PIXEL_NOISE = 21
    PIXEL_NOISE_LEVEL = 22
    PIXEL_NOISE_VALUE = 23
    CUTOUT = 24
    POLICY_COLOR = 25
    POLICY_TRANSLATION = 26
    POLICY_CUTOUT = 27
    CLASS = 28
    PERTURBATION = 29


@dataclass(frozen=True)
class Draws:
    """The draws of one local batch.

    `index` is [B] int64: the global index of each sample within `stream`.
    """

    seed: int
    stream: Stream
    index: Tensor

    def normal(self, purpose: Purpose, dim: int) -> Tensor:
        """Standard normal draws, [B, dim] float32 on `index`'s device."""
        return kernels.philox_normal(self.seed, self._key(purpose), self.index, dim)

    def normal_draws(self, purpose: Purpose) -> kernels.NormalDraws:
        """The key and indices of `normal`'s draws, for an operator that draws them itself."""
        return kernels.NormalDraws(self.seed, self._key(purpose), self.index)

    def uniform(self, purpose: Purpose, dim: int) -> Tensor:
        """Uniform draws from (0, 1), [B, dim] float32 on `index`'s device."""
        key = self._key(purpose)
        return kernels.philox_uniform(self.seed, key, self.index, dim)

    def __getitem__(self, rows: slice) -> Draws:
        """The draws of a slice of the samples."""
        return replace(self, index=self.index[rows])

    def _key(self, purpose: Purpose) -> int:
        return (int(self.stream) << 16) | int(purpose)


def batch_draws(
    seed: int,
    stream: Stream,
    first_sample: int | Tensor,
    local_batch: int,
    *,
    rank: int = 0,
    seeds: tuple[int, ...] = (0,),
    device: torch.device | str = "cpu",
) -> Draws:
    """Draws for this rank's rows of the global batch whose first sample has index `first_sample`.

    `first_sample` may be an int64 scalar on `device`; the host then need not know its value. For an
    ensemble with `seeds`, each row becomes one row per member, interleaved; each member has its own
    sample indices, so that its draws are those of a separate run with its seed.
    """
    index = torch.arange(local_batch, device=device) + (first_sample + rank * local_batch)
    if seeds != (0,):
        offsets = torch.tensor(seeds, device=device) << MEMBER_SHIFT
        index = (index[:, None] + offsets).flatten()
    return Draws(seed, stream, index)
