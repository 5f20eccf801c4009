"""One iteration: k_D updates of D, then k_G updates of G."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from realness.trainer.config import EngineConfig
from realness.trainer.randomness import Stream
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.cuda_graphs import graphed_updates
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.step import update_d, update_g


class Updates(NamedTuple):
    """The functions that update D and G: `update_d` and `update_g`, or their CUDA graphs."""

    d: Callable[[Gan, Tensor, int], Stats]
    g: Callable[[Gan, Tensor | None, int], Stats]


def choose_updates(config: EngineConfig) -> Updates:
    """The updates that `config` asks for; captured ones may be used with only one `Gan`."""
    return Updates(*graphed_updates()) if config.cuda_graphs else Updates(update_d, update_g)


def run_iteration(
    gan: Gan, updates: Updates, real_of: Callable[[Stream, int], Tensor], images: int
) -> Iterator[Stats]:
    """Run the updates of the iteration that starts at `images` images; yields the stats of each.

    real_of: returns the next real batch of a stream, [B, ...] in the networks' range, given the
    index of its first sample over all ranks. It is called for G's stream only if G's objective
    needs real images.
    """
    optimizer, batch = gan.config.optimizer, gan.config.batch_size
    for update in range(optimizer.k_d):
        first_sample = images * optimizer.k_d + update * batch
        yield updates.d(gan, real_of(Stream.D_REAL, first_sample), first_sample)
    for update in range(optimizer.k_g):
        first_sample = images * optimizer.k_g + update * batch
        needed = gan.objective.needs_real_in_g_step
        yield updates.g(gan, real_of(Stream.G_REAL, first_sample) if needed else None, first_sample)
