"""Fragments: stretches of named flat tensors, the unit in which state is saved and loaded.

A tensor of a run (a weight, a moment of Adam, a running mean) is treated as a flat array with a
name. Each rank writes the stretches it owns and reads the stretches it holds, so that a checkpoint
can be read with any other number of ranks and any other ZeRO stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Fragment:
    """`data` (1-D, a view) holds elements [offset, offset + len(data)) of the tensor `name`.

    `numel` is the length of the whole tensor. optional: a checkpoint may lack it; what is to be
    read then stays as it is.
    """

    name: str
    offset: int
    data: Tensor
    numel: int
    optional: bool = False

    @staticmethod
    def whole(name: str, tensor: Tensor) -> Fragment:
        """All of a contiguous tensor, as a view."""
        return Fragment(name, 0, tensor.detach().view(-1), tensor.numel())

    def within(self, prefix: str) -> Fragment:
        """The same fragment under the name `prefix/name`."""
        return replace(self, name=f"{prefix}/{self.name}")


def replicated(prefix: str, tensors: dict[str, Tensor]) -> list[Fragment]:
    """Tensors that every rank holds whole, named `prefix/key`."""
    return [Fragment.whole(f"{prefix}/{key}", tensor) for key, tensor in tensors.items()]


def share_of(whole: Fragment, rank: int, world_size: int) -> Fragment:
    """The stretch of a replicated tensor that `rank` writes; the ranks' stretches tile it."""
    start = whole.numel * rank // world_size
    stop = whole.numel * (rank + 1) // world_size
    return Fragment(whole.name, start, whole.data[start:stop], whole.numel)
