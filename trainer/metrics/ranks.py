"""Distributing an evaluation over ranks, and gathering the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import rank, world_size


@dataclass(frozen=True)
class Share:
    """This rank's samples of a global batch: [first, first + count), at most `batch` rows."""

    first: int
    count: int
    batch: int

    def index(self, device: torch.device | str = "cpu") -> Tensor:
        """The samples' global indices, int64 [count]."""
        return torch.arange(self.first, self.first + self.count, device=device)


def shares(num_samples: int, batch_size: int) -> Iterator[Share]:
    """This rank's part of samples 0 .. num_samples - 1, in batches of `batch_size` per rank.

    Every rank gets the same number of batches, the last of which may be short or empty. Batch k of
    W ranks contains the samples from k * W * batch_size on, in rank order.
    """
    for start in range(0, num_samples, batch_size * world_size()):
        first = start + rank() * batch_size
        yield Share(first, max(0, min(batch_size, num_samples - first)), batch_size)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of every rank, in rank order, on every rank: [n_r, ...] -> [sum of n_r, ...].

    The ranks may differ in n_r, but not in the other dimensions; collective.
    """
    if world_size() == 1:
        return rows
    counts = gather(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
