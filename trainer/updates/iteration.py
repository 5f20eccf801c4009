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

    d: Callable[..., Stats]
    g: Callable[..., Stats]


def choose_updates(config: EngineConfig) -> Updates:
    """The updates that `config` asks for; captured ones may be used with only one `Gan`."""
    return Updates(*graphed_updates()) if config.cuda_graphs else Updates(update_d, update_g)


def no_labels(stream: Stream) -> None:
    """The labels of real images in an unconditional run."""


def run_iteration(
    gan: Gan,
    updates: Updates,
    real_of: Callable[[Stream, int], Tensor],
    images: int,
    labels_of: Callable[[Stream], Tensor | None] = no_labels,
) -> Iterator[Stats]:
    """Run the updates of the iteration that starts at `images` images; yields the stats of each.

    real_of: returns the next real batch of a stream, [B, ...] in the networks' range, given the
    index of its first sample over all ranks. It is called for G's stream only if G's objective
    needs real images. labels_of: the labels of the batch that real_of has returned last for a
    stream, one-hot [B, num_classes].
    """
    optimizer, batch = gan.config.optimizer, gan.config.batch_size
    for update in range(optimizer.k_d):
        first_sample = images * optimizer.k_d + update * batch
        real = real_of(Stream.D_REAL, first_sample)
        yield updates.d(gan, real, first_sample, labels=labels_of(Stream.D_REAL))
    for update in range(optimizer.k_g):
        first_sample = images * optimizer.k_g + update * batch
        if not gan.objective.needs_real_in_g_step:
            yield updates.g(gan, None, first_sample)
            continue
        real = real_of(Stream.G_REAL, first_sample)
        yield updates.g(gan, real, first_sample, labels=labels_of(Stream.G_REAL))
