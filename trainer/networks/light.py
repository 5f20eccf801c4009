"""Small networks for few images and short runs, at powers of two from 32 to 1024.

The generator's stages are those of Liu et al., "Towards Faster and Stabilized GAN Training for
High-fidelity Few-shot Image Synthesis" (ICLR 2021), section 3: upsampling, a 3x3 convolution, batch
normalisation and a gated linear unit, with noise. The discriminator is residual as in the same
paper, with one 4x4 convolution per block. Neither has the paper's skip-layer excitation, and there
are no decoders.

The width at side s is `width * resolution / s` channels, at most `max_channels`.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.networks.classes import ProjectingHead
from realness.trainer.networks.common import (
    IMAGE_CHANNELS,
    LEAK,
    START_SIZE,
    check_images,
    check_noise,
    rectify,
)
from realness.trainer.networks.layout import ImageNetwork, hold_layout
from realness.trainer.networks.posterior import BatchNormGenerator
from realness.trainer.networks.resnet import side_channels
from realness.trainer.networks.stylegan2_layers import minibatch_stddev
from realness.trainer.randomness import Draws, Purpose


def gate(x: Tensor) -> Tensor:
    """A gated linear unit: x [B, 2C, H, W] -> [B, C, H, W], one half times the other's sigmoid.

    `torch.nn.functional.glu` computes the same, but its gradient is contiguous, after which the
    backward pass of the layers before it is slower by a third on a CPU.
    """
    values, gates = x.chunk(2, dim=1)
    return values * torch.sigmoid(gates)


class GatedBlock(nn.Module):
    """x [B, in, H, W] -> [B, out, 2H, 2W]: upsampling, 3x3 convolution, noise, norm, `gate`.

    Upsampling repeats pixels, or interpolates bilinearly with `smooth`. `noise` [B, 1, 2H, 2W] is
    added to all channels, times a learned strength per channel that starts at 0. `*condition` is
    passed to the normalisation. The convolution has no bias, because the normalisation would remove
    it again.
    """

    def __init__(
        self, in_channels: int, norm: nn.Module, out_channels: int, *, smooth: bool
    ) -> None:
        super().__init__()
        self.mode = "bilinear" if smooth else "nearest"
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, 3, padding=1, bias=False)
        self.noise_strength = nn.Parameter(torch.zeros(2 * out_channels, 1, 1))
        self.norm = norm

    def forward(self, x: Tensor, noise: Tensor, *condition: Tensor | float) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=2, mode=self.mode))
        x = torch.addcmul(x, noise.to(x.dtype), self.noise_strength.to(x.dtype))
        return gate(self.norm(x, *condition))


class LightGenerator(BatchNormGenerator):
    """z [B, z_dim] and noise [B, noise_dim] -> images [B, 3, R, R] in [-1, 1].

    Also takes a code [B, code_dim] and its share if `code_dim` is not 0, or a condition
    [B, num_classes] in its place: see `BatchNormGenerator`.

    A linear layer to 4x4, batch normalisation and `gate`, a `GatedBlock` for each doubling, a 3x3
    convolution and tanh. The last block interpolates, which removes stripes of a period of 2
    pixels; the others repeat pixels, because interpolation in all blocks slows training down. The
    noise gives images the grain of photographs.

    With `grey`, the last convolution has one channel, which is repeated for the three colours.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        width: int,
        max_channels: int,
        resolution: int,
        grey: bool = False,
        code_dim: int = 0,
        batch_statistics: Literal["global", "local"] = "global",
        num_classes: int = 0,
    ) -> None:
        super().__init__(z_dim, code_dim, batch_statistics, num_classes=num_classes)
        channels = side_channels(width, max_channels, resolution)
        self.resolution = resolution
        self.noise_sides = [START_SIZE << k for k in range(1, len(channels))]
        self.start = nn.Linear(z_dim, 2 * channels[0] * START_SIZE**2, bias=False)
        self.norm = self.new_norm(2 * channels[0])
        pairs = list(itertools.pairwise(channels))
        self.blocks = nn.ModuleList(
            GatedBlock(below, self.new_norm(2 * above), above, smooth=number == len(pairs))
            for number, (below, above) in enumerate(pairs, start=1)
        )
        self.to_image = nn.Conv2d(channels[-1], 1 if grey else IMAGE_CHANNELS, 3, padding=1)

    @property
    def noise_dim(self) -> int:
        """Values of noise per sample: one per pixel of every block's output."""
        return sum(side**2 for side in self.noise_sides)

    def draw_noise(self, draws: Draws) -> Tensor:
        """The noise of these samples, [B, noise_dim] fp32: the same on any number of ranks."""
        return draws.normal(Purpose.NOISE, self.noise_dim)

    def forward(
        self, z: Tensor, noise: Tensor, code: Tensor | None = None, share: float = 1.0
    ) -> Tensor:
        self.check(z, code)
        check_noise(noise, z.shape[0], self.noise_dim)
        condition = () if code is None else (code, share)
        x = self.lay_out(self.start(z).unflatten(1, (-1, START_SIZE, START_SIZE)))
        x = gate(self.norm(x, *condition))
        parts = noise.split([side**2 for side in self.noise_sides], 1)
        for block, part, side in zip(self.blocks, parts, self.noise_sides, strict=True):
            x = block(x, part.view(-1, 1, side, side), *condition)
        return self.lay_out(torch.tanh(self.to_image(x)).expand(-1, IMAGE_CHANNELS, -1, -1))


class HalvingBlock(nn.Module):
    """(shortcut(x) + dx) / sqrt(2) at half the side: [B, in, H, W] -> [B, out, H / 2, W / 2].

    dx is a 4x4 convolution of stride 2 and LeakyReLU(0.2); the shortcut averages 2x2 pixels and is
    a 1x1 convolution.
    """

    recomputable = True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(F.avg_pool2d(hold_layout(x), 2))
        return (shortcut + rectify(self.conv(x), LEAK)) * math.sqrt(0.5)


class LightDiscriminator(ImageNetwork, ProjectingHead):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    A 4x4 convolution of stride 2 and LeakyReLU(0.2), `HalvingBlock`s down to 4x4, the minibatch
    standard deviation as an additional channel (see `minibatch_stddev`; none for a `group` of 1), a
    3x3 convolution, LeakyReLU and a linear head on the flattened features. With groups, each row of
    the output therefore depends on the other rows of its group. With `num_classes`, it also takes
    a condition [B, num_classes].
    """

    def __init__(
        self,
        *,
        width: int,
        max_channels: int,
        resolution: int,
        num_outputs: int,
        group: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels = side_channels(width, max_channels, resolution)[-2::-1]
        self.resolution, self.group = resolution, group
        self.from_image = nn.Conv2d(IMAGE_CHANNELS, channels[0], 4, stride=2, padding=1)
        self.blocks = nn.Sequential(
            *(HalvingBlock(below, above) for below, above in itertools.pairwise(channels))
        )
        last = channels[-1]
        self.conv = nn.Conv2d(last + (group > 1), last, 3, padding=1)
        self.head = nn.Linear(last * START_SIZE**2, num_outputs)
        self.prepare_classes(num_classes, last, num_outputs)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        x = self.blocks(rectify(self.from_image(self.lay_out(images)), LEAK))
        if self.group > 1:
            x = minibatch_stddev(x, self.group)
        x = hold_layout(rectify(self.conv(x), LEAK))
        return self.projected(self.head(x.flatten(1)), x, condition)
