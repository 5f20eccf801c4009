"""Activation checkpointing: only the inputs of each block are stored, the rest is recomputed.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). Gradients are the same as
without it, including second derivatives for R1 and path lengths; each backward pass costs an
additional forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(network: nn.Module) -> int:
    """Make every block of `network` recompute in the backward pass; returns their number.

    A block is a module with the class attribute `recomputable = True`: it must draw no random
    numbers, and have no statistics that a second pass would update again.
    """
    blocks: list[Any] = [
        module for module in network.modules() if getattr(module, "recomputable", False)
    ]
    for block in blocks:
        block.forward = functools.partial(_recomputed, block.forward)
    return len(blocks)


def _recomputed(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    # Blocks draw no random numbers, so there is no generator state to preserve.
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
