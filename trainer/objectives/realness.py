"""RealnessGAN: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020).

D(x) = softmax(psi(x)) is a distribution over N outcomes (eq. 17). The losses below are functions of
the logits psi [B, N] of real and generated samples and of the anchors A1, A0 [N]. With
divergence="emd" the Earth Mover's Distance, in steps between outcomes, replaces every KL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from realness import kernels
from realness.trainer.objectives.anchor_source import (
    AnchorSource,
    anchor_tensors,
)
from realness.trainer.objectives.anchors import AnchorPair
from realness.trainer.objectives.base import ObjectiveDefaults, as_float32
from realness.trainer.objectives.configs import Divergence
from realness.trainer.objectives.resampling import (
    Resampling,
)
from realness.trainer.randomness import Draws

# The fused losses run in one thread block: fast for a few hundred rows, slow for more.
MAX_FUSED_ROWS = 256

DIVERGENCES = {"kl": kernels.realness_kl, "emd": kernels.realness_emd}
"""Functions of logits [B, N] and constant targets [N] or [B, N], to [B]."""


def realness_d_loss(
    real: Tensor, fake: Tensor, a1: Tensor, a0: Tensor, divergence: Divergence = "kl"
) -> Tensor:
    """E[KL(A1 || D(x))] + E[KL(A0 || D(G(z)))], eq. 3."""
    distance = DIVERGENCES[divergence]
    return distance(real, a1).mean() + distance(fake, a0).mean()


def realness_g_loss1(fake: Tensor, a0: Tensor, divergence: Divergence = "kl") -> Tensor:
    """-E[KL(A0 || D(G(z)))], eq. 18."""
    return -DIVERGENCES[divergence](fake, a0).mean()


def realness_g_loss2(
    fake: Tensor, real: Tensor, a0: Tensor, divergence: Divergence = "kl"
) -> Tensor:
    """E[KL(D(x) || D(G(z)))] - E[KL(A0 || D(G(z)))], eq. 19; rows of real and fake are paired.

    D(x) is constant in G's step: the real logits get no gradient.
    """
    real = real.detach()
    if divergence == "kl":
        relativistic = kernels.realness_divergence(real, fake)
    else:
        relativistic = kernels.realness_emd(fake, real.softmax(1))
    return relativistic.mean() + realness_g_loss1(fake, a0, divergence)


def realness_g_loss3(fake: Tensor, a1: Tensor, a0: Tensor, divergence: Divergence = "kl") -> Tensor:
    """E[KL(A1 || D(G(z)))] - E[KL(A0 || D(G(z)))], eq. 20."""
    toward_real = DIVERGENCES[divergence](fake, a1).mean()
    return toward_real + realness_g_loss1(fake, a0, divergence)


def realness_score(logits: Tensor, a1: Tensor, a0: Tensor) -> Tensor:
    """sum_i (A1_i - A0_i) psi_i, [B, N] -> [B].

    This is KL(A0 || D(x)) - KL(A1 || D(x)) up to a constant: the normaliser of the softmax cancels,
    because both anchors sum to 1. With two outcomes and one-hot anchors it is the logit of the
    standard GAN.
    """
    return (logits * (a1 - a0)).sum(1)


@dataclass(frozen=True)
class RealnessObjective(ObjectiveDefaults):
    """RealnessGAN as an `Objective`: anchors, resampling, divergence, and G's objective 1, 2 or 3.

    The KL losses of batches of up to MAX_FUSED_ROWS rows are one fused operation. `score` is the
    same for both divergences.
    """

    anchors: AnchorSource
    resampling: Resampling
    g_objective: Literal[1, 2, 3] = 2
    divergence: Divergence = "kl"
    _copies: dict[Any, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def num_outputs(self) -> int:
        return self.resampling.num_outputs

    @property
    def needs_real_in_g_step(self) -> bool:
        return self.g_objective == 2

    @property
    def loss_couples_samples(self) -> bool:
        return self.resampling.loss_couples_samples or self.anchors.loss_couples_samples

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        real, fake = as_float32(real), as_float32(fake)
        a1, a0 = self._tensors(self.anchors.pair(draws_fake), fake)
        batches = (real, draws_real), (fake, draws_fake)
        if self._fused(fake):
            inputs_real, inputs_fake = self.resampling.fused_inputs(*batches)
            (logits_real, noise_real), (logits_fake, noise_fake) = inputs_real, inputs_fake
            return kernels.realness_d_loss(logits_real, logits_fake, a1, a0, noise_real, noise_fake)
        logits_real, logits_fake = self.resampling.samples(*batches)
        return realness_d_loss(logits_real, logits_fake, a1, a0, self.divergence)

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        fake = as_float32(fake)
        batches = [(fake, draws_fake)]
        if self.needs_real_in_g_step:
            batches.append(self._constant_real(real, draws_real))
        a1, a0 = self._tensors(self.anchors.pair(draws_fake), fake)
        if self._fused(fake):
            (logits, noise), *on_real = self.resampling.fused_inputs(*batches)
            logits_real, noise_real = on_real[0] if on_real else (None, None)
            return kernels.realness_g_loss(
                logits, logits_real, a1, a0, noise, noise_real, objective=self.g_objective
            )
        logits, *on_real = self.resampling.samples(*batches)
        if on_real:
            return realness_g_loss2(logits, on_real[0], a0, self.divergence)
        if self.g_objective == 1:
            return realness_g_loss1(logits, a0, self.divergence)
        return realness_g_loss3(logits, a1, a0, self.divergence)

    def _constant_real(self, real: Tensor | None, draws: Draws | None) -> tuple[Tensor, Draws]:
        if real is None or draws is None:
            raise ValueError("objective 2 (eq. 19) needs D's output on real images in the G step")
        return as_float32(real).detach(), draws

    def score(self, output: Tensor) -> Tensor:
        logits = self.resampling.logits(as_float32(output))
        a1, a0 = self._tensors(self.anchors.typical, logits)
        return realness_score(logits, a1, a0)

    def distribution(self, output: Tensor) -> Tensor:
        """D's distribution over outcomes (eq. 17) before resampling, [B, num_outputs] -> [B, N]."""
        return self.resampling.logits(as_float32(output)).softmax(1)

    def _tensors(self, pair: AnchorPair, like: Tensor) -> tuple[Tensor, Tensor]:
        """`anchor_tensors`, but constant anchors are copied to each device only once."""
        # Tracers pass tensors of special types, which must not be cached.
        if pair is not self.anchors.typical or type(like) is not Tensor:
            return anchor_tensors(pair, like)
        place = like.device, like.dtype
        if place not in self._copies:
            self._copies[place] = anchor_tensors(pair, like)
        return self._copies[place]

    def _fused(self, fake: Tensor) -> bool:
        return self.divergence == "kl" and len(fake) <= MAX_FUSED_ROWS
