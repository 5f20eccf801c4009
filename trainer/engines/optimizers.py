"""Adam and RMSProp that skip updates with a non-finite loss, gradient norms and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realness.trainer.config import ConfigError, OptimizerConfig
from realness.trainer.distributed.ranks import world_size
from realness.trainer.engines.optimizer_configs import RMSPropConfig


def build_optimizer(
    config: OptimizerConfig, weights: Iterable[nn.Parameter], lr: float | Tensor
) -> torch.optim.Optimizer:
    """The optimiser that `config` chooses, with learning rate `lr`.

    If its attribute `found_inf`, a scalar tensor, is 1, `step` changes nothing; no device
    synchronisation is needed. A step can be captured in a CUDA graph if `lr` is a tensor on the
    device, whose value may then change between replays.

    Raises ConfigError for an optimiser that does not support `found_inf`.
    """
    optimizer = config.algorithm.build(weights, lr)
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ConfigError(
            f"--optimizer={config.algorithm.name} cannot skip an update whose loss is not finite: "
            f"{type(optimizer).__qualname__}.step must change nothing if `found_inf` is 1. Use an "
            "optimiser of torch with fused=True, or write such a step and set its class attribute "
            "_step_supports_amp_scaling = True"
        )
    return optimizer


def lazily_corrected(
    config: OptimizerConfig, lr: float, num_updates: float
) -> tuple[OptimizerConfig, float]:
    """The optimiser of a network whose penalty is due in one of `num_updates` k updates.

    With `lazy_correction`, lr' = c lr and beta' = beta^c with c = k / (k + 1) (Karras et al.,
    "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, appendix B).
    """
    if not config.lazy_correction or num_updates <= 1:
        return config, lr
    c = num_updates / (num_updates + 1)
    return replace(config, algorithm=config.algorithm.lazily_corrected(c)), lr * c


class SkippingRMSprop(torch.optim.RMSprop):
    """RMSProp that leaves weights and averages unchanged if `found_inf` is 1.

    PyTorch's RMSprop has no `found_inf`, and cannot be captured in a CUDA graph with a learning
    rate that changes.
    """

    found_inf: Tensor | None = None
    _step_supports_amp_scaling = True  # torch's sign that `step` obeys found_inf

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """v = alpha v + (1 - alpha) g^2, w = w - lr g / (sqrt(v) + eps), as in PyTorch."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            new = [weight for weight in weights if not self.state[weight]]
            allocate_state(self, new, RMSPropConfig.moments)
            states = [self.state[weight] for weight in weights]
            steps = [state["step"] for state in states]
            averages = [state["square_avg"] for state in states]
            gradients, alpha = [weight.grad for weight in weights], group["alpha"]
            decay: float | Tensor = alpha
            torch._foreach_add_(steps, 1)
            if self.found_inf is not None:
                torch._foreach_sub_(steps, [self.found_inf] * len(steps))
                # 0 * NaN is NaN, so bad gradients must be masked, not just weighted by 0.
                bad = self.found_inf.bool()
                gradients = [gradient.masked_fill(bad, 0.0) for gradient in gradients]
                decay = alpha + (1 - alpha) * self.found_inf
            torch._foreach_mul_(averages, decay)
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - alpha)
            scales = torch._foreach_sqrt(averages)
            torch._foreach_add_(scales, group["eps"])
            changes = torch._foreach_mul(gradients, group["lr"])
            torch._foreach_div_(changes, scales)
            torch._foreach_sub_(weights, changes)
        return None


class GradientNorm:
    """Computes the norm of the gradient over all weights in every step, and optionally clips it.

    max_norm: gradients with a larger norm are scaled down to it, as in DeepSpeed and PyTorch but
    without a device synchronisation; 0 disables clipping. sharded: whether each rank's optimiser
    has its own part of the gradients; a step is then collective. device: where the optimiser runs.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        max_norm: float,
        sharded: bool,
        device: torch.device,
    ) -> None:
        self._max_norm, self._sharded = max_norm, sharded
        # The sum and the count of the finite norms since the last `read`.
        self._totals = torch.zeros(2, device=device)
        optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        squared_norm = torch.stack(torch._foreach_norm(gradients)).square().sum()
        if self._sharded and world_size() > 1:
            dist.all_reduce(squared_norm)
        norm = squared_norm.sqrt()
        # In place, so that captured and eager updates add to the same tensor.
        self._totals.add_(torch.stack([norm.nan_to_num(0.0, 0.0, 0.0), norm.isfinite().float()]))
        if self._max_norm:
            torch._foreach_mul_(gradients, (self._max_norm / (norm + 1e-6)).clamp(max=1.0))

    def read(self) -> float:
        """The mean of the norms before clipping since the last call; synchronises with the device.

        Non-finite norms are ignored; NaN if there was no finite norm.
        """
        total, count = self._totals.tolist()
        self._totals.zero_()
        return total / count if count else math.nan


class SkipCount:
    """Marks updates that the optimiser must skip, and counts them, on the device.

    optimizer_device: where the optimiser runs, which may be the host.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        optimizer_device: torch.device,
    ) -> None:
        self._optimizer = cast(Any, optimizer)
        self._optimizer_device = optimizer_device
        self._counts = torch.zeros(2, device=device)

    def mark(self, loss: Tensor) -> None:
        """Skip the next update unless `loss` is finite on all ranks; collective."""
        bad = is_bad(loss)
        if world_size() > 1:
            dist.all_reduce(bad, dist.ReduceOp.MAX)
        self.record(bad)

    def record(self, bad: Tensor) -> None:
        """Skip the next update if `bad`, a scalar that is the same on all ranks, is 1; not if 0."""
        self._optimizer.found_inf = bad.to(self._optimizer_device)
        total, in_a_row = self._counts
        # In place, so that captured and eager updates add to the same tensor.
        self._counts.copy_(torch.stack([total + bad, (in_a_row + 1) * bad]))

    def read(self) -> tuple[int, int]:
        """Updates skipped so far, and the current number in a row; synchronises with the device."""
        total, in_a_row = self._counts.tolist()
        return int(total), int(in_a_row)

    def reset(self) -> None:
        """Reset both counts to 0."""
        self._counts.zero_()


def is_bad(loss: Tensor) -> Tensor:
    """1 if an update with this rank's `loss` must be skipped, otherwise 0; a float32 scalar."""
    return (~loss.detach().isfinite()).float()


def allocate_state(
    optimizer: torch.optim.Optimizer, weights: Iterable[Tensor], moments: tuple[str, ...]
) -> None:
    """Allocate the optimiser's state of `weights`, so that its memory is known from the start and
    checkpoints can be loaded into it."""
    for weight in weights:
        state = optimizer.state[weight]
        state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        for key in moments:
            state[key] = torch.zeros_like(weight, requires_grad=False)
