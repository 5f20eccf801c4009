"""Iterations with engines on the images of `plain_gan`, and what the ranks hold after them."""

from __future__ import annotations

import numpy as np
from plain_gan import State, images

from realness.trainer.distributed import rank
from realness.trainer.randomness import Stream
from realness.trainer.sharded_gan import ShardedGan
from realness.trainer.step import train_d, train_g

Stretches = list[tuple[str, int, np.ndarray]]
"""Pieces of named flat arrays: name, offset, values."""


def play(gan: ShardedGan, steps: range) -> list[tuple[float, float]]:
    """Iterations on this rank's rows; the rank's losses."""
    rows = slice(rank() * gan.local_batch, (rank() + 1) * gan.local_batch)
    batch, losses = gan.config.batch_size, []
    for step in steps:
        real = {s: images(s, step, batch)[rows] for s in (Stream.D_REAL, Stream.G_REAL)}
        stats = train_d(gan, real[Stream.D_REAL], step * batch)
        stats |= train_g(gan, real[Stream.G_REAL], step * batch)
        gan.update_average((step + 1) * batch)
        losses.append((stats["loss_d"].item(), stats["loss_g"].item()))
    return losses


def stretches(gan: ShardedGan) -> Stretches:
    """All that this rank holds of weights, buffers, moments and the moving average."""
    return [(item.name, item.offset, item.data.numpy().copy()) for item in gan.target_state()]


def whole(answers: list[Stretches], like: State) -> State:
    """What the ranks hold of the tensors in `like`, put together; NaN where no rank holds it."""
    state = {name: np.full_like(value, np.nan) for name, value in like.items()}
    for answer in answers:
        for name, offset, values in answer:
            if name in state:
                state[name][offset : offset + len(values)] = values
    return state
