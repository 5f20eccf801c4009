"""Feature resampling: new logits drawn around those that D predicts.

`GaussianResampling` is the method of the RealnessGAN paper (section 2.4): a Gaussian for each
outcome, fitted to the mini-batch. `HeadResampling` is what its authors' published code does
instead: D predicts a mean and a log-variance for each sample and outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from realness import kernels
from realness.trainer import distributed
from realness.trainer.randomness import Draws, Purpose


def resample_gaussian(
    logits: Tensor,
    noise: Tensor,
    statistics: Literal["global", "local"] = "global",
    impl: kernels.Impl = "auto",
) -> Tensor:
    """psi'_i = mu_i + sigma_i * noise, with mu_i and sigma_i of the batch; [B, N] -> [B, N].

    mu_i and sigma_i (biased) are the moments of outcome i over all ranks' rows, or over this rank's
    for "local". Gradients flow through both. noise: [B, N] standard normal.
    """
    mean, variance = kernels.logit_moments(logits, impl=impl)
    if statistics == "global":
        mean, variance = distributed.global_moments(mean, variance)
    return kernels.resample_from_moments(mean, variance, noise, impl=impl)


def resample_head(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """psi' = mu + noise * exp(log_variance / 2), all [B, N]."""
    return mean + noise * torch.exp(log_variance / 2)


class Resampling(Protocol):
    """How N logits come out of D's output [B, num_outputs]."""

    @property
    def num_outputs(self) -> int:
        """Width of D's head."""
        ...

    def logits(self, output: Tensor) -> Tensor:
        """The logits themselves, [B, N]."""
        ...

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        """Logits for a loss, [B, N], resampled with the noise of `draws`."""
        ...


@dataclass(frozen=True)
class NoResampling:
    """D's output is the logits."""

    num_outcomes: int

    @property
    def num_outputs(self) -> int:
        return self.num_outcomes

    def logits(self, output: Tensor) -> Tensor:
        return output

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        return output


@dataclass(frozen=True)
class GaussianResampling(NoResampling):
    """D's output is the logits; losses see draws from the batch's Gaussian of each outcome."""

    statistics: Literal["global", "local"] = "global"
    impl: kernels.Impl = "auto"

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        noise = draws.normal(Purpose.RESAMPLE, self.num_outcomes).to(output.dtype)
        return resample_gaussian(output, noise, self.statistics, self.impl)


@dataclass(frozen=True)
class HeadResampling:
    """D's output is N means, then N log-variances."""

    num_outcomes: int

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_outcomes

    def logits(self, output: Tensor) -> Tensor:
        return output[:, : self.num_outcomes]

    def sample(self, output: Tensor, draws: Draws) -> Tensor:
        mean, log_variance = output.chunk(2, dim=1)
        noise = draws.normal(Purpose.RESAMPLE, self.num_outcomes).to(output.dtype)
        return resample_head(mean, log_variance, noise)
