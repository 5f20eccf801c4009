"""Iterations with engines on the images of `plain_gan`, and the ranks' state after them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.inference.trained import trained_generator
from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import ShardedGan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.labels import labels
from tests.helpers.plain_gan import State, images

Stretches = list[tuple[str, int, np.ndarray]]
"""Pieces of named flat arrays: name, offset, values."""


def play(gan: ShardedGan, steps: range) -> list[tuple[float, float]]:
    """Run iterations on this rank's rows; returns the rank's losses."""
    batch, losses = gan.config.batch_size, []

    def share(stream: Stream, step: int, num_images: int) -> Tensor:
        local = num_images // world_size()
        real = images(stream, step, batch)[rank() * local : (rank() + 1) * local]
        return gan.as_grown(real, step * batch)

    for step in steps:
        gan.follow_schedules(step * batch)
        gan.grow(step * batch)
        of_d, of_g = (labels(gan, stream, step, batch) for stream in (Stream.D_REAL, Stream.G_REAL))
        real = share(Stream.D_REAL, step, gan.config.num_real)
        stats = update_d(gan, real, step * batch, labels=of_d)
        needed = gan.objective.needs_real_in_g_step
        compared = share(Stream.G_REAL, step, batch) if needed else None
        stats |= update_g(gan, compared, step * batch, labels=of_g)
        gan.update_average((step + 1) * batch)
        losses.append((stats["loss_d"].item(), stats["loss_g"].item()))
    return losses


def stretches(gan: ShardedGan) -> Stretches:
    """This rank's pieces of weights, buffers, moments and the moving average."""
    return [(item.name, item.offset, item.data.numpy().copy()) for item in gan.target_state()]


def whole(answers: list[Stretches], like: State) -> State:
    """The tensors of `like`, assembled from the ranks' pieces; NaN where no rank has a piece."""
    state = {name: np.full_like(value, np.nan) for name, value in like.items()}
    for answer in answers:
        for name, offset, values in answer:
            if name in state:
                state[name][offset : offset + len(values)] = values
    return state


def shown(gan: ShardedGan, count: int) -> Tensor:
    """The first images of a run's sample grids, in passes of the micro-batch."""
    generator = trained_generator(gan.config, gan.ema.module, 0, "")
    return generator.shown(count, gan.config.engine.micro_batch or gan.local_batch)
