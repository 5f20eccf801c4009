"""SNGAN's residual networks (Miyato et al., ICLR 2018, appendix B), as used by P2GAN.

Every side has the same width: 4 * width channels in G, 2 * width in D, with width 64 at 32 pixels.
At larger sizes there is one more upsampling block in G, and one more downsampling block in D, for
each doubling.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.config.networks import GeneratorNormalisation
from realness.trainer.networks.classes import ProjectingHead
from realness.trainer.networks.common import (
    IMAGE_CHANNELS,
    LEAK,
    START_SIZE,
    check_images,
    count_doublings,
    rectify,
)
from realness.trainer.networks.layer_norm import LayerNorm
from realness.trainer.networks.layout import ImageNetwork, hold_layout
from realness.trainer.networks.posterior import BatchNormGenerator
from realness.trainer.networks.spectral_norm import SpectralConv2d, SpectralLinear, SpectralNorm

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
RESIDUAL_GAIN = math.sqrt(2)
NUM_FLAT_BLOCKS = 2
"""Blocks at D's smallest side, which do not downsample."""


def xavier_initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """Initialise the weight from Glorot & Bengio's uniform distribution and the bias to 0."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if isinstance(layer, SpectralNorm):
        layer.start_power_iteration()
    return layer


class UpBlock(nn.Module):
    """x [B, C, H, W] -> [B, C, 2H, 2W]: shortcut plus residual branch.

    The branch is normalisation, activation, upsampling, 3x3 convolution, normalisation, activation
    and 3x3 convolution; the shortcut is upsampling and a 1x1 convolution. `*condition` is passed to
    both normalisations. No convolution has a bias, because the normalisations after it would remove
    it again.
    """

    def __init__(self, channels: int, norms: tuple[nn.Module, nn.Module], leak: float) -> None:
        super().__init__()
        self.leak = leak
        self.norm_0, self.norm_1 = norms
        conv_0 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_0 = xavier_initialised(conv_0, RESIDUAL_GAIN)
        self.conv_1 = xavier_initialised(conv_1, RESIDUAL_GAIN)
        self.shortcut = xavier_initialised(nn.Conv2d(channels, channels, 1, bias=False))

    def forward(self, x: Tensor, *condition: Tensor | float) -> Tensor:
        dx = upsample(rectify(self.norm_0(x, *condition), self.leak))
        dx = self.conv_1(rectify(self.norm_1(self.conv_0(dx), *condition), self.leak))
        # A 1x1 convolution and the repetition of pixels commute; this order is 4 times cheaper.
        return upsample(self.shortcut(x)) + dx


def upsample(x: Tensor) -> Tensor:
    """Double the side by repeating pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class SNResNetGenerator(BatchNormGenerator):
    """z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]; also takes a code if `code_dim` is not 0.

    A linear layer to 4x4, an `UpBlock` for each doubling, then batch normalisation (or instance
    normalisation, for `norm`), activation, a 3x3 convolution and tanh.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        width: int,
        resolution: int,
        code_dim: int = 0,
        activation: Literal["relu", "lrelu"] = "relu",
        batch_statistics: Literal["global", "local"] = "global",
        norm: GeneratorNormalisation = "batch",
        num_classes: int = 0,
    ) -> None:
        super().__init__(z_dim, code_dim, batch_statistics, norm, num_classes)
        channels = 4 * width
        self.leak = LEAK if activation == "lrelu" else 0.0
        self.start = xavier_initialised(nn.Linear(z_dim, channels * START_SIZE**2))
        self.blocks = nn.ModuleList(
            UpBlock(channels, (self.new_norm(channels), self.new_norm(channels)), self.leak)
            for _ in range(count_doublings(resolution))
        )
        self.norm = self.new_norm(channels)
        self.to_image = xavier_initialised(nn.Conv2d(channels, IMAGE_CHANNELS, 3, padding=1))

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        x = self.start(z).unflatten(1, (-1, START_SIZE, START_SIZE))
        x = self.lay_out(x)
        for block in self.blocks:
            x = block(x, *condition)
        return torch.tanh(self.to_image(rectify(self.norm(x, *condition), self.leak)))


class DiscriminatorBlock(nn.Module):
    """x [B, in, H, W] -> [B, C, H/2, W/2], or [B, C, H, W] without `halve`.

    The branch is activation, 3x3 convolution, activation, 3x3 convolution and 2x2 average pooling,
    with layer normalisation before each activation for `norm="layer"`. The shortcut is a 1x1
    convolution and pooling, or x itself if the shape does not change. The first block of D, whose
    input is the image, has neither a leading activation nor layer normalisation.
    """

    recomputable = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        first: bool,
        halve: bool,
        norm: Literal["spectral", "layer", "none"],
    ) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv_0 = _convolution(in_channels, channels, 3, RESIDUAL_GAIN, norm)
        self.conv_1 = _convolution(channels, channels, 3, RESIDUAL_GAIN, norm)
        self.shortcut = (
            _convolution(in_channels, channels, 1, 1.0, norm)
            if halve or in_channels != channels
            else nn.Identity()
        )
        layered = norm == "layer" and not first
        self.norm_0 = LayerNorm(in_channels) if layered else nn.Identity()
        self.norm_1 = LayerNorm(channels) if layered else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        dx = self.conv_0(x if self.first else F.relu(self.norm_0(x)))
        dx = self.conv_1(F.relu(self.norm_1(dx)))
        if not self.halve:
            return self.shortcut(x) + dx
        # A 1x1 convolution and averaging commute; this order is 4 times cheaper.
        return self.shortcut(halve(x)) + halve(dx)


def halve(x: Tensor) -> Tensor:
    """Halve the side by averaging 2x2 pixels."""
    return F.avg_pool2d(hold_layout(x), 2)


def _convolution(in_channels: int, channels: int, size: int, gain: float, norm: str) -> nn.Conv2d:
    if norm == "spectral":
        layer = SpectralConv2d(in_channels, channels, size, 1, size // 2, bias=True)
        return xavier_initialised(layer, gain)
    return xavier_initialised(nn.Conv2d(in_channels, channels, size, 1, size // 2), gain)


class SNResNetDiscriminator(ImageNetwork, ProjectingHead):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    Blocks that halve the side down to 8x8, two that keep it, then ReLU, a sum over pixels and a
    linear head. `norm` is spectral normalisation of every layer's weights, layer normalisation of
    the blocks' features, or none. With `num_classes`, it also takes a condition [B, num_classes],
    and is the network of Miyato & Koyama (ICLR 2018).
    """

    def __init__(
        self,
        *,
        width: int,
        resolution: int,
        num_outputs: int,
        norm: Literal["spectral", "layer", "none"] = "spectral",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels = 2 * width
        self.resolution = resolution
        num_halvings = count_doublings(resolution) - 1
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(
                    channels if i else IMAGE_CHANNELS,
                    channels,
                    first=i == 0,
                    halve=i < num_halvings,
                    norm=norm,
                )
                for i in range(num_halvings + NUM_FLAT_BLOCKS)
            )
        )
        self.head = xavier_initialised(
            SpectralLinear(channels, num_outputs, bias=True)
            if norm == "spectral"
            else nn.Linear(channels, num_outputs)
        )
        spectral = norm == "spectral"
        self.prepare_classes(num_classes, channels, num_outputs, spectral=spectral)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        x = self.blocks(self.lay_out(images))
        x = F.relu(x)
        return self.projected(self.head(x.sum((2, 3))), x, condition)
