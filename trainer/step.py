"""One update of D and one update of G.

Both count samples: `first` is the index of the batch's first sample in its streams, over all ranks
and the whole run. The values they return are tensors on the device; nothing here waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.gan import Gan
from realness.trainer.networks import update_spectral_norm
from realness.trainer.penalties import r1_penalty
from realness.trainer.randomness import Purpose, Stream

Stats = dict[str, Tensor]


def train_d(gan: Gan, images: Tensor, first: int) -> Stats:
    """Update D once. images: uint8 [B, 3, R, R], this rank's share of the real batch."""
    real = gan.normalise(images)
    real_draws = gan.draws(Stream.D_REAL, first)
    fake_draws = gan.draws(Stream.D_FAKE, first)
    with torch.no_grad():
        fake = gan.g(fake_draws.normal(Purpose.LATENT, gan.config.g.z_dim))
    update_spectral_norm(gan.d.module)
    # D treats every image alike, so one pass over both batches is exact and loads the weights once.
    out_real, out_fake = gan.d(torch.cat([real, fake.to(real.dtype)])).float().chunk(2)
    loss = gan.objective.d_loss(out_real, out_fake, real_draws, fake_draws)
    stats = {
        "loss_d": loss.detach(),
        "score_real": gan.objective.score(out_real.detach()).mean(),
        "score_fake": gan.objective.score(out_fake.detach()).mean(),
    }
    penalty = gan.config.penalty
    if penalty.r1_gamma and (first // gan.config.batch_size) % penalty.penalty_interval == 0:
        squared_norm = r1_squared_norm(gan, real)
        loss = loss + penalty.penalty_interval * penalty.r1_gamma / 2 * squared_norm
        stats["r1"] = squared_norm.detach()
    gan.d.backward(loss)
    gan.d.step()
    return stats


def r1_squared_norm(gan: Gan, real: Tensor) -> Tensor:
    """E ||grad_x score(D(x))||^2 over real images, differentiable in D's weights.

    It runs beside the engine's forward, through the module: DeepSpeed allows one forward a backward
    to go through its hooks, and gradients come out exact (to 2e-7) this way.
    """
    images = real.detach().requires_grad_()
    score = gan.objective.score(gan.d.module(images).float())
    return r1_penalty(score, images, impl=gan.config.engine.impl).mean()


def train_g(gan: Gan, images: Tensor | None, first: int) -> Stats:
    """Update G once. images: uint8 [B, 3, R, R], or None for objectives that need no real batch."""
    real_draws = gan.draws(Stream.G_REAL, first)
    fake_draws = gan.draws(Stream.G_FAKE, first)
    fake = gan.g(fake_draws.normal(Purpose.LATENT, gan.config.g.z_dim))
    # Frozen, because D's gradients of this step would otherwise leak into its next update.
    with gan.d.frozen() as discriminator:
        out_real = None
        if images is not None:
            with torch.no_grad():
                out_real = discriminator(gan.normalise(images)).float()
        out_fake = discriminator(fake).float()
        loss = gan.objective.g_loss(out_fake, out_real, fake_draws, real_draws)
        gan.g.backward(loss)
    gan.g.step()
    return {"loss_g": loss.detach()}
