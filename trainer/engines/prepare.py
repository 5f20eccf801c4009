"""Preparing a network to run as configured, for the engines of a run and for trials."""

from __future__ import annotations

import torch
from torch import nn

from realness.trainer.config import EngineConfig
from realness.trainer.engines.compiled import Compiled
from realness.trainer.networks.recompute import recompute_blocks


def prepare_network(
    module: nn.Module, config: EngineConfig, device: torch.device, *, compiled: bool
) -> nn.Module:
    """Move `module` to `device`, and apply the precision and recomputation of `config`.

    compiled: whether to run it through torch.compile (see `can_compile`). Returns the module to
    call for outputs that are differentiated at most once; call `module` itself for all others. To
    copy a network, do so before this call, which replaces its method `forward`.
    """
    if next(module.parameters()).device != device:  # fake weights cannot be moved
        module.to(device)
    if config.checkpoint_activations:
        recompute_blocks(module)
    if config.precision == "bf16":
        # Inside the module, because DeepSpeed switches off an autocast that surrounds it.
        module.forward = torch.autocast(device.type, dtype=torch.bfloat16)(module.forward)
    return Compiled(module) if compiled else module
