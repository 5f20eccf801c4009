"""StyleGAN2's residual discriminator, configuration F, at powers of two from 32 to 1024.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020), section 4.1.
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from realness.trainer.networks.common import IMAGE_CHANNELS, START_SIZE, check_images
from realness.trainer.networks.layout import ImageNetwork, hold_layout
from realness.trainer.networks.stylegan2_generator import side_channels
from realness.trainer.networks.stylegan2_layers import EqualConv2d, EqualLinear, minibatch_stddev


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


class StyleGAN2Discriminator(ImageNetwork):
    """images [B, 3, R, R] -> outputs [B, num_outputs].

    Residual blocks down to 4x4, the minibatch standard deviation as an additional channel (see
    `minibatch_stddev`; none for a `group` of 1), a 3x3 convolution and two fully connected layers.
    With groups, each row of the output therefore depends on the other rows of its group.
    """

    def __init__(
        self,
        *,
        channel_base: int,
        max_channels: int,
        resolution: int,
        num_outputs: int,
        group: int,
    ) -> None:
        super().__init__()
        channels = side_channels(channel_base, max_channels, resolution)[::-1]
        self.resolution, self.group = resolution, group
        self.from_image = EqualConv2d(IMAGE_CHANNELS, channels[0], 1, act="lrelu")
        self.blocks = nn.Sequential(
            *(ResidualBlock(below, above) for below, above in itertools.pairwise(channels))
        )
        last = channels[-1]
        self.conv = EqualConv2d(last + (group > 1), last, 3, act="lrelu")
        self.hidden = EqualLinear(last * START_SIZE**2, last, act="lrelu")
        self.head = EqualLinear(last, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.resolution)
        x = self.blocks(self.from_image(self.lay_out(images)))
        if self.group > 1:
            x = minibatch_stddev(x, self.group)
        return self.head(self.hidden(hold_layout(self.conv(x)).flatten(1)))
