"""The whole objectives of D and G, composed of the other references."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.realness_divergence.reference import realness_divergence
from realness.kernels.realness_kl.reference import realness_kl
from realness.kernels.resample_logits.reference import logit_moments, resample_from_moments


def resampled(logits: Tensor, noise: Tensor | None) -> Tensor:
    """The logits, resampled from their own moments if noise is given."""
    if noise is None:
        return logits
    return resample_from_moments(*logit_moments(logits), noise)


def realness_d_loss(
    logits_real: Tensor,
    logits_fake: Tensor,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_real: Tensor | None = None,
    noise_fake: Tensor | None = None,
) -> Tensor:
    """See `realness.kernels.realness_d_loss`."""
    real, fake = resampled(logits_real, noise_real), resampled(logits_fake, noise_fake)
    return realness_kl(real, anchor_real).mean() + realness_kl(fake, anchor_fake).mean()


def realness_g_loss(
    logits_fake: Tensor,
    logits_real: Tensor | None,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_fake: Tensor | None = None,
    noise_real: Tensor | None = None,
    objective: int = 2,
) -> Tensor:
    """See `realness.kernels.realness_g_loss`."""
    fake = resampled(logits_fake, noise_fake)
    loss = -realness_kl(fake, anchor_fake).mean()
    if objective == 2 and logits_real is not None:
        real = resampled(logits_real.detach(), noise_real)
        loss = loss + realness_divergence(real, fake).mean()
    elif objective == 3:
        loss = loss + realness_kl(fake, anchor_real).mean()
    return loss
