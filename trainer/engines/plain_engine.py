"""Engines in a single process without DeepSpeed, for the 2-D experiments and for trials."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from realness.trainer.config import OptimizerConfig
from realness.trainer.engines.optimizers import build_optimizer


class PlainEngine:
    """A `TrainableNetwork` in plain PyTorch.

    `loss_scale` multiplies losses before the backward pass. For a network of S independent members,
    whose loss is a mean over the rows of all members, a scale of S gives each member the gradients
    of a separate run.
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
        self._algorithm = optimizer.algorithm
        self._optimizer = build_optimizer(optimizer, module.parameters(), lr)

    def __call__(self, *inputs: Any) -> Tensor:
        return self.module(*inputs)

    def forward_once_differentiable(self, *inputs: Any) -> Tensor:
        """Run the network."""
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` times the scale."""
        (loss * self._loss_scale).backward()

    def step(self, loss: Tensor) -> None:
        """Update the weights and clear the gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def weights_gathered(self) -> AbstractContextManager[None]:
        """No-op: the weights are never sharded."""
        return nullcontext()

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.base_lr * factor

    def set_progress(self, progress: float) -> None:
        """Set the optimiser's scheduled settings to their values at `progress` in [0, 1]."""
        for group in self._optimizer.param_groups:
            group.update(self._algorithm.settings_at(progress))

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return self._optimizer.param_groups[0]["lr"]


class EngineWithoutOptimizer:
    """A `TrainableNetwork` that never learns: gradients accumulate, and `step` changes nothing.

    network: the module that calls run; `module` itself by default.
    """

    lr = 0.0

    def __init__(self, module: nn.Module, network: nn.Module | None = None) -> None:
        self.module = module
        self._network = network or module

    def __call__(self, *inputs: Any) -> Tensor:
        return self._network(*inputs)

    def forward_once_differentiable(self, *inputs: Any) -> Tensor:
        """Run the network."""
        return self._network(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss`."""
        loss.backward()

    def step(self, loss: Tensor) -> None:
        """No-op: there is no optimiser."""

    def weights_gathered(self) -> AbstractContextManager[None]:
        """No-op: the weights are never sharded."""
        return nullcontext()

    def set_lr_factor(self, factor: float) -> None:
        """No-op: there is no learning rate."""

    def set_progress(self, progress: float) -> None:
        """No-op: there is no optimiser."""
