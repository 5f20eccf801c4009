"""Sources of anchors as tensors: fixed ones, or new ones drawn in every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from realness.trainer.distributed import ranks
from realness.trainer.objectives.anchors import (
    NUM_HISTOGRAM_SAMPLES,
    AnchorPair,
    expected_histogram_pair,
    histogram_pair,
)
from realness.trainer.randomness import MEMBER_SHIFT, Draws, Purpose, Stream


class AnchorSource(Protocol):
    """The source of a loss's anchors."""

    @property
    def typical(self) -> AnchorPair:
        """The pair that defines `score`, constant during training."""
        ...

    @property
    def loss_couples_samples(self) -> bool:
        """Whether each batch gets its own pair, so that parts of a batch would get other pairs."""
        ...

    def pair(self, draws: Draws) -> AnchorPair:
        """The pair for the losses of one step, the same on every rank."""
        ...


@dataclass(frozen=True)
class FixedAnchors:
    """One pair for the whole training."""

    typical: AnchorPair
    loss_couples_samples: bool = False

    def pair(self, draws: Draws) -> AnchorPair:
        return self.typical


def global_batch_row(draws: Draws) -> Draws:
    """The draws of the global batch's first sample: one row, the same on every rank."""
    first = draws.index[:1] - ranks.rank() * draws.index.numel()
    return replace(draws, index=first)


@dataclass(frozen=True)
class HistogramAnchors:
    """A new histogram of 1,000 draws at every step, of the form in the paper's published code.

    The draws are those of the global batch's first sample, so they depend only on the seed and the
    position of the run. The steps of D and G have separate draws. `score` uses the expectation of
    the histograms. Each step synchronises with the device to get its draws on the host.
    """

    num_outcomes: int
    loss_couples_samples: bool = True

    @property
    def typical(self) -> AnchorPair:
        return expected_histogram_pair(self.num_outcomes)

    def pair(self, draws: Draws) -> AnchorPair:
        return self.drawn(global_batch_row(draws))

    def drawn(self, row: Draws) -> AnchorPair:
        """The pair that belongs to one sample."""
        draws = row.normal(Purpose.ANCHORS, 2 * NUM_HISTOGRAM_SAMPLES)
        normals = draws.reshape(2, NUM_HISTOGRAM_SAMPLES).cpu().numpy().astype(np.float64)
        return histogram_pair(normals, self.num_outcomes)


@dataclass(frozen=True)
class IterationHistograms(HistogramAnchors):
    """A new histogram once per iteration, shared by all of its updates, as in the published code.

    samples_d and samples_g are the samples of all ranks that an iteration's updates of D and of G
    take from their streams.
    """

    samples_d: int = field(kw_only=True)
    samples_g: int = field(kw_only=True)

    def pair(self, draws: Draws) -> AnchorPair:
        row = global_batch_row(draws)
        samples = self.samples_d if draws.stream == Stream.D_FAKE else self.samples_g
        member = (row.index >> MEMBER_SHIFT) << MEMBER_SHIFT
        iteration = (row.index - member) // samples
        return self.drawn(replace(row, stream=Stream.D_FAKE, index=member + iteration))


def anchor_tensors(pair: AnchorPair, like: Tensor) -> tuple[Tensor, Tensor]:
    """(A1, A0), each [N], with the dtype and device of `like`."""
    both = torch.from_numpy(np.stack([pair.real, pair.fake]))
    real, fake = both.to(dtype=like.dtype, device=like.device, non_blocking=True)
    return real, fake
