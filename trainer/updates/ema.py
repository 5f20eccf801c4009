"""Moving averages of the generator, which are used for sampling."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import nn

from realness.trainer.checkpoint.fragments import Fragment, replicated, share_of
from realness.trainer.config.schedule import Schedule
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.updates.power_profiles import exponent_of, newest_weight


def averaged_names(module: nn.Module) -> list[str]:
    """Names of the tensors in a network's state that a moving average averages.

    Weights and floating-point buffers (the running statistics of batch normalisation) are averaged
    in the same way, so that the statistics match the averaged weights. The others are copied:
    integers, and the buffers that a network lists in `tracked_buffers`, because these are already
    averages.
    """
    copied = getattr(module, "tracked_buffers", ())
    return [
        name
        for name, value in module.state_dict().items()
        if value.is_floating_point() and name not in copied
    ]


class Average(ABC):
    """A float32 copy of a network, `module`, that follows it; in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)

    @abstractmethod
    def newest_weight(self, num_images: int, images_seen: int) -> float:
        """The weight of the last `num_images` of `images_seen`, in [0, 1]."""

    @torch.no_grad()
    def update(self, source: nn.Module, num_images: int, images_seen: int) -> None:
        """Move towards `source` by the weight of the last `num_images` of `images_seen`."""
        weight = self.newest_weight(num_images, images_seen)
        mine, theirs = self.module.state_dict(), source.state_dict()
        averaged = averaged_names(self.module)
        torch._foreach_lerp_(
            [mine[name] for name in averaged], [theirs[name] for name in averaged], weight
        )
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])

    def state(self, name: str = "EMA") -> list[Fragment]:
        """The average as fragments; every rank holds all of it."""
        return replicated(f"{name}.model", self.module.state_dict())

    def owned_state(self, name: str = "EMA") -> list[Fragment]:
        """The share of the average that this rank writes into a checkpoint."""
        return [share_of(item, rank(), world_size()) for item in self.state(name)]


class Ema(Average):
    """An exponential moving average with a half-life in images: a number, or a schedule over the
    images seen.

    Early in training the half-life is limited to `rampup` times the images seen (Karras et al.,
    StyleGAN2-ADA, 2020), because the copy would otherwise be dominated by the initial weights for
    several half-lives; 0 disables the limit.
    """

    def __init__(
        self, module: nn.Module, halflife_images: float | Schedule, rampup: float = 0.0
    ) -> None:
        super().__init__(module)
        self._halflife_images = halflife_images
        self._rampup = rampup

    def halflife(self, images_seen: int) -> float:
        """The half-life in images, after the ramp-up, of the update after `images_seen` images."""
        halflife = self._halflife_images
        if isinstance(halflife, Schedule):
            halflife = halflife.at(images_seen)
        return min(halflife, self._rampup * images_seen) if self._rampup else halflife

    def newest_weight(self, num_images: int, images_seen: int) -> float:
        halflife = self.halflife(images_seen)
        return 1 - 0.5 ** (num_images / halflife) if halflife else 1.0


class PowerEma(Average):
    """A power-function moving average over all of training; see `power_profiles`.

    Its width is a fraction of the images seen, so it needs no half-life and no ramp-up: the initial
    weights have weight 0.
    """

    def __init__(self, module: nn.Module, width: float) -> None:
        super().__init__(module)
        self._exponent = exponent_of(width)

    def newest_weight(self, num_images: int, images_seen: int) -> float:
        return newest_weight(self._exponent, num_images, images_seen)
