"""Feature resampling: drawing new logits around those that D predicts.

`GaussianResampling` is the method of the RealnessGAN paper (section 2.4): one Gaussian per outcome,
fitted to the mini-batch. `HeadResampling` is the method of its published code: D predicts a mean
and a log-variance per sample and outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from realness import kernels
from realness.kernels import MAX_OUTCOMES
from realness.trainer.distributed import collectives, ranks
from realness.trainer.randomness import Draws, Purpose

Batch = tuple[Tensor, Draws]
"""D's output [B, num_outputs], and the draws of its rows."""
FusedInput = tuple[Tensor, kernels.NormalDraws | None]
Statistics = Literal["global", "local"]


def resample_gaussian(logits: Tensor, noise: Tensor, statistics: Statistics = "global") -> Tensor:
    """psi'_i = mu_i + sigma_i * noise, with the batch's mu_i and sigma_i; [B, N] -> [B, N].

    mu_i and sigma_i (biased) are the moments of outcome i over all ranks' rows, or over this rank's
    for "local". Gradients flow through both. noise: [B, N] standard normal.
    """
    (resampled,) = resample_gaussians([(logits, noise)], statistics)
    return resampled


def resample_gaussians(
    pairs: Sequence[tuple[Tensor, Tensor]], statistics: Statistics = "global"
) -> list[Tensor]:
    """`resample_gaussian` of several (logits, noise), with one collective for all moments."""
    moments = [kernels.logit_moments(logits) for logits, _ in pairs]
    if statistics == "global" and ranks.world_size() > 1:
        means, variances = map(torch.cat, zip(*moments, strict=True))
        sizes = [len(mean) for mean, _ in moments]
        merged = collectives.global_moments(means, variances)
        moments = list(zip(*(part.split(sizes) for part in merged), strict=True))
    return [
        kernels.resample_from_moments(mean, variance, noise)
        for (mean, variance), (_, noise) in zip(moments, pairs, strict=True)
    ]


def resample_head(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """psi' = mu + noise * exp(log_variance / 2), all [B, N]."""
    return mean + noise * torch.exp(log_variance / 2)


class Resampling(Protocol):
    """Computes N logits from D's output [B, num_outputs]."""

    @property
    def num_outputs(self) -> int:
        """Width of D's head."""
        ...

    @property
    def loss_couples_samples(self) -> bool:
        """Whether a row's logits depend on the other rows."""
        ...

    def logits(self, output: Tensor) -> Tensor:
        """Logits before resampling, [B, N]."""
        ...

    def samples(self, *batches: Batch) -> list[Tensor]:
        """Logits of each batch for a loss, [B, N], resampled with the noise of its draws."""
        ...

    def fused_inputs(self, *batches: Batch) -> list[FusedInput]:
        """Logits [B, N] of each batch, for a loss that does the resampling itself, with the draws
        of their noise.

        Such a loss resamples with the moments of its own rows. If this method works differently,
        the returned logits are already resampled and the draws are None.
        """
        ...


@dataclass(frozen=True)
class NoResampling:
    """D's output is used as logits."""

    num_outcomes: int

    @property
    def num_outputs(self) -> int:
        return self.num_outcomes

    @property
    def loss_couples_samples(self) -> bool:
        return False

    def logits(self, output: Tensor) -> Tensor:
        return output

    def samples(self, *batches: Batch) -> list[Tensor]:
        return [output for output, _ in batches]

    def fused_inputs(self, *batches: Batch) -> list[FusedInput]:
        return [(logits, None) for logits in self.samples(*batches)]


@dataclass(frozen=True)
class GaussianResampling(NoResampling):
    """D's output is used as logits; losses use draws from the batch's Gaussian of each outcome.

    An ensemble of `members` networks has interleaved rows, where row r belongs to member
    r % members, and one Gaussian per member and outcome.
    """

    statistics: Statistics = "global"
    members: int = 1

    @property
    def loss_couples_samples(self) -> bool:
        return True

    def samples(self, *batches: Batch) -> list[Tensor]:
        columns = self.members * self.num_outcomes
        pairs, counts = [], []
        for output, draws in batches:
            if len(output) % self.members:
                raise ValueError(f"{len(output)} rows are not a multiple of {self.members} members")
            logits = output.reshape(-1, columns).split(MAX_OUTCOMES, dim=1)
            noise = self._noise(output, draws).reshape(-1, columns).split(MAX_OUTCOMES, dim=1)
            pairs += zip(logits, noise, strict=True)
            counts.append(len(logits))
        parts = iter(resample_gaussians(pairs, self.statistics))
        return [
            torch.cat([next(parts) for _ in range(count)], dim=1).reshape(output.shape)
            for count, (output, _) in zip(counts, batches, strict=True)
        ]

    def fused_inputs(self, *batches: Batch) -> list[FusedInput]:
        own_rows = self.statistics == "local" or ranks.world_size() == 1
        if own_rows and self.members == 1:
            return [(output, draws.normal_draws(Purpose.RESAMPLE)) for output, draws in batches]
        return super().fused_inputs(*batches)

    def _noise(self, output: Tensor, draws: Draws) -> Tensor:
        return draws.normal(Purpose.RESAMPLE, self.num_outcomes).to(output.dtype)


@dataclass(frozen=True)
class HeadResampling:
    """D's output contains N means, then N log-variances."""

    num_outcomes: int

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_outcomes

    @property
    def loss_couples_samples(self) -> bool:
        return False

    def logits(self, output: Tensor) -> Tensor:
        return output[:, : self.num_outcomes]

    def samples(self, *batches: Batch) -> list[Tensor]:
        return [self._sample(output, draws) for output, draws in batches]

    def fused_inputs(self, *batches: Batch) -> list[FusedInput]:
        return [(logits, None) for logits in self.samples(*batches)]

    def _sample(self, output: Tensor, draws: Draws) -> Tensor:
        mean, log_variance = output.chunk(2, dim=1)
        noise = draws.normal(Purpose.RESAMPLE, self.num_outcomes).to(output.dtype)
        return resample_head(mean, log_variance, noise)
