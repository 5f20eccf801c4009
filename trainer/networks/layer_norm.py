"""Layer normalisation of feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from realness.kernels import format_of


class LayerNorm(nn.GroupNorm):
    """Normalisation of each sample over channels and pixels: [B, C, H, W] -> the same shape.

    Scale and shift are one a channel, 1 and 0 at first (Ba et al., 2016, as WGAN-GP uses it in its
    discriminator). Samples do not meet, so that gradient penalties, which are taken a sample, keep
    their meaning; differentiable any number of times. The layout of the input is kept.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.contiguous(memory_format=format_of(x))
