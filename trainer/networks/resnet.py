"""FAR-GAN's residual networks without normalisation (its tables 5 to 8), at 32 to 1024 pixels.

They are those of Mescheder et al., "Which Training Methods for GANs do actually Converge?" (ICML
2018): nearest-neighbour upsampling in G, average pooling in D, and residual branches scaled by 0.1,
without which networks this deep do not start to train. The width at side s is
`width * resolution / s` channels, at most `max_channels`.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.networks.classes import ProjectingHead, check_condition
from realness.trainer.networks.common import (
    IMAGE_CHANNELS,
    LEAK,
    START_SIZE,
    check_images,
    count_doublings,
    rectify,
)
from realness.trainer.networks.layout import ImageNetwork, hold_layout

RESIDUAL_SCALE = 0.1


def side_channels(width: int, max_channels: int, resolution: int) -> list[int]:
    """Channels at sides 4, 8, ..., resolution: [min(max, width * resolution / 4), ..., width].

    Raises:
        ValueError: unless `resolution` is a power of two from 32 to 1024.
    """
    doublings = count_doublings(resolution)
    return [min(width << k, max_channels) for k in range(doublings, -1, -1)]


class ResBlock(nn.Module):
    """out = shortcut(x) + 0.1 * dx: [B, in, H, W] -> [B, out, H, W].

    dx is two 3x3 convolutions, each after LeakyReLU(0.2), through min(in, out) channels. The
    shortcut is a 1x1 convolution without bias if the widths differ, otherwise x itself.
    """

    recomputable = True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        self.conv_0 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.conv_1 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        dx = self.conv_1(rectify(self.conv_0(rectify(x, LEAK)), LEAK))
        return torch.add(self.shortcut(x), dx, alpha=RESIDUAL_SCALE)


def _stage(pairs: list[tuple[int, int]]) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(below, above) for below, above in pairs))


class ResNetGenerator(ImageNetwork):
    """z [B, z_dim] -> images [B, 3, R, R] in [-1, 1].

    A linear layer to 4x4, `blocks` residual blocks at every side with nearest-neighbour upsampling
    between sides, then LeakyReLU, a 3x3 convolution and tanh. With one block per side it narrows to
    the channels of the next side; with two, the first narrows to those of its own side.

    With `num_classes`, it also takes a condition [B, num_classes]. There is no normalisation that a
    class could control, so an embedding of z_dim numbers, N(0, 1) at the start as z is, is
    concatenated to z (Mirza & Osindero, "Conditional Generative Adversarial Nets", 2014).
    """

    def __init__(
        self,
        *,
        z_dim: int,
        width: int,
        max_channels: int,
        blocks: Literal[1, 2],
        resolution: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels = side_channels(width, max_channels, resolution)
        self.z_dim, self.num_classes = z_dim, num_classes
        self.start = nn.Linear(z_dim * (2 if num_classes else 1), channels[0] * START_SIZE**2)
        if blocks == 1:
            stages = [[pair] for pair in itertools.pairwise([*channels, channels[-1]])]
        else:
            pairs = itertools.pairwise([channels[0], *channels])
            stages = [[(below, own), (own, own)] for below, own in pairs]
        self.stages = nn.ModuleList(map(_stage, stages))
        self.to_image = nn.Conv2d(channels[-1], IMAGE_CHANNELS, 3, padding=1)
        self.embedding = nn.Linear(num_classes, z_dim, bias=False) if num_classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight)

    def forward(self, z: Tensor, code: Tensor | None = None) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [B, {self.z_dim}]")
        check_condition(code, z.shape[0], self.num_classes)
        if self.embedding is not None and code is not None:
            z = torch.cat([z, self.embedding(code).to(z.dtype)], 1)
        x = self.start(z).unflatten(1, (-1, START_SIZE, START_SIZE))
        x = self.lay_out(x)
        first, *others = self.stages
        x = first(x)
        for stage in others:
            x = stage(F.interpolate(x, scale_factor=2, mode="nearest"))
        return torch.tanh(self.to_image(rectify(x, LEAK)))


class ResNetDiscriminator(ImageNetwork, ProjectingHead):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    A 3x3 convolution, residual blocks at every side with average pooling between sides, then
    LeakyReLU and a linear head on the flattened 4x4 features. The last block of a side widens to
    the channels of the next side; with one block per side, there is none at 4x4.

    Pooling uses 3x3 windows of stride 2 with zero padding included in the average, as in Mescheder
    et al.; the tables of FAR-GAN do not specify it. With `num_classes`, it also takes a condition
    [B, num_classes].
    """

    def __init__(
        self,
        *,
        width: int,
        max_channels: int,
        blocks: Literal[1, 2],
        resolution: int,
        num_outputs: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels = side_channels(width, max_channels, resolution)[::-1]
        self.resolution = resolution
        self.from_image = nn.Conv2d(IMAGE_CHANNELS, channels[0], 3, padding=1)
        if blocks == 1:
            stages = [*([pair] for pair in itertools.pairwise(channels)), []]
        else:
            pairs = itertools.pairwise([*channels, channels[-1]])
            stages = [[(own, own), (own, above)] for own, above in pairs]
        self.stages = nn.ModuleList(map(_stage, stages))
        self.head = nn.Linear(channels[-1] * START_SIZE**2, num_outputs)
        self.prepare_classes(num_classes, channels[-1], num_outputs)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        x = self.from_image(self.lay_out(images))
        first, *others = self.stages
        x = first(x)
        for stage in others:
            x = stage(F.avg_pool2d(hold_layout(x), 3, stride=2, padding=1))
        x = hold_layout(rectify(x, LEAK))
        return self.projected(self.head(x.flatten(1)), x, condition)
