"""A plugin with one network: a generator with pixel normalisation.

    deepspeed launch/train_ffhq.py --preset demo --plugin examples/pixel_norm_network.py \\
        --generator pixel-norm --pixel-norm-width 16 --data FACES --run-dir runs/pixel-norm

The generator of Karras et al., "Progressive Growing of GANs" (ICLR 2018), without the growing:
nearest-neighbour upsampling, 3x3 convolutions, and each pixel's features divided by their root mean
square. Nothing in it depends on the other images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.config import GeneratorConfig, positive, register
from realness.trainer.networks.layout import ImageNetwork


def pixel_norm(x: Tensor) -> Tensor:
    """x [B, C, ...] divided by its root mean square over the channels (section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Block(nn.Module):
    """Double the side, then two 3x3 convolutions: [B, in, H, W] -> [B, out, 2H, 2W]."""

    # --checkpoint-activations may run this module again in the backward pass.
    recomputable = True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = pixel_norm(F.leaky_relu(self.conv_0(x), 0.2))
        return pixel_norm(F.leaky_relu(self.conv_1(x), 0.2))


class PixelNormGenerator(ImageNetwork):
    """z [B, z_dim] -> images [B, 3, resolution, resolution] in [-1, 1].

    A stage of side s has width * resolution / s channels, at most max_channels.
    """

    def __init__(self, z_dim: int, width: int, max_channels: int, resolution: int) -> None:
        super().__init__()
        doublings = resolution.bit_length() - 3
        channels = [min(width << k, max_channels) for k in range(doublings, -1, -1)]
        self.start = nn.Linear(z_dim, channels[0] * 16)
        self.blocks = nn.Sequential(*map(Block, channels, channels[1:]))
        self.to_image = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.lay_out(self.start(pixel_norm(z)).unflatten(1, (-1, 4, 4)))
        return torch.tanh(self.to_image(self.blocks(pixel_norm(F.leaky_relu(x, 0.2)))))


@register("pixel-norm")
@dataclass(frozen=True)
class PixelNormConfig(GeneratorConfig):
    """Progressive GAN's generator without growing."""

    recompute: ClassVar[bool] = True

    width: int = 16
    """Channels at the resolution of the images."""
    max_channels: int = 512
    """Maximum channels per stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "width", "max_channels")

    def build(self, resolution: int, code_dim: int) -> nn.Module:
        return PixelNormGenerator(self.z_dim, self.width, self.max_channels, resolution)
