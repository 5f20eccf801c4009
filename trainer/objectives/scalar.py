"""Objectives in which D outputs one score per sample: the losses, and one class for all of them.

`real` and `fake` are the scores [B] of real and generated samples; every loss is a scalar to be
minimised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from realness.trainer.objectives.base import ObjectiveDefaults, as_float32
from realness.trainer.randomness import Draws

# The standard GAN: Goodfellow et al., "Generative Adversarial Nets" (NIPS 2014). The score is a
# logit s: with D(x) = sigmoid(s), -log D = softplus(-s) and -log(1 - D) = softplus(s).


def standard_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))], eq. 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def saturating_g_loss(fake: Tensor) -> Tensor:
    """E[log(1 - D(G(z)))], eq. 1."""
    return -F.softplus(fake).mean()


def non_saturating_g_loss(fake: Tensor) -> Tensor:
    """-E[log D(G(z))], section 3."""
    return F.softplus(-fake).mean()


# LSGAN: Mao et al., "Least Squares Generative Adversarial Networks" (ICCV 2017), with the labels
# a = 0 (fake), b = 1 (real) and c = 1 (G's target). It is eq. 1 of the P2GAN paper.


def lsgan_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def lsgan_g_loss(fake: Tensor) -> Tensor:
    """E[(D(G(z)) - 1)^2] / 2."""
    return (fake - 1).square().mean() / 2


# The hinge loss: Lim and Ye, "Geometric GAN" (2017); Miyato et al., "Spectral Normalization for
# Generative Adversarial Networks" (ICLR 2018), eq. 16 and 17.


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g_loss(fake: Tensor) -> Tensor:
    """-E[D(G(z))]."""
    return -fake.mean()


# The Wasserstein GAN: Arjovsky et al. (ICML 2017). D must be Lipschitz: use a gradient penalty
# (WGAN-GP) or spectral normalisation.


def wgan_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]."""
    return fake.mean() - real.mean()


def wgan_g_loss(fake: Tensor) -> Tensor:
    """-E[D(G(z))]."""
    return -fake.mean()


# The relativistic pairing GAN of R3GAN: Huang et al., "The GAN is dead; long live the GAN! A Modern
# GAN Baseline" (NeurIPS 2024), eq. 2, with f(t) = softplus(-t). Row b of `real` and row b of `fake`
# form a pair.


def relativistic_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E[f(D(x) - D(G(z)))]."""
    return F.softplus(fake - real).mean()


def relativistic_g_loss(fake: Tensor, real: Tensor) -> Tensor:
    """E[f(D(G(z)) - D(x))]."""
    return F.softplus(real - fake).mean()


@dataclass(frozen=True)
class ScalarObjective(ObjectiveDefaults):
    """A pair of losses on scores as an `Objective`; D's only output is the score.

    d_function is called with (real, fake); g_function with (fake), or with (fake, real) if
    `needs_real_in_g_step`.
    """

    d_function: Callable[[Tensor, Tensor], Tensor]
    g_function: Callable[..., Tensor]
    needs_real_in_g_step: bool = False
    num_outputs: int = 1

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        return self.d_function(self.score(real), self.score(fake))

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        if not self.needs_real_in_g_step:
            return self.g_function(self.score(fake))
        if real is None:
            raise ValueError("this loss of G compares with real images: pass D's output on them")
        return self.g_function(self.score(fake), self.score(real).detach())

    def score(self, output: Tensor) -> Tensor:
        return as_float32(output).squeeze(1)
