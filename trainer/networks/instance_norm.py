"""Instance normalisation of feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from realness.kernels import format_of


class InstanceNorm(nn.GroupNorm):
    """Normalisation of each sample and channel over pixels: [B, C, H, W] -> the same shape.

    Ulyanov et al., "Instance Normalization: The Missing Ingredient for Fast Stylization" (2016).
    The same in training and in evaluation: samples do not interact, and there are no running
    statistics. With `affine` there is one scale and shift per channel, initialised to N(1, 0.02)
    and 0 as in `GlobalBatchNorm`. The layout and dtype of the input are kept; differentiable any
    number of times.

    Raises:
        ValueError: for maps of one pixel, all of which would become 0.
    """

    def __init__(self, num_channels: int, *, affine: bool = True) -> None:
        super().__init__(num_channels, num_channels, affine=affine)

    def reset_parameters(self) -> None:
        if self.affine:
            nn.init.normal_(self.weight, 1.0, 0.02)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0].numel() < 2:
            raise ValueError(
                f"instance normalisation needs more than one pixel per channel, got an input of "
                f"shape {tuple(x.shape)}; use batch normalisation"
            )
        y = super().forward(x)
        return y.to(x.dtype).contiguous(memory_format=format_of(x))
