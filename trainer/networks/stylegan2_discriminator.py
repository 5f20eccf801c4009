"""StyleGAN2's residual discriminator, configuration F, at powers of two from 32 to 1024.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020), section 4.1;
with classes as in the published code of "Training Generative Adversarial Networks with Limited
Data" (NeurIPS 2020, [2]).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from realness.trainer.networks.classes import check_condition
from realness.trainer.networks.common import IMAGE_CHANNELS, START_SIZE, check_images
from realness.trainer.networks.growing import GrowingNetwork, doublings, shrink
from realness.trainer.networks.layout import ImageNetwork, hold_layout
from realness.trainer.networks.stylegan2_generator import side_channels
from realness.trainer.networks.stylegan2_layers import EqualConv2d, EqualLinear, minibatch_stddev
from realness.trainer.networks.stylegan2_mapping import MappingNetwork

CLASS_LAYERS = 8
"""Fully connected layers from the class to the vector that the head is compared with ([2])."""


class ResidualBlock(nn.Module):
    """(skip(x) + dx) / sqrt(2) at half the size: [B, in, H, W] -> [B, out, H / 2, W / 2].

    dx is two 3x3 convolutions with leaky ReLUs, of which the second halves the size; the skip is a
    1x1 convolution. The division preserves the variance of the sum.
    """

    recomputable = True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        self.conv_0 = EqualConv2d(in_channels, in_channels, 3, act="lrelu")
        self.conv_1 = EqualConv2d(in_channels, out_channels, 3, down=True, act="lrelu", gain=half)
        self.skip = EqualConv2d(in_channels, out_channels, 1, down=True, bias=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv_1(self.conv_0(x))


class StyleGAN2Discriminator(ImageNetwork, GrowingNetwork):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    Residual blocks down to 4x4, the minibatch standard deviation as an additional channel (see
    `minibatch_stddev`; none for a `group` of 1), a 3x3 convolution and two fully connected layers.
    With groups, each row of the output therefore depends on the other rows of its group. With
    `growing`, the images of smaller sides have a first layer each, and in a transition the features
    that both sides lead to are mixed.

    With `num_classes`, it also takes a condition [B, num_classes]. Output k is then
    <h_k(x), m(y)> / sqrt(C): h_k are C numbers of the last layer, m(y) is a mapping network of the
    class, and C the width at 4x4 ([2], where there is one output; for more we know of no paper).
    """

    def __init__(
        self,
        *,
        channel_base: int,
        max_channels: int,
        resolution: int,
        num_outputs: int,
        group: int,
        growing: bool = False,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.prepare_to_grow(resolution, growing=growing)
        channels = side_channels(channel_base, max_channels, resolution)[::-1]
        self.group = group
        self.from_image = EqualConv2d(IMAGE_CHANNELS, channels[0], 1, act="lrelu")
        self.blocks = nn.Sequential(
            *(ResidualBlock(below, above) for below, above in itertools.pairwise(channels))
        )
        last = channels[-1]
        self.conv = EqualConv2d(last + (group > 1), last, 3, act="lrelu")
        self.hidden = EqualLinear(last * START_SIZE**2, last, act="lrelu")
        self.num_classes, self.class_dim = num_classes, last
        self.head = EqualLinear(last, num_outputs * (last if num_classes else 1))
        # After 4 pixels come 8, the first of the smaller sides.
        self.from_smaller = nn.ModuleDict(
            {
                str(side): EqualConv2d(IMAGE_CHANNELS, above, 1, act="lrelu")
                for side, above in zip(self.smaller_sides, channels[-2::-1], strict=False)
            }
        )

        self.class_mapping = (
            MappingNetwork(0, last, CLASS_LAYERS, num_classes) if num_classes else None
        )

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.resolution)
        side, alpha = self.stage
        images = self.lay_out(self.shrunk(images))
        x = self._features(images, side)
        first = len(self.blocks) - doublings(side)
        for number in range(first, len(self.blocks)):
            x = self.blocks[number](x)
            if number == first and alpha < 1:
                x = torch.lerp(self._features(shrink(images, 2), side // 2), x, alpha)
        if self.group > 1:
            x = minibatch_stddev(x, self.group)
        output = self.head(self.hidden(hold_layout(self.conv(x)).flatten(1)))
        check_condition(condition, output.shape[0], self.num_classes)
        if self.class_mapping is None or condition is None:
            return output
        vector = self.class_mapping(None, condition).to(output.dtype) / math.sqrt(self.class_dim)
        heads = output.unflatten(1, (-1, self.class_dim))
        return torch.matmul(heads, vector[:, :, None]).squeeze(2)

    def _features(self, images: Tensor, side: int) -> Tensor:
        """Features of images of `side` pixels a side, at that side."""
        layer = self.from_image if side == self.resolution else self.from_smaller[str(side)]
        return layer(images)
