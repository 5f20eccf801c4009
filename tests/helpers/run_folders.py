"""Run folders with a checkpoint, made without training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from realness.trainer import checkpoint
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import TrainConfig
from realness.trainer.storage.run_folder import write_config
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.ema import Ema


def write_run(folder: Path, config: TrainConfig) -> Path:
    """A run folder with one checkpoint of fresh networks."""
    folder.mkdir()
    write_config(folder, config)
    generator, discriminator, _ = build_networks(config)
    for module in (generator, discriminator):
        _unsettle(module)
    fragments = Ema(generator, 1000).owned_state()
    for name, module in (("G", generator), ("D", discriminator)):
        fragments += replicated(f"{name}.model", module.state_dict())
    position = checkpoint.Position(80, {}, "digest")
    checkpoint.save(folder / "checkpoints", fragments, position, keep=9)
    return folder


@torch.no_grad()
def _unsettle(module: nn.Module) -> None:
    """Weights and running statistics as training leaves them: no longer 0, 1, or tiny."""
    random = torch.Generator().manual_seed(0)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        # The mapping network's weights are large from the start, and their gain small.
        if not value.is_floating_point() or name.endswith((".u", ".v")) or "mapping" in name:
            continue
        if name.endswith(("var", "std")):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        elif value.dim() < 2:
            value.add_(0.1 * torch.randn(value.shape, generator=random))
        else:
            value.copy_(torch.randn(value.shape, generator=random) * value[0].numel() ** -0.5)
