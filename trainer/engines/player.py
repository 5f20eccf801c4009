"""What the training step asks of a network with its optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn


class Player(Protocol):
    """G or D: a network, its optimiser, and whatever runs around both."""

    @property
    def module(self) -> nn.Module:
        """The network itself: its state, and passes to be differentiated twice.

        Calling the player runs it too, with gradients to be used.
        """
        ...

    @property
    def lr(self) -> float:
        """The learning rate now."""
        ...

    def __call__(self, *inputs: Any) -> Tensor: ...

    def first_order(self, *inputs: Any) -> Tensor:
        """The network beside calls of the player, for outputs differentiated once at most."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add gradients of the mean of `loss` over ranks and over the passes of an update."""
        ...

    def step(self, loss: Tensor) -> None:
        """Update the weights, having minimised `loss`, and clear the gradients."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """The weights whole on every rank.

        For whoever reads them outside the network's passes, and for passes to be differentiated
        twice, from their start to the end of their backward pass. Do not nest.
        """
        ...

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        ...


@contextlib.contextmanager
def frozen(player: Player) -> Iterator[Callable[..., Tensor]]:
    """The player's network, to first order, with its weights taken as constants."""
    player.module.requires_grad_(False)
    try:
        yield player.first_order
    finally:
        player.module.requires_grad_(True)
