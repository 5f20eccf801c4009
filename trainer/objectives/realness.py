"""RealnessGAN: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020).

D(x) = softmax(psi(x)) is a distribution over N outcomes (eq. 17). The losses below are functions of
the logits psi [B, N] of real and generated samples and of the anchors A1, A0 [N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from realness import kernels
from realness.trainer.objectives.anchor_source import AnchorSource, anchor_tensors
from realness.trainer.objectives.base import Plain, as_float32
from realness.trainer.objectives.resampling import Resampling
from realness.trainer.randomness import Draws


def realness_d_loss(
    real: Tensor, fake: Tensor, a1: Tensor, a0: Tensor, impl: kernels.Impl = "auto"
) -> Tensor:
    """E[KL(A1 || D(x))] + E[KL(A0 || D(G(z)))], eq. 3."""
    on_real = kernels.realness_kl(real, a1, impl=impl).mean()
    return on_real + kernels.realness_kl(fake, a0, impl=impl).mean()


def realness_g_loss1(fake: Tensor, a0: Tensor, impl: kernels.Impl = "auto") -> Tensor:
    """-E[KL(A0 || D(G(z)))], eq. 18."""
    return -kernels.realness_kl(fake, a0, impl=impl).mean()


def realness_g_loss2(fake: Tensor, real: Tensor, a0: Tensor, impl: kernels.Impl = "auto") -> Tensor:
    """E[KL(D(x) || D(G(z)))] - E[KL(A0 || D(G(z)))], eq. 19; rows of real and fake are paired."""
    relativistic = kernels.realness_divergence(real, fake, impl=impl).mean()
    return relativistic + realness_g_loss1(fake, a0, impl)


def realness_g_loss3(fake: Tensor, a1: Tensor, a0: Tensor, impl: kernels.Impl = "auto") -> Tensor:
    """E[KL(A1 || D(G(z)))] - E[KL(A0 || D(G(z)))], eq. 20."""
    return kernels.realness_kl(fake, a1, impl=impl).mean() + realness_g_loss1(fake, a0, impl)


def realness_score(logits: Tensor, a1: Tensor, a0: Tensor) -> Tensor:
    """sum_i (A1_i - A0_i) psi_i, [B, N] -> [B].

    This is KL(A0 || D(x)) - KL(A1 || D(x)) up to a constant: the normaliser of the softmax cancels,
    because both anchors sum to 1. With two outcomes and one-hot anchors it is the standard GAN's
    logit.
    """
    return (logits * (a1 - a0)).sum(1)


@dataclass(frozen=True)
class RealnessObjective(Plain):
    """RealnessGAN as an `Objective`: anchors, a resampling, and G's objective 1, 2 or 3."""

    anchors: AnchorSource
    resampling: Resampling
    g_objective: Literal[1, 2, 3] = 2
    impl: kernels.Impl = "auto"

    @property
    def num_outputs(self) -> int:
        return self.resampling.num_outputs

    @property
    def needs_real_in_g_step(self) -> bool:
        return self.g_objective == 2

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        logits_real = self.resampling.sample(as_float32(real), draws_real)
        logits_fake = self.resampling.sample(as_float32(fake), draws_fake)
        a1, a0 = anchor_tensors(self.anchors.pair(draws_fake), logits_fake)
        return realness_d_loss(logits_real, logits_fake, a1, a0, self.impl)

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        logits = self.resampling.sample(as_float32(fake), draws_fake)
        a1, a0 = anchor_tensors(self.anchors.pair(draws_fake), logits)
        if self.g_objective == 1:
            return realness_g_loss1(logits, a0, self.impl)
        if self.g_objective == 3:
            return realness_g_loss3(logits, a1, a0, self.impl)
        if real is None or draws_real is None:
            raise ValueError("objective 2 (eq. 19) needs D's output on real images in the G step")
        logits_real = self.resampling.sample(as_float32(real), draws_real)
        return realness_g_loss2(logits, logits_real, a0, self.impl)

    def score(self, output: Tensor) -> Tensor:
        logits = self.resampling.logits(as_float32(output))
        a1, a0 = anchor_tensors(self.anchors.typical, logits)
        return realness_score(logits, a1, a0)
