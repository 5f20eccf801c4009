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
from realness.trainer.networks.classes import ProjectingHead
from realness.trainer.networks.common import (
    IMAGE_CHANNELS,
    LEAK,
    START_SIZE,
    check_images,
    count_doublings,
    rectify,
)
from realness.trainer.networks.growing import GrowingNetwork, doublings, enlarge, shrink
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


class DCGANGenerator(BatchNormGenerator, GrowingNetwork):
    """z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]; also takes a code if `code_dim` is not 0.

    With `classes`, which is `num_classes` of `BatchNormGenerator`, it is conditional.

    A 4x4 transposed convolution from 1x1 to 4x4, then 4x4 transposed convolutions of stride 2,
    each but the last followed by batch normalisation (or instance normalisation, for `norm`) and
    the activation; tanh at the end. With `growing`, the images of smaller sides have a layer each,
    and in a transition the images of both sides are mixed.
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
        growing: bool = False,
        **classes: int,
    ) -> None:
        super().__init__(z_dim, code_dim, batch_statistics, norm, **classes)
        channels = stage_channels(width, resolution)
        self.leak = LEAK if activation == "lrelu" else 0.0
        layers = [_ConvTranspose2d(z_dim, channels[0], stride=1, padding=0)]
        for below, above in zip(channels, [*channels[1:], IMAGE_CHANNELS], strict=True):
            layers.append(_ConvTranspose2d(below, above, stride=2, padding=1))
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(self.new_norm(c) for c in channels)
        self.prepare_to_grow(resolution, growing=growing)
        self.smaller_images = nn.ModuleDict(
            {
                str(side): _ConvTranspose2d(below, IMAGE_CHANNELS, stride=2, padding=1)
                for side, below in zip(self.smaller_sides, channels, strict=False)
            }
        )

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        x = below = z[:, :, None, None]
        for number in range(doublings(self.stage.side)):
            below = x
            # The layout is set once there is more than one pixel; later layers keep it.
            x = self.lay_out(self.layers[number](x))
            x = rectify(self.norms[number](x, *condition), self.leak)
        image = self._image(x, self.stage.side)
        if self.stage.alpha < 1:
            smaller = self._image(below, self.stage.side // 2)
            image = torch.lerp(enlarge(smaller, 2), image, self.stage.alpha)
        return self.enlarged(image)

    def _image(self, x: Tensor, side: int) -> Tensor:
        """The image of `side` pixels a side from features x at half of it."""
        layer = self.layers[-1] if side == self.resolution else self.smaller_images[str(side)]
        return torch.tanh(layer(x))


class DCGANDiscriminator(ImageNetwork, GrowingNetwork, ProjectingHead):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    4x4 convolutions of stride 2 with LeakyReLU(0.2), ReLU or SiLU down to 4x4, then a linear head
    on the flattened features. `norm` is spectral normalisation of every layer's weights, layer
    normalisation of the output of every convolution except the first, or none. With `growing`, the
    images of smaller sides have a first layer each, and in a transition the features that both
    sides lead to are mixed. With `num_classes`, it also takes a condition [B, num_classes].
    """

    def __init__(
        self,
        *,
        width: int,
        resolution: int,
        num_outputs: int,
        norm: Literal["spectral", "layer", "none"] = "spectral",
        activation: Literal["lrelu", "relu", "silu"] = "lrelu",
        growing: bool = False,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.prepare_to_grow(resolution, growing=growing)
        self.smooth = activation == "silu"
        self.leak = LEAK if activation == "lrelu" else 0.0
        channels = stage_channels(width, resolution)[::-1]
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
        self.smaller_images = nn.ModuleDict()
        for side, above in zip(self.smaller_sides, reversed(channels), strict=False):
            first = (IMAGE_CHANNELS, above)
            layer = SpectralConv2d(*first, 4, 2, 1) if norm == "spectral" else _Conv2d(*first)
            self.smaller_images[str(side)] = layer
        spectral = norm == "spectral"
        self.prepare_classes(num_classes, channels[-1], num_outputs, spectral=spectral)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        side, alpha = self.stage
        images = self.lay_out(self.shrunk(images))
        x = self._features(images, side)
        first = len(self.layers) - doublings(side) + 1
        for number in range(first, len(self.layers)):
            x = self._activate(self.norms[number](self.layers[number](x)))
            if number == first and alpha < 1:
                x = torch.lerp(self._features(shrink(images, 2), side // 2), x, alpha)
        x = hold_layout(x)
        return self.projected(self.head(x.flatten(1)), x, condition)

    def _features(self, images: Tensor, side: int) -> Tensor:
        """Features at half the side from images of `side` pixels a side."""
        layer = self.layers[0] if side == self.resolution else self.smaller_images[str(side)]
        return self._activate(layer(images))

    def _activate(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.smooth else rectify(x, self.leak)
