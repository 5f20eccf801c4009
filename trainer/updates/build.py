"""G, D and the objective of a configuration, with their initial weights."""

from __future__ import annotations

import torch
from torch import nn

from realness.trainer.config import TrainConfig
from realness.trainer.networks import (
    build_discriminator,
    build_generator,
)
from realness.trainer.objectives import Objective, build_objective


def build_networks(config: TrainConfig) -> tuple[nn.Module, nn.Module, Objective]:
    """G, D and the objective, with the same initial weights on every rank and any device."""
    objective = build_objective(config.objective)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size = config.data.resolution
        generator = build_generator(config.g, size, objective.code_dim)
        discriminator = build_discriminator(config.d, size, objective.num_outputs)
    return generator, discriminator, objective
