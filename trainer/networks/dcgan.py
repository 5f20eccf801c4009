"""DCGAN (Radford et al., 2016) at powers of two from 32 to 1024, as used by RealnessGAN.

The generator starts at 4x4 with `width * resolution / 8` channels and halves them at each doubling
of the side, down to `width` at half the output resolution; the discriminator is its mirror image.
Only normalisations have a bias.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness.trainer.config.networks import GeneratorNormalisation
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
from realness.trainer.networks.spectral_norm import SpectralConv2d, SpectralLinear


def stage_channels(width: int, resolution: int) -> list[int]:
    """Channels at sides 4, 8, ..., resolution / 2: [width * resolution / 8, ..., 2 width, width].

    Raises:
        ValueError: unless `resolution` is a power of two from 32 to 1024 and `width` is positive.
    """
    if width < 1:
        raise ValueError(f"width={width} must be at least 1 channel")
    return [width << stage for stage in reversed(range(count_doublings(resolution)))]


class _ConvTranspose2d(nn.ConvTranspose2d):
    """4x4 transposed convolution without bias, initialised to N(0, 0.02)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride, padding, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, 0.02)


class _Conv2d(nn.Conv2d):
    """4x4 convolution of stride 2 without bias, initialised to N(0, 0.02)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, 0.02)


class DCGANGenerator(BatchNormGenerator):
    """z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]; also takes a code if `code_dim` is not 0.

    A 4x4 transposed convolution from 1x1 to 4x4, then 4x4 transposed convolutions of stride 2,
    each but the last followed by batch normalisation (or instance normalisation, for `norm`) and
    the activation; tanh at the end.
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
    ) -> None:
        super().__init__(z_dim, code_dim, batch_statistics, norm)
        channels = stage_channels(width, resolution)
        self.leak = LEAK if activation == "lrelu" else 0.0
        layers = [_ConvTranspose2d(z_dim, channels[0], stride=1, padding=0)]
        for below, above in zip(channels, [*channels[1:], IMAGE_CHANNELS], strict=True):
            layers.append(_ConvTranspose2d(below, above, stride=2, padding=1))
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(self.new_norm(c) for c in channels)

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        *hidden, last = self.layers
        x = z[:, :, None, None]
        for layer, norm in zip(hidden, self.norms, strict=True):
            # The layout is set once there is more than one pixel; later layers keep it.
            x = self.lay_out(layer(x))
            x = rectify(norm(x, *condition), self.leak)
        return torch.tanh(last(x))


class DCGANDiscriminator(ImageNetwork):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    4x4 convolutions of stride 2 with LeakyReLU(0.2), ReLU or SiLU down to 4x4, then a linear head
    on the flattened features. `norm` is spectral normalisation of every layer's weights, layer
    normalisation of the output of every convolution except the first, or none.
    """

    def __init__(
        self,
        *,
        width: int,
        resolution: int,
        num_outputs: int,
        norm: Literal["spectral", "layer", "none"] = "spectral",
        activation: Literal["lrelu", "relu", "silu"] = "lrelu",
    ) -> None:
        super().__init__()
        self.smooth = activation == "silu"
        self.leak = LEAK if activation == "lrelu" else 0.0
        channels = stage_channels(width, resolution)[::-1]
        self.resolution = resolution
        pairs = list(zip([IMAGE_CHANNELS, *channels[:-1]], channels, strict=True))
        num_features = channels[-1] * START_SIZE**2
        if norm == "spectral":
            self.layers = nn.ModuleList(SpectralConv2d(a, b, 4, 2, 1) for a, b in pairs)
            self.head = SpectralLinear(num_features, num_outputs)
        else:
            self.layers = nn.ModuleList(_Conv2d(a, b) for a, b in pairs)
            self.head = nn.Linear(num_features, num_outputs, bias=False)
        if norm == "layer":
            self.norms = nn.ModuleList([nn.Identity(), *map(LayerNorm, channels[1:])])
        else:
            self.norms = nn.ModuleList(nn.Identity() for _ in channels)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.resolution)
        x = self.lay_out(images)
        for layer, normalize in zip(self.layers, self.norms, strict=True):
            x = normalize(layer(x))
            x = F.silu(x) if self.smooth else rectify(x, self.leak)
        return self.head(hold_layout(x).flatten(1))
