"""One iteration: k_D updates of D, then k_G updates of G."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from realness.trainer.config import EngineConfig
from realness.trainer.randomness import Stream
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.cuda_graphs import captured_updates
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.step import update_d, update_g


class Updates(NamedTuple):
    """How D and G are updated: `update_d` and `update_g`, or the same by CUDA graphs."""

    d: Callable[[Gan, Tensor, int], Stats]
    g: Callable[[Gan, Tensor | None, int], Stats]


def choose_updates(config: EngineConfig) -> Updates:
    """The updates that `config` asks for; graphs belong to the first `Gan` that they see."""
    return Updates(*captured_updates()) if config.cuda_graphs else Updates(update_d, update_g)


def run_iteration(
    gan: Gan, updates: Updates, real_of: Callable[[Stream, int], Tensor], images: int
) -> Iterator[Stats]:
    """Make the updates of the iteration that begins at `images` images; yields what each reports.

    real_of: the next real batch of a stream, [B, ...] in the networks' range, given the number of
    its first sample over all ranks. G's stream is asked only where G's objective needs real images.
    """
    optimizer, batch = gan.config.optimizer, gan.config.batch_size
    for update in range(optimizer.k_d):
        first = images * optimizer.k_d + update * batch
        yield updates.d(gan, real_of(Stream.D_REAL, first), first)
    for update in range(optimizer.k_g):
        first = images * optimizer.k_g + update * batch
        needed = gan.objective.needs_real_in_g_step
        yield updates.g(gan, real_of(Stream.G_REAL, first) if needed else None, first)
