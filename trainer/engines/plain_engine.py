"""Networks in one process, without DeepSpeed: in the 2-D experiments, and in trials."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from realness.trainer.config import OptimizerConfig
from realness.trainer.engines.optimizers import build_optimizer


class PlainEngine:
    """A `Player` in plain PyTorch.

    `loss_scale` multiplies losses before the backward pass. With S for a network of S independent
    members, whose loss is a mean over the rows of all, each member has the gradients of a run of
    its own.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        optimizer: OptimizerConfig,
        loss_scale: float = 1.0,
    ) -> None:
        self.module = module
        self.base_lr = lr
        self._loss_scale = loss_scale
        self._optimizer = build_optimizer(optimizer, module.parameters(), lr)

    def __call__(self, *inputs: Any) -> Tensor:
        return self.module(*inputs)

    def first_order(self, *inputs: Any) -> Tensor:
        """The network."""
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` times the scale."""
        (loss * self._loss_scale).backward()

    def step(self, loss: Tensor) -> None:
        """Update the weights and clear the gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing to do: they are."""
        return nullcontext()

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.base_lr * factor

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return self._optimizer.param_groups[0]["lr"]


class StillPlayer:
    """A `Player` that never learns: gradients add up, and `step` leaves weights and gradients.

    network: what calls run; by default `module` itself.
    """

    lr = 0.0

    def __init__(self, module: nn.Module, network: nn.Module | None = None) -> None:
        self.module = module
        self._network = network or module

    def __call__(self, *inputs: Any) -> Tensor:
        return self._network(*inputs)

    def first_order(self, *inputs: Any) -> Tensor:
        """The network."""
        return self._network(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        loss.backward()

    def step(self, loss: Tensor) -> None:
        """No-op: there is no optimiser."""

    def gathered(self) -> AbstractContextManager[None]:
        """No-op: the weights are never sharded."""
        return nullcontext()

    def set_lr_factor(self, factor: float) -> None:
        """No-op: there is no learning rate."""
