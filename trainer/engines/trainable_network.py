"""The interface through which training steps use a network and its optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn


class TrainableNetwork(Protocol):
    """G or D: a network, its optimiser, and the engine that runs them."""

    @property
    def module(self) -> nn.Module:
        """The network itself, for access to its state and for passes differentiated twice.

        Passes whose gradients are to be used call this object instead.
        """
        ...

    @property
    def lr(self) -> float:
        """The current learning rate."""
        ...

    def __call__(self, *inputs: Any) -> Tensor: ...

    def forward_once_differentiable(self, *inputs: Any) -> Tensor:
        """Run the network outside the engine, for outputs differentiated at most once."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of the mean of `loss` over ranks and the passes of an update."""
        ...

    def step(self, loss: Tensor) -> None:
        """Update the weights with the gradients of `loss`, and clear the gradients."""
        ...

    def weights_gathered(self) -> AbstractContextManager[None]:
        """Gather the whole weights on every rank for the block.

        Needed to read weights outside forward and backward passes, and around passes that are
        differentiated twice, from their start to the end of their backward pass. Do not nest.
        """
        ...

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        ...

    def set_progress(self, progress: float) -> None:
        """Set the optimiser's scheduled settings to their values at `progress` in [0, 1]."""
        ...


@contextlib.contextmanager
def frozen(network: TrainableNetwork) -> Iterator[Callable[..., Tensor]]:
    """The network's `forward_once_differentiable`, with frozen weights in the block.

    Frozen weights are constants: gradients pass through the network, and none are accumulated.
    """
    network.module.requires_grad_(False)
    try:
        yield network.forward_once_differentiable
    finally:
        network.module.requires_grad_(True)
