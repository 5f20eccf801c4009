"""Labels of synthetic images, for tests that call the updates themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.networks.classes import one_hot
from realness.trainer.randomness import Stream
from realness.trainer.updates.gan import Gan


def labels(gan: Gan, stream: Stream, update: int, count: int) -> Tensor | None:
    """This rank's rows of a global batch's labels, [rows, num_classes]; None without classes."""
    if gan.classes is None:
        return None
    generator = torch.Generator().manual_seed(1000 * stream + update)
    chosen = torch.randint(0, gan.classes.num_classes, (count,), generator=generator)
    rows = count // world_size()
    mine = chosen[rank() * rows : (rank() + 1) * rows]
    return one_hot(mine.to(gan.device), gan.classes.num_classes)
