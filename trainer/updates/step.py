"""One update of D and one update of G.

`first_sample` is the index of the batch's first sample in its streams, counted over all ranks and
the whole run. Returned values are tensors on the device; there is no device synchronisation. The
host-side decisions are in the `plan` of an update, computed from `first_sample` if not given; with
a plan, `first_sample` may also be a tensor. A batch may pass through the networks in parts
(`gan.parts()`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from realness.trainer.augment.input_augmentation import View, unchanged
from realness.trainer.engines.trainable_network import frozen
from realness.trainer.networks.batch_norm import parts_of_one_batch
from realness.trainer.networks.spectral_norm import update_spectral_norm
from realness.trainer.objectives.penalties import (
    finite_difference_squared_norm,
    gradient_squared_norm,
    interpolate,
    one_centered,
    zero_centered,
)
from realness.trainer.randomness import Draws, Purpose, Stream
from realness.trainer.updates.accumulation import (
    BatchLoss,
    Stats,
    mean_over_parts,
    run_in_parts,
    weights_gathered_if,
)
from realness.trainer.updates.conditions import Batch, joined
from realness.trainer.updates.fake_as_real import fakes_as_real, real_batch_draws
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.path_length import path_length_penalty, track_path_length
from realness.trainer.updates.schedule import UpdatePlan, plan_d_update, plan_g_update


def update_d(
    gan: Gan,
    real: Tensor,
    first_sample: int | Tensor,
    plan: UpdatePlan | None = None,
    labels: Tensor | None = None,
) -> Stats:
    """Update D once. real: [B, ...] in the networks' range, this rank's share of the real batch.

    labels: the classes of `real`, one-hot [B, num_classes], in a conditional run. With FAR-GAN, the
    real batch has M0 images less, and M0 fakes complete it.
    """
    plan = plan or plan_d_update(gan.config, cast(int, first_sample))
    objective, parts = gan.objective, gan.parts()
    real_draws = real_batch_draws(gan, first_sample)
    fake_draws = gan.draws(Stream.D_FAKE, first_sample)

    images_seen = first_sample // gan.config.optimizer.k_d
    view, num_real = gan.view(images_seen), len(real)
    fake = generate(gan, view, real, real_draws, fake_draws, plan)
    if gan.config.far.far_fakes:
        real = torch.cat([real, fakes_as_real(gan, view, first_sample).to(real.dtype)])
    reals, fakes = gan.labelled(real, real_draws, labels), gan.generated(fake, fake_draws)
    with gan.d.weights_gathered():
        update_spectral_norm(gan.d.module)

    def outputs(rows: slice) -> tuple[Tensor, ...]:
        return outputs_of_both(gan, view, reals[rows], fakes[rows])

    def loss_of(rows: slice, out_real: Tensor, out_fake: Tensor) -> Tensor:
        return objective.d_loss(out_real, out_fake, real_draws[rows], fake_draws[rows])

    loss, penalties = BatchLoss(loss_of, parts), []
    with weights_gathered_if(plan.penalty, gan.d):
        if objective.loss_couples_samples:
            loss.look_ahead(outputs)
        for rows in parts:
            total = loss.of(rows, outputs(rows))
            if plan.penalty:
                both = reals[rows], fakes[rows]
                penalty, norms = gradient_penalty(gan, view, *both, images_seen)
                total = total + plan.penalty * penalty
                penalties.append(norms)
            gan.d.backward(total)
    value = loss.value
    gan.d.step(value)

    out_real, out_fake = loss.outputs
    augmented = {}
    if gan.augment is not None:
        augmented = gan.augment.measures(images_seen)
        gan.augment.observe(objective.score(out_real[:num_real]))
    return {
        "loss_d": value,
        **augmented,
        "score_real": objective.score(out_real).mean(),
        "score_fake": objective.score(out_fake).mean(),
        **objective.measures(out_real, out_fake, real_draws, fake_draws),
        **mean_over_parts(penalties),
    }


def outputs_of_both(gan: Gan, view: View, real: Batch, fake: Batch) -> tuple[Tensor, ...]:
    """D's outputs [B, num_outputs] on a batch of real and one of generated images, fp32.

    D treats all images alike, so one pass over both is exact and loads the weights once.
    """
    seen = torch.cat([real.seen(view), fake.seen(view)])
    return gan.d(seen, *joined([real.condition, fake.condition])).float().chunk(2)


def update_g(
    gan: Gan,
    real: Tensor | None,
    first_sample: int | Tensor,
    plan: UpdatePlan | None = None,
    labels: Tensor | None = None,
) -> Stats:
    """Update G once. real, labels: as in `update_d`, or None for objectives that need none."""
    plan = plan or plan_g_update(gan.config, cast(int, first_sample))
    objective, parts = gan.objective, gan.parts()
    real_draws = gan.draws(Stream.G_REAL, first_sample)
    fake_draws = gan.draws(Stream.G_FAKE, first_sample)
    path_draws = gan.draws(Stream.PATH, first_sample)
    num_forwards = BatchLoss.num_forwards(parts, objective.loss_couples_samples)

    view = gan.view(first_sample // gan.config.optimizer.k_g)

    # Frozen, because D's gradients in this step would otherwise leak into D's next update.
    with frozen(gan.d) as discriminator:
        out_real = None
        if real is not None:
            reals = gan.labelled(real, real_draws, labels)
            out_real = run_in_parts(discriminator, (reals.seen(view), *reals.condition), parts)

        def on_real(rows: slice) -> Tensor | None:
            return None if out_real is None else out_real[rows]

        def outputs(rows: slice) -> tuple[Tensor, ...]:
            draws = fake_draws[rows]
            inputs = gan.inputs(draws, plan.code_share, on_real(rows), real_draws[rows])
            fake = gan.generated(gan.g(*inputs), draws)
            return (discriminator(fake.seen(view), *fake.condition).float(),)

        def loss_of(rows: slice, out_fake: Tensor) -> Tensor:
            return objective.g_loss(out_fake, on_real(rows), fake_draws[rows], real_draws[rows])

        loss, penalties = BatchLoss(loss_of, parts), []
        with (
            parts_of_one_batch(gan.g.module, num_forwards),
            weights_gathered_if(plan.penalty, gan.g),
        ):
            if objective.loss_couples_samples:
                loss.look_ahead(outputs)
            for rows in parts:
                total = loss.of(rows, outputs(rows))
                if plan.penalty:
                    penalty, lengths = path_length_penalty(
                        gan, path_draws[rows], plan.code_share, on_real(rows), real_draws[rows]
                    )
                    total = total + plan.penalty * penalty
                    penalties.append(lengths)
                gan.g.backward(total)
    value = loss.value
    gan.g.step(value)

    gan.track_codes(out_real)
    stats = mean_over_parts(penalties)
    if plan.penalty:
        track_path_length(gan, stats["path_length"])
    return {"loss_g": value, **stats}


@torch.no_grad()
def generate(
    gan: Gan, view: View, real: Tensor, real_draws: Draws, fake_draws: Draws, plan: UpdatePlan
) -> Tensor:
    """This rank's generated images [B, ...] for an update of D, in the dtype of `real`.

    For P2GAN they use the objective's codes, by default from D's posteriors of the `real` images in
    the same rows.
    """
    parts = gan.parts()

    def images(rows: slice) -> Tensor:
        coded = None
        if gan.objective.code_dim:
            seen = view(real[rows], real_draws[rows])
            coded = gan.d.forward_once_differentiable(seen).float()
        return gan.g(*gan.inputs(fake_draws[rows], plan.code_share, coded, real_draws[rows]))

    with parts_of_one_batch(gan.g.module, len(parts)):
        return torch.cat([images(rows) for rows in parts]).to(real.dtype)


def gradient_penalty(
    gan: Gan, view: View, real: Batch, fake: Batch, images_seen: int | Tensor
) -> tuple[Tensor, Stats]:
    """The weighted sum of the configured penalties on grad_x score(D(x)), and each one separately.

    `real` and `fake` are equally many. Between an image of each, the classes are interpolated as
    the images are. `images_seen`, before this update, gives the place in the weights' schedules.
    With augmentation, x is the image before it, as in ADA's published code, so that D's slope
    includes its view.
    Runs the module directly, not through the engine: DeepSpeed allows only one forward pass per
    backward pass through its hooks, and gradients are exact (to 2e-7) this way.
    """
    config = gan.config.penalty
    terms = []
    if config.has_r1:
        terms.append(("r1", real, gan.gamma("r1", images_seen) / 2, zero_centered))
    if config.has_r2:
        terms.append(("r2", fake, gan.gamma("r2", images_seen) / 2, zero_centered))
    if config.gp_weight:
        share = real.draws.uniform(Purpose.INTERPOLATION, 1)
        condition = zip(real.condition, fake.condition, strict=True)
        between = Batch(
            interpolate(real.images, fake.images, share),
            real.draws,
            tuple(interpolate(*pair, share) for pair in condition),
        )
        form = one_centered if config.gp_target else zero_centered
        terms.append(("gp", between, config.gp_weight, form))
    size, batches = len(real.images), [batch for _, batch, _, _ in terms]
    points = torch.cat([batch.images for batch in batches]).detach().requires_grad_()
    condition = joined([batch.condition for batch in batches])

    def score(points: Tensor) -> Tensor:
        if view is not unchanged:
            draws = [batch.draws for batch in batches]
            points = torch.cat(list(map(view, points.split(size), draws)))
        return gan.objective.score(gan.d.module(points, *condition).float())

    if config.r1 == "exact":
        squared_norms = gradient_squared_norm(score(points), points)
    else:
        squared_norms = finite_difference_squared_norm(score, points)
    total, stats = squared_norms.new_zeros(()), {}
    for (name, _, weight, form), part in zip(terms, squared_norms.split(size), strict=True):
        value = form(part).mean()
        total = total + weight * value
        stats[name] = value.detach()
    return total, stats
