"""Layer normalisation of feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from realness.kernels import format_of


class LayerNorm(nn.GroupNorm):
    """Normalisation of each sample over channels and pixels: [B, C, H, W] -> the same shape.

    There is one scale and shift per channel, initially 1 and 0 (Ba et al., 2016, as used in the
    discriminator of WGAN-GP). Samples do not interact, so that gradient penalties, which are per
    sample, stay valid; differentiable any number of times. The layout of the input is kept.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.contiguous(memory_format=format_of(x))
