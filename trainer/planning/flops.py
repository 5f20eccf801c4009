"""Floating-point operations of training per image, counted instead of estimated.

The update functions of training run on torch's meta device, which only computes shapes, under
torch's counter of the operations of convolutions and matrix products (2 per multiply-add). All
other operations, a few percent, are ignored, as is usual for such figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from realness import kernels
from realness.trainer.config import PenaltyConfig, TrainConfig
from realness.trainer.planning.trial import TrialRun

META = torch.device("meta")


class _Counter(TorchDispatchMode):
    """Counts the operations in its block. (torch's FlopCounterMode also counts per module, with
    hooks that do not work with autograd.grad, which penalties use.)"""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        if func is torch.ops.aten.convolution_backward.default:
            self.total -= grouped_excess(result[1], args[0], args[9])
        return result

    def take(self) -> int:
        """Operations since the last call."""
        total, self.total = self.total, 0
        return total


def grouped_excess(gradient: Tensor | None, upstream: Tensor, groups: int) -> int:
    """What torch counts too much for the weight's gradient of a convolution in groups.

    gradient: [out, in / groups, kh, kw]; upstream: [B, out, H, W]. torch (2.13) counts `groups`
    times as much, as if every output channel saw every input channel. A transposed convolution
    with groups would differ, and no network has one.
    """
    if gradient is None or groups == 1:
        return 0
    work = 2 * gradient.numel() * upstream.shape[0] * math.prod(upstream.shape[2:])
    return work * (groups - 1)


@dataclass(frozen=True)
class Flops:
    """Operations per image and update of D and G, without and with their penalties.

    iteration: operations per image in an iteration, averaged over a run: all its updates of D and
    G, with lazy penalties in their share of the updates.
    """

    d: float
    d_penalised: float
    g: float
    g_penalised: float
    iteration: float


def count_flops(config: TrainConfig) -> Flops:
    """Operations of training per image with `config`, over all ranks."""
    with kernels.implementation("reference"):
        d, g = _count(without_penalties(config))
        d_penalised, g_penalised = _count(with_penalties(config))
    share_d, share_g = penalised_shares(config)
    iteration = config.optimizer.k_d * (d + share_d * (d_penalised - d))
    iteration += config.optimizer.k_g * (g + share_g * (g_penalised - g))
    return Flops(d, d_penalised, g, g_penalised, iteration)


def with_penalties(config: TrainConfig) -> TrainConfig:
    """The configuration with its penalties in every update."""
    return replace(config, penalty=replace(config.penalty, penalty_images=0, path_length_images=0))


def without_penalties(config: TrainConfig) -> TrainConfig:
    """The configuration without penalties."""
    return replace(config, penalty=PenaltyConfig())


def penalised_shares(config: TrainConfig) -> tuple[float, float]:
    """The fractions of the updates of D and of G in which configured penalties are due."""
    intervals = config.penalty.penalty_images, config.penalty.path_length_images
    d, g = (min(1.0, config.batch_size / images) if images else 1.0 for images in intervals)
    return d, g


def _count(config: TrainConfig) -> tuple[float, float]:
    """Operations per image of one update of D and one of G."""
    engine = replace(config.engine, micro_batch=0, precision="fp32", checkpoint_activations=False)
    config = replace(config, engine=engine)
    with META:
        trial = TrialRun(config, 1, META)
    counts: dict[str, float] = {}
    with _Counter() as counter:
        for name in trial.updates():
            counts[name] = counter.take() / config.batch_size
    return counts["D"], counts["G"]
