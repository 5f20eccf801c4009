"""Schedules as functions of the number of images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from realness.trainer.config import TrainConfig, flatten
from realness.trainer.config.schedule import Schedule


def lr_factor(config: TrainConfig, images: int) -> float:
    """The factor of the learning rates after `images` images: warm-up times decay."""
    schedule = config.optimizer
    warmup = schedule.lr_warmup_kimg * 1000
    # The first update must not have rate 0, so the ramp includes the current batch.
    ramp = min(1.0, (images + config.batch_size) / warmup) if warmup else 1.0
    if schedule.lr_decay == "none":
        return ramp
    if schedule.lr_decay == "step":
        return ramp * schedule.lr_step_factor ** math.floor(images / (schedule.lr_step_kimg * 1000))
    start, end = schedule.lr_decay_start_kimg * 1000, config.schedule_images
    progress = min(1.0, max(0.0, (images - start) / max(1.0, end - start)))
    if schedule.lr_decay == "linear":
        left = 1 - progress
    else:
        left = (1 + math.cos(math.pi * progress)) / 2
    return ramp * (schedule.lr_final + (1 - schedule.lr_final) * left)


def schedules(config: TrainConfig) -> dict[str, Schedule]:
    """The values with an end value (--...-final) by the names of their flags, in their units.

    The learning rates and p of augmentation are not among them.
    """
    flat = flatten(config)
    ends = {
        "beta2": "beta2_final",
        "r1_gamma": "r1_gamma_final",
        "r2_gamma": "r2_gamma_final",
        "ema_halflife_kimg": "ema_halflife_final_kimg",
    }
    return {
        name: config.scheduled(flat[name], flat[end])
        for name, end in ends.items()
        if flat.get(end) is not None
    }


def lazy_weight(interval: int, first_sample: int, batch_size: int) -> float:
    """The weight of a term due every `interval` images, in the update starting at `first_sample`.

    It is the average number of updates per update in which the term is due, so that the term's mean
    gradient is the same as without laziness; 0 if it is not due. An interval up to the batch size
    means every update. Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR
    2020), section 3.1, which uses 16 and 8 updates of 32 images.
    """
    if interval <= batch_size:
        return 1.0
    due = first_sample // interval > (first_sample - batch_size) // interval
    return interval / batch_size if due else 0.0


@dataclass(frozen=True)
class UpdatePlan:
    """The host-side decisions for one update. Everything else is computed on the device.

    An update can therefore be captured once per plan, and replayed on the device (`cuda_graphs`).

    penalty: weight of the network's lazy penalty in this update, 0 if it is not due.
    code_share: weight of P2GAN's posterior modules: 0.0 during pretraining, 1.0 afterwards.
    """

    penalty: float
    code_share: float


def plan_d_update(config: TrainConfig, first_sample: int) -> UpdatePlan:
    """The plan of D's update on the samples from `first_sample` on."""
    penalty = config.penalty
    weight = lazy_weight(penalty.penalty_images, first_sample, config.batch_size)
    return UpdatePlan(
        weight * penalty.any, _code_share(config, first_sample // config.optimizer.k_d)
    )


def plan_g_update(config: TrainConfig, first_sample: int) -> UpdatePlan:
    """The plan of G's update on the samples from `first_sample` on."""
    penalty = config.penalty
    weight = lazy_weight(penalty.path_length_images, first_sample, config.batch_size)
    due = penalty.path_length_weight > 0
    return UpdatePlan(weight * due, _code_share(config, first_sample // config.optimizer.k_g))


def _code_share(config: TrainConfig, images_seen: int) -> float:
    return float(images_seen >= config.objective.code_start_kimg * 1000)


def is_due(interval_kimg: float, images: int, batch_size: int) -> bool:
    """Whether the batch that ended at `images` completed another `interval_kimg` kimg."""
    interval = interval_kimg * 1000
    return math.floor(images / interval) > math.floor((images - batch_size) / interval)
