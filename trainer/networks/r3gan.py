"""R3GAN's networks, at powers of two from 32 to 1024.

Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline" (NeurIPS 2024), sections
3 and 4: residual blocks of grouped convolutions without normalisation. There is no mapping network,
no noise, no tanh and no minibatch standard deviation. The paper goes up to 256x256; at 512 and 1024
the widths continue to halve, and no results are known.

The width at side s is min(max_channels, channel_base / s). Weights start as N(0, gain^2 / fan-in).
Under autocast, only the four highest stages run in bf16, and never the lowest. Those below, G's
first layer and D's last are fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer.networks.buffers import Float32Buffers
from realness.trainer.networks.classes import check_condition
from realness.trainer.networks.common import (
    IMAGE_CHANNELS,
    LEAK,
    START_SIZE,
    check_images,
    without_autocast,
)
from realness.trainer.networks.grouped_conv import KERNEL_SIZE, grouped_conv3x3
from realness.trainer.networks.layout import ImageNetwork, hold_layout
from realness.trainer.networks.stylegan2_generator import side_channels
from realness.trainer.networks.stylegan2_layers import fir_filter

HALF_PRECISION_STAGES = 4
"""Stages that autocast may run in bf16, counted from the image."""


def random_weight(*shape: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    """A parameter of this shape with values from N(0, gain^2 / fan_in)."""
    return nn.Parameter(torch.randn(shape) * (gain / math.sqrt(fan_in)))


class Conv1x1(nn.Module):
    """A 1x1 convolution without bias: [B, in, H, W] -> [B, out, H, W]. With a gain of 0 it starts
    at 0."""

    def __init__(self, in_channels: int, out_channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = random_weight(out_channels, in_channels, 1, 1, fan_in=in_channels, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight)


class R3GANBlock(nn.Module):
    """x + f(x), [B, C, H, W] -> [B, C, H, W], in the precision of its convolutions.

    f widens to `expansion` C by a 1x1 convolution, has a 3x3 convolution in groups of
    `group_channels` channels, and narrows to C by another 1x1 convolution. After the first two come
    a bias and LeakyReLU(0.2) without a gain; no convolution has a bias of its own.

    The third convolution starts at 0, and the others have the gain of LeakyReLU times
    num_blocks^(-1/4), so that an update moves the output of the whole network by an amount that
    does not depend on `num_blocks`: L^(-1 / (2 m - 2)) for m = 3 layers (Zhang et al., "Fixup
    Initialization", ICLR 2019).

    Raises:
        ValueError: if the groups do not divide the channels.
    """

    recomputable = True

    def __init__(
        self, channels: int, *, expansion: int, group_channels: int, num_blocks: int
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        in_group = min(group_channels, hidden)
        if hidden % in_group:
            raise ValueError(
                f"a stage of {channels} channels, widened to {hidden}, cannot be divided into "
                f"groups of {group_channels} channels; use --g-group-channels and "
                f"--d-group-channels {math.gcd(hidden, group_channels)}, or other widths"
            )
        gain = math.sqrt(2 / (1 + LEAK**2)) * num_blocks**-0.25
        self.groups = hidden // in_group
        self.widen = Conv1x1(channels, hidden, gain)
        self.bias_0 = nn.Parameter(torch.zeros(hidden))
        self.grouped = random_weight(
            *(hidden, in_group, KERNEL_SIZE, KERNEL_SIZE),
            fan_in=in_group * KERNEL_SIZE**2,
            gain=gain,
        )
        self.bias_1 = nn.Parameter(torch.zeros(hidden))
        self.narrow = Conv1x1(hidden, channels, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = kernels.bias_act(self.widen(x), self.bias_0, "lrelu", slope=LEAK)
        y = grouped_conv3x3(y, self.grouped, self.groups)
        y = self.narrow(kernels.bias_act(y, self.bias_1, "lrelu", slope=LEAK))
        return x.to(y.dtype) + y


class Resample(Float32Buffers):
    """Twice or half the side, filtered by [1, 3, 3, 1]: [B, in, H, W] -> [B, out, 2H, 2W] or
    [B, out, H / 2, W / 2].

    A 1x1 convolution changes the width if it differs, where there are fewer pixels.
    """

    fir: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else Conv1x1(in_channels, out_channels)
        self.register_buffer("fir", fir_filter(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = self.conv(x)
            return kernels.upfirdn2d(x, self.fir, up=2, padding=(2, 1, 2, 1), gain=4.0)
        return self.conv(kernels.upfirdn2d(x, self.fir, down=2, padding=1))


class R3GANNetwork(ImageNetwork):
    """What G and D share: widths by side, stages, and their precision.

    `channels` are the widths at 4, 8, ..., `resolution` pixels.
    """

    def __init__(
        self,
        *,
        max_channels: int,
        channel_base: int,
        blocks: int,
        expansion: int,
        group_channels: int,
        resolution: int,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = side_channels(channel_base, max_channels, resolution)
        self.num_low = max(1, len(self.channels) - HALF_PRECISION_STAGES)
        self._settings = dict(
            expansion=expansion,
            group_channels=group_channels,
            num_blocks=blocks * len(self.channels),
        )
        self._blocks = blocks

    def stage_blocks(self, channels: int) -> list[nn.Module]:
        """The blocks of a stage of this width."""
        return [R3GANBlock(channels, **self._settings) for _ in range(self._blocks)]


def run_in_fp32(layers: nn.Module, x: Tensor) -> Tensor:
    """The output of `layers` in the precision of their weights, even in an autocast region."""
    with without_autocast(x.device):
        return layers(x.to(next(layers.parameters()).dtype))


class R3GANGenerator(R3GANNetwork):
    """z [B, z_dim] -> images [B, 3, R, R]; real ones are in [-1, 1].

    A learned 4x4 basis of every channel, N(0, 1) at the start, times a linear map of z; at every
    side `blocks` blocks, and between sides `Resample`; a 1x1 convolution to RGB. With
    `num_classes`, a condition [B, num_classes] (see `networks.classes`), the `code`, chooses a
    learned vector of `z_dim` numbers that continues z.

    Raises:
        ValueError: for widths that the groups do not divide, or inputs of wrong shapes.
    """

    def __init__(self, *, z_dim: int, num_classes: int = 0, **settings: int) -> None:
        super().__init__(**settings)
        self.z_dim, self.num_classes = z_dim, num_classes
        first = self.channels[0]
        self.embedding = class_vectors(num_classes, z_dim)
        inputs = z_dim * (2 if num_classes else 1)
        self.basis = nn.Parameter(torch.randn(first, START_SIZE, START_SIZE))
        self.start = random_weight(first, inputs, fan_in=inputs)
        self.stages = nn.ModuleList()
        below = first
        for number, channels in enumerate(self.channels):
            resample = [Resample(below, channels, up=True)] if number else []
            self.stages.append(nn.Sequential(*resample, *self.stage_blocks(channels)))
            below = channels
        self.to_image = Conv1x1(below, IMAGE_CHANNELS)

    def forward(self, z: Tensor, code: Tensor | None = None) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [B, {self.z_dim}]")
        with without_autocast(z.device):
            if (embedded := embed(self.embedding, code, z.shape[0])) is not None:
                z = torch.cat([z, embedded], 1)
            x = self.lay_out((z @ self.start.T)[:, :, None, None] * self.basis)
        for number, stage in enumerate(self.stages):
            x = run_in_fp32(stage, x) if number < self.num_low else stage(x)
        return self.to_image(x)


class R3GANDiscriminator(R3GANNetwork):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    A 1x1 convolution from RGB; at every side `blocks` blocks, and between sides `Resample`; a 4x4
    convolution of each channel by itself, without padding, and a linear layer without bias. With
    `num_classes`, that layer has `max_channels` numbers per output, and a condition
    [B, num_classes] chooses the learned vector by which each output is their scalar product.

    Raises:
        ValueError: for widths that the groups do not divide, or inputs of wrong shapes.
    """

    def __init__(self, *, num_outputs: int, num_classes: int = 0, **settings: int) -> None:
        super().__init__(**settings)
        self.num_outputs, self.num_classes = num_outputs, num_classes
        widths = self.channels[::-1]
        last = widths[-1]
        self.from_image = Conv1x1(IMAGE_CHANNELS, widths[0])
        self.stages = nn.ModuleList()
        for own, above in zip(widths, [*widths[1:], None], strict=True):
            resample = [] if above is None else [Resample(own, above, up=False)]
            self.stages.append(nn.Sequential(*self.stage_blocks(own), *resample))
        self.depthwise = random_weight(last, START_SIZE, START_SIZE, fan_in=START_SIZE**2)
        rows = num_outputs * (last if num_classes else 1)
        self.head = random_weight(rows, last, fan_in=last)
        self.embedding = class_vectors(num_classes, last, gain=1 / math.sqrt(last))

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        x = self.from_image(self.lay_out(images))
        num_high = len(self.stages) - self.num_low
        for number, stage in enumerate(self.stages):
            x = stage(x) if number < num_high else run_in_fp32(stage, x)
        with without_autocast(x.device):
            # On 4x4 pixels the convolution is a weighted sum. As a convolution of as many groups as
            # channels, its second derivative would take one launch per channel.
            features = (hold_layout(x) * self.depthwise).sum((2, 3)) @ self.head.T
            vectors = embed(self.embedding, condition, images.shape[0])
            if vectors is None:
                return features
            return (features.unflatten(1, (self.num_outputs, -1)) * vectors[:, None]).sum(2)


def class_vectors(num_classes: int, dim: int, gain: float = 1.0) -> nn.Parameter | None:
    """A linear map from classes, as one-hot vectors, to `dim` numbers; None without classes."""
    return random_weight(num_classes, dim, fan_in=num_classes, gain=gain) if num_classes else None


def embed(vectors: Tensor | None, condition: Tensor | None, batch: int) -> Tensor | None:
    """The vectors [B, dim] of a condition [B, num_classes]; None for a network without classes.

    Raises:
        ValueError: for a condition of another shape, or with only one of `vectors` and `condition`.
    """
    check_condition(condition, batch, 0 if vectors is None else vectors.shape[0])
    if vectors is None or condition is None:
        return None
    return condition.to(vectors.dtype) @ vectors
