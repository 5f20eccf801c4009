"""Building G, D and the objective of a configuration, and properties needed at start-up."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from realness.trainer.augment.input_augmentation import InputAugmentation
from realness.trainer.config import TrainConfig
from realness.trainer.networks.batch_norm import has_batch_statistics
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.classes import ClassDistribution
from realness.trainer.networks.layout import ImageNetwork, choose_layout
from realness.trainer.objectives.base import Objective, build_objective


def build_networks(config: TrainConfig) -> tuple[nn.Module, nn.Module, Objective]:
    """Build G, D and the objective, with the same initial weights on every rank and any device.

    Activations have the layout of `config.engine.memory_format`.
    """
    objective = build_objective(config.objective)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size = config.data.resolution
        growing = config.growth.grow_kimg > 0
        options = {"growing": growing, "num_classes": config.classes.num_classes}
        generator = build_generator(config.g, size, objective.code_dim, **options)
        discriminator = build_discriminator(config.d, size, objective.num_outputs, **options)
    for network in (generator, discriminator):
        cast(ImageNetwork, network).memory_format = choose_layout(config.engine.memory_format)
    return generator, discriminator, objective


def build_augmentation(config: TrainConfig, device: torch.device) -> InputAugmentation | None:
    """The augmentation of D's input on `device`; None if there is none."""
    return config.augment.build(
        batch_size=config.batch_size,
        num_images=round(config.schedule_images),
        undecided=config.objective.undecided,
        device=device,
    )


def build_classes(config: TrainConfig, device: torch.device) -> ClassDistribution | None:
    """The classes of generated images; None for an unconditional run."""
    if not config.classes.num_classes:
        return None
    return ClassDistribution(config.classes.class_counts, device)


@dataclass(frozen=True)
class NetworkSize:
    """Number of trainable parameters of a network, and of its largest weight tensor."""

    num_weights: int
    largest_weight: int

    @staticmethod
    def of(module: nn.Module) -> NetworkSize:
        """The size of `module`, on any device."""
        sizes = [weight.numel() for weight in module.parameters()]
        return NetworkSize(sum(sizes), max(sizes))


@dataclass(frozen=True)
class Blueprint:
    """Properties of a run's networks and objective that are needed before they are built.

    has_batch_statistics: whether an image of G depends on the other images of its batch.
    """

    g: NetworkSize
    d: NetworkSize
    has_batch_statistics: bool
    needs_real_in_g_step: bool

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def of(config: TrainConfig) -> Blueprint:
        """The blueprint of a configuration; allocates no weights."""
        with torch.device("meta"):
            generator, discriminator, objective = build_networks(config)
        return Blueprint(
            NetworkSize.of(generator),
            NetworkSize.of(discriminator),
            has_batch_statistics(generator),
            objective.needs_real_in_g_step,
        )
