"""The exponential moving average of the generator, which is used for sampling."""

from __future__ import annotations

import copy

import torch
from torch import nn

from realness.trainer.checkpoint.fragments import Fragment, replicated, share_of
from realness.trainer.config.schedule import Schedule
from realness.trainer.distributed.ranks import rank, world_size


class Ema:
    """A float32 copy of a network that follows it with a half-life given in images: a number, or a
    schedule over the images seen.

    Early in training the half-life is limited to `rampup` times the images seen (Karras et al.,
    StyleGAN2-ADA, 2020), because the copy would otherwise be dominated by the initial weights for
    several half-lives; 0 disables the limit.

    Weights and floating-point buffers (the running statistics of batch normalisation) are averaged
    in the same way, so that the statistics match the averaged weights; buffers that a network lists
    in `tracked_buffers` are copied, because they are already averages. `module` is in evaluation
    mode.
    """

    def __init__(
        self, module: nn.Module, halflife_images: float | Schedule, rampup: float = 0.0
    ) -> None:
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)
        self._halflife_images = halflife_images
        self._rampup = rampup

    def halflife(self, images_seen: int) -> float:
        """The half-life in images, after the ramp-up, of the update after `images_seen` images."""
        halflife = self._halflife_images
        if isinstance(halflife, Schedule):
            halflife = halflife.at(images_seen)
        return min(halflife, self._rampup * images_seen) if self._rampup else halflife

    @torch.no_grad()
    def update(self, source: nn.Module, num_images: int, images_seen: int) -> None:
        """Move towards `source` by the weight of the last `num_images` of `images_seen`."""
        halflife = self.halflife(images_seen)
        weight = 1 - 0.5 ** (num_images / halflife) if halflife else 1.0
        mine, theirs = self.module.state_dict(), source.state_dict()
        copied = getattr(source, "tracked_buffers", ())
        averaged = [
            name for name, value in mine.items() if value.is_floating_point() and name not in copied
        ]
        torch._foreach_lerp_(
            [mine[name] for name in averaged], [theirs[name] for name in averaged], weight
        )
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])

    def state(self) -> list[Fragment]:
        """The average as fragments; every rank holds all of it."""
        return replicated("EMA.model", self.module.state_dict())

    def owned_state(self) -> list[Fragment]:
        """The share of the average that this rank writes into a checkpoint."""
        return [share_of(item, rank(), world_size()) for item in self.state()]
