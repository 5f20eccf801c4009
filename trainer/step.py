"""One update of D and one update of G.

Both count samples: `first` is the index of the batch's first sample in its streams, over all ranks
and the whole run. The values they return are tensors on the device; nothing here waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.fake_as_real import fakes_as_real
from realness.trainer.gan import Gan
from realness.trainer.networks import update_spectral_norm
from realness.trainer.penalties import (
    gradient_squared_norm,
    interpolate,
    one_centered,
    zero_centered,
)
from realness.trainer.player import frozen
from realness.trainer.randomness import Draws, Purpose, Stream

Stats = dict[str, Tensor]


def train_d(gan: Gan, real: Tensor, first: int) -> Stats:
    """Update D once. real: [B, ...] in the networks' range, this rank's share of the real batch.

    With FAR-GAN's M0 fakes the real batch is so much smaller: the fakes complete it.
    """
    real_draws = gan.draws(Stream.D_REAL, first)
    fake_draws = gan.draws(Stream.D_FAKE, first)
    with torch.no_grad():
        coded = gan.d.module(real).float() if gan.objective.code_dim else None
        images_seen = first // gan.config.optimizer.k_d
        fake = gan.g(*gan.inputs(fake_draws, images_seen, coded, real_draws)).to(real.dtype)
    if gan.config.far.far_fakes:
        real = torch.cat([real, fakes_as_real(gan, first).to(real.dtype)])
    update_spectral_norm(gan.d.module)
    # D treats every image alike, so one pass over both batches is exact and loads the weights once.
    out_real, out_fake = gan.d(torch.cat([real, fake])).float().chunk(2)
    loss = gan.objective.d_loss(out_real, out_fake, real_draws, fake_draws)
    seen_real, seen_fake = out_real.detach(), out_fake.detach()
    stats = {
        "loss_d": loss.detach(),
        "score_real": gan.objective.score(seen_real).mean(),
        "score_fake": gan.objective.score(seen_fake).mean(),
        **gan.objective.measures(seen_real, seen_fake, real_draws, fake_draws),
    }
    interval = gan.config.penalty.penalty_interval
    if (first // gan.config.batch_size) % interval == 0:
        penalty, norms = gradient_penalty(gan, real, fake, real_draws)
        loss = loss + interval * penalty
        stats |= norms
    gan.d.backward(loss)
    gan.d.step()
    return stats


def gradient_penalty(
    gan: Gan, real: Tensor, fake: Tensor, draws: Draws
) -> tuple[Tensor | float, Stats]:
    """The weighted sum of the configured penalties on grad_x score(D(x)), and each by itself.

    It runs beside the engine's forward, through the module: DeepSpeed allows one forward a backward
    to go through its hooks, and gradients come out exact (to 2e-7) this way.
    """
    config = gan.config.penalty
    terms = []
    if config.r1_gamma:
        terms.append(("r1", real, config.r1_gamma / 2, zero_centered))
    if config.r2_gamma:
        terms.append(("r2", fake, config.r2_gamma / 2, zero_centered))
    if config.gp_weight:
        between = interpolate(real, fake, draws.uniform(Purpose.INTERPOLATION, 1))
        form = one_centered if config.gp_target else zero_centered
        terms.append(("gp", between, config.gp_weight, form))
    if not terms:
        return 0.0, {}
    points = torch.cat([points for _, points, _, _ in terms]).detach().requires_grad_()
    score = gan.objective.score(gan.d.module(points).float())
    squared_norms = gradient_squared_norm(score, points, impl=gan.config.engine.impl)
    total, stats = 0.0, {}
    for (name, _, weight, form), part in zip(terms, squared_norms.split(len(real)), strict=True):
        value = form(part).mean()
        total = total + weight * value
        stats[name] = value.detach()
    return total, stats


def train_g(gan: Gan, real: Tensor | None, first: int) -> Stats:
    """Update G once. real: [B, ...] as in `train_d`, or None for objectives that need none."""
    real_draws = gan.draws(Stream.G_REAL, first)
    fake_draws = gan.draws(Stream.G_FAKE, first)
    # Frozen, because D's gradients of this step would otherwise leak into its next update.
    with frozen(gan.d.module) as discriminator:
        out_real = None
        if real is not None:
            with torch.no_grad():
                out_real = discriminator(real).float()
        images_seen = first // gan.config.optimizer.k_g
        fake = gan.g(*gan.inputs(fake_draws, images_seen, out_real, real_draws))
        out_fake = discriminator(fake).float()
        loss = gan.objective.g_loss(out_fake, out_real, fake_draws, real_draws)
        gan.g.backward(loss)
    gan.g.step()
    gan.track_codes(out_real)
    return {"loss_g": loss.detach()}
