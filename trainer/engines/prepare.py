"""A network made ready to run as configured: by the engines of a run, and in trials of it."""

from __future__ import annotations

import torch
from torch import nn

from realness.trainer.config import EngineConfig
from realness.trainer.engines.compiled import Compiled
from realness.trainer.networks import recompute_blocks


def prepare_network(
    module: nn.Module, config: EngineConfig, device: torch.device, *, compiled: bool
) -> nn.Module:
    """Move `module` to `device` and give it the precision and the recomputation of `config`.

    compiled: whether torch.compile runs it (`can_compile`). Returns what to call for outputs that
    are differentiated once at most; `module` itself is for all others. Copy a network before: what
    is changed here is its method `forward`.
    """
    if next(module.parameters()).device != device:  # fake weights cannot be moved
        module.to(device)
    if config.checkpoint_activations:
        recompute_blocks(module)
    if config.precision == "bf16":
        # Inside the module, because DeepSpeed switches off an autocast that surrounds it.
        module.forward = torch.autocast(device.type, dtype=torch.bfloat16)(module.forward)
    return Compiled(module) if compiled else module
