"""Feature resampling: drawing new logits around those that D predicts.

`GaussianResampling` is the method of the RealnessGAN paper (section 2.4): one Gaussian per outcome,
fitted to the mini-batch. `HeadResampling` is the method of its published code: D predicts a mean
and a log-variance per sample and outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from realness import kernels
from realness.kernels import MAX_OUTCOMES
from realness.trainer.distributed import collectives, ranks
from realness.trainer.randomness import Draws, Purpose


def resample_gaussian(
    logits: Tensor, noise: Tensor, statistics: Literal["global", "local"] = "global"
) -> Tensor:
    """psi'_i = mu_i + sigma_i * noise, with the batch's mu_i and sigma_i; [B, N] -> [B, N].

    mu_i and sigma_i (biased) are the moments of outcome i over all ranks' rows, or over this rank's
    for "local". Gradients flow through both. noise: [B, N] standard normal.
    """
    mean, variance = kernels.logit_moments(logits)
    if statistics == "global":
        mean, variance = collectives.global_moments(mean, variance)
    return kernels.resample_from_moments(mean, variance, noise)


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

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        """Logits for a loss, [B, N], resampled with the noise of `draws`."""
        ...

    def fused_inputs(
        self, output: Tensor, draws: Draws
    ) -> tuple[Tensor, kernels.NormalDraws | None]:
        """Logits [B, N] and the draws of their noise, for a loss that does the resampling itself.

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

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        return output

    def fused_inputs(
        self, output: Tensor, draws: Draws
    ) -> tuple[Tensor, kernels.NormalDraws | None]:
        return self.sample(output, draws), None


@dataclass(frozen=True)
class GaussianResampling(NoResampling):
    """D's output is used as logits; losses use draws from the batch's Gaussian of each outcome.

    An ensemble of `members` networks has interleaved rows, where row r belongs to member
    r % members, and one Gaussian per member and outcome.
    """

    statistics: Literal["global", "local"] = "global"
    members: int = 1

    @property
    def loss_couples_samples(self) -> bool:
        return True

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        if len(output) % self.members:
            raise ValueError(f"{len(output)} rows are not a multiple of {self.members} members")
        columns = self.members * self.num_outcomes
        logits, noise = output.reshape(-1, columns), self._noise(output, draws)
        parts = zip(
            logits.split(MAX_OUTCOMES, dim=1),
            noise.reshape(-1, columns).split(MAX_OUTCOMES, dim=1),
            strict=True,
        )
        resampled = [resample_gaussian(x, e, self.statistics) for x, e in parts]
        return torch.cat(resampled, dim=1).reshape(output.shape)

    def fused_inputs(
        self, output: Tensor, draws: Draws
    ) -> tuple[Tensor, kernels.NormalDraws | None]:
        own_rows = self.statistics == "local" or ranks.world_size() == 1
        if own_rows and self.members == 1:
            return output, draws.normal_draws(Purpose.RESAMPLE)
        return super().fused_inputs(output, draws)

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

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        mean, log_variance = output.chunk(2, dim=1)
        noise = draws.normal(Purpose.RESAMPLE, self.num_outcomes).to(output.dtype)
        return resample_head(mean, log_variance, noise)

    def fused_inputs(
        self, output: Tensor, draws: Draws
    ) -> tuple[Tensor, kernels.NormalDraws | None]:
        return self.sample(output, draws), None
