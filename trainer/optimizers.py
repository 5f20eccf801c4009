"""The papers' optimisers, and the state that each keeps for every weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from realness.trainer.config import OptimizerConfig

# Names of the tensors, of the weight's shape, in the optimiser's state.
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "rmsprop": ("square_avg",)}


def build_optimizer(
    config: OptimizerConfig, weights: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimiser that `config` names, with learning rate `lr`."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            weights, lr=lr, alpha=config.rmsprop_alpha, eps=config.optimizer_eps
        )
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(weights, lr=lr, betas=betas, eps=config.optimizer_eps)


def allocate_state(optimizer: torch.optim.Optimizer, moments: tuple[str, ...]) -> None:
    """Make the state now: memory is then known from the start, and loading has a target."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state = optimizer.state[weight]
            state["step"] = torch.zeros((), dtype=torch.float32)
            for key in moments:
                state[key] = torch.zeros_like(weight, memory_format=torch.preserve_format)
