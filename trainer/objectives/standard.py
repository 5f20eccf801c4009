"""The standard GAN (Goodfellow et al., "Generative Adversarial Nets", NIPS 2014), on logits.

With D(x) = sigmoid(s): -log D = softplus(-s) and -log(1 - D) = softplus(s).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from realness.trainer.objectives.base import Plain, as_float32
from realness.trainer.randomness import Draws


def standard_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))], eq. 1; real, fake: logits [B]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def saturating_g_loss(fake: Tensor) -> Tensor:
    """E[log(1 - D(G(z)))], eq. 1."""
    return -F.softplus(fake).mean()


def non_saturating_g_loss(fake: Tensor) -> Tensor:
    """-E[log D(G(z))], section 3."""
    return F.softplus(-fake).mean()


@dataclass(frozen=True)
class StandardObjective(Plain):
    """The standard GAN as an `Objective`; D has one output, the logit, which is also the score."""

    saturating: bool = False
    num_outputs: int = 1
    needs_real_in_g_step: bool = False

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        return standard_d_loss(self.score(real), self.score(fake))

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        loss = saturating_g_loss if self.saturating else non_saturating_g_loss
        return loss(self.score(fake))

    def score(self, output: Tensor) -> Tensor:
        return as_float32(output).squeeze(1)
