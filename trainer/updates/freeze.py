"""Layers that do not learn, for fine-tuning (Mo et al., "Freeze the Discriminator", 2020)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from realness.trainer.config import ConfigError, TrainConfig


def freeze(config: TrainConfig, generator: nn.Module, discriminator: nn.Module) -> None:
    """Set the gradients of the weights that do not learn to 0, in every later backward pass.

    Their moments then stay 0 and their weights as they are, at any ZeRO stage, and checkpoints have
    the same tensors as without freezing.

    Raises ConfigError unless a layer of D is left to learn.
    """
    count, layers = config.transfer.freeze_d, layers_of(discriminator)
    if count >= len(layers):
        raise ConfigError(
            f"--freeze-d={count}: --discriminator={config.d.name} has {len(layers)} layers; use at "
            f"most {len(layers) - 1}"
        )
    for layer in layers[:count]:
        _freeze(layer)
    if config.transfer.freeze_g == "mapping":
        _freeze(generator.get_submodule("mapping").parameters())


def layers_of(network: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each layer, in the order of the network's modules.

    A layer has a weight of two or more dimensions; the parameters of normalisations belong to the
    layer before them.
    """
    layers: list[list[nn.Parameter]] = []
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        if not layers or any(weight.dim() > 1 for weight in own):
            layers.append([])
        layers[-1] += own
    return layers


def _freeze(weights: Iterable[nn.Parameter]) -> None:
    for weight in weights:
        weight.register_hook(torch.zeros_like)
