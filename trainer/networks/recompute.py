"""Activation checkpointing: of each block only its inputs are kept, the rest is computed again.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). Gradients are those without it,
second ones for R1 and path lengths too; a backward pass costs one more forward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from realness.trainer.networks.resnet import ResBlock
from realness.trainer.networks.sn_resnet import DiscriminatorBlock
from realness.trainer.networks.stylegan2_discriminator import ResidualBlock
from realness.trainer.networks.stylegan2_generator import SynthesisBlock

BLOCKS = (DiscriminatorBlock, ResBlock, ResidualBlock, SynthesisBlock)
"""None of them holds statistics that a second pass would move twice."""


def recompute_blocks(network: nn.Module) -> int:
    """Let every block of `network` be computed again in the backward pass; returns how many."""
    blocks: list[Any] = [module for module in network.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = functools.partial(_recomputed, block.forward)
    return len(blocks)


def _recomputed(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    # Nothing in a block draws random numbers.
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
