"""Layers of StyleGAN2: equalised learning rates, modulation, filtered resampling.

Karras et al., "A Style-Based Generator Architecture for GANs" (CVPR 2019, [1]) and "Analyzing and
Improving the Image Quality of StyleGAN" (CVPR 2020, [2]). Weights are initialised to N(0, 1) and
scaled at run time by 1 / sqrt(fan-in), He's constant, so that Adam's steps are relative to the size
of each layer (Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.1); leaky ReLUs
are followed by a gain of sqrt(2), which preserves the variance.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness import kernels
from realness.kernels import format_of
from realness.trainer.networks.buffers import Float32Buffers
from realness.trainer.networks.common import IMAGE_CHANNELS, LEAK, without_autocast
from realness.trainer.networks.layout import hold_layout

FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
"""The binomial low-pass filter of all up- and downsampling ([2], appendix B)."""
GAIN = math.sqrt(2)
"""The gain after a leaky ReLU."""

Act = Literal["linear", "lrelu"]


def act_gain(act: Act) -> float:
    """The gain that preserves the variance through an activation."""
    return GAIN if act == "lrelu" else 1.0


def limited(x: Tensor, bound: float) -> Tensor:
    """x with its values limited to [-bound, bound]; unchanged for a bound of 0."""
    return x.clamp(-bound, bound) if bound else x


class Bounded(nn.Module):
    """A layer whose output is limited to [-bound, bound]; 0 for no limit.

    The published code of Karras et al., "Training Generative Adversarial Networks with Limited
    Data" (NeurIPS 2020), limits every convolution's output to 256, because it computes the highest
    resolutions in fp16.
    """

    bound: float = 0.0


def set_bound(network: nn.Module, bound: float) -> None:
    """Limit the outputs of all layers of a network that can be limited."""
    for module in network.modules():
        if isinstance(module, Bounded):
            module.bound = bound


def fir_filter() -> Tensor:
    """The separable filter as [4, 4], with sum 1."""
    taps = torch.tensor(FIR_TAPS)
    kernel = torch.outer(taps, taps)
    return kernel / kernel.sum()


class EqualLinear(nn.Module):
    """act((W / sqrt(in)) x + b): [B, in] -> [B, out].

    `lr_multiplier` m additionally scales weights and biases by m at run time and by 1/m at
    initialisation: the same function with m times the learning rate ([1], appendix C: 0.01 for the
    mapping network). `bias` is the initial value of the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: Act = "linear",
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.act: Act = act

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.weight_gain)
        return kernels.bias_act(
            y, self.bias * self.bias_gain, self.act, slope=LEAK, gain=act_gain(self.act)
        )


class EqualConv2d(Float32Buffers, Bounded):
    """act((W / sqrt(fan-in)) * x + b) of the same size, or half the size with `down`.

    x: [B, in, H, W]. Downsampling filters before dropping pixels. `gain` scales the result, and
    with it the bound.
    """

    fir: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Literal[1, 3],
        *,
        down: bool = False,
        bias: bool = True,
        act: Act = "linear",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.down = down
        self.act: Act = act
        self.gain = gain * act_gain(act)
        self.bound_gain = gain
        self.register_buffer("fir", fir_filter(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_gain
        if not self.down:
            y = F.conv2d(x, weight, padding=self.padding)
        elif self.padding:
            x = kernels.upfirdn2d(x, self.fir, padding=2)
            y = F.conv2d(x, weight, stride=2)
        else:  # 1x1: dropping pixels first gives the same result
            x = kernels.upfirdn2d(x, self.fir, down=2, padding=1)
            y = F.conv2d(x, weight)
        y = kernels.bias_act(y, self.bias, self.act, slope=LEAK, gain=self.gain)
        return limited(y, self.bound * self.bound_gain)


class ModulatedConv2d(Float32Buffers):
    """Convolution with input channels scaled by a style: [B, in, H, W] -> [B, out, H', W'].

    With s = A w, an affine map that starts at bias 1, and W' the equalised weight, sample b is
    convolved with s[b, i] W'[o, i, k], and with `demodulate` divided by that kernel's norm, so that
    inputs of unit variance give outputs of unit variance ([2], eq. 1 to 3):

        y[b, o] = d[b, o] (W' * (s[b] x[b]))[o],
        d[b, o] = 1 / sqrt(sum_ik (s[b, i] W'[o, i, k])^2)

    This form scales activations instead of weights: one ordinary convolution for the whole batch
    instead of one group per sample, and weights are cast only once. d is computed by
    `kernels.demodulate` and returned together with y, to be applied in the next elementwise pass;
    without demodulation it is None. Styles and d are fp32 at any precision setting.

    `up` doubles the size with a transposed convolution followed by the filter.
    """

    fir: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Literal[1, 3],
        w_dim: int,
        *,
        up: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.up = up
        self.demodulate = demodulate
        self.register_buffer("fir", fir_filter(), persistent=False)

    def style(self, w: Tensor) -> Tensor:
        """The style [B, in] of w, times 1 / sqrt(fan-in), which saves a pass over the weight."""
        return self.affine(w) * self.weight_gain

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        with without_autocast(x.device):
            style = self.style(w)
            scale = None
            if self.demodulate:
                scale = kernels.demodulate(self.weight, style)
        x = x * style.to(x.dtype)[:, :, None, None]
        if not self.up:
            return F.conv2d(x, self.weight, padding=self.padding), scale
        y = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
        return kernels.upfirdn2d(y, self.fir, padding=1, gain=4.0), scale


class ToImage(Bounded):
    """Modulated 1x1 convolution to RGB, without demodulation: [B, in, H, W] -> [B, 3, H, W].

    As a batched matrix product with the weights of each sample, s[b, i] W'[o, i] ([2], eq. 1): the
    images have 3 channels, so that scaled weights cost nothing, while scaled activations would be a
    pass over all of x, and three in the backward pass.
    """

    def __init__(self, in_channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, IMAGE_CHANNELS, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(IMAGE_CHANNELS))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with without_autocast(x.device):
            weight = self.conv.weight.flatten(1) * self.conv.style(w)[:, None]  # [B, 3, in]
        weight = weight.to(x.dtype)
        if format_of(x) == torch.channels_last:
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.transpose(1, 2)  # [B, H W, 3]
            y = pixels.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        else:
            y = (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
        return limited(y + self.bias.to(y.dtype)[:, None, None], self.bound)


def minibatch_stddev(x: Tensor, group: int, eps: float = 1e-8) -> Tensor:
    """Append a channel to x [B, C, H, W] with the standard deviation in each sample's group.

    The standard deviation over the `group` samples of a group, of every feature at every position,
    averaged to one number per group (Karras et al., "Progressive Growing of GANs", section 3).
    Groups are consecutive rows. No group therefore mixes real and generated images of a
    concatenated pass, or rows of two ranks, and a batch split over ranks gives the same result as
    the whole batch, provided that every part is divisible by `group` (checked by
    `TrainConfig.check_ranks`). The remaining rows at the end of a batch form a smaller group.
    """
    count = x.shape[0]
    rows = torch.arange(count, device=x.device)
    members = rows[:, None] // group * group + torch.arange(group, device=x.device)  # [B, group]
    present = (members < count).to(torch.promote_types(x.dtype, torch.float32))
    present = present.unflatten(1, (group, 1, 1, 1))
    values = x[members.clamp(max=count - 1)] * present
    sizes = present.sum(1)
    centred = (values - values.sum(1, keepdim=True) / sizes[:, None]) * present
    deviation = (centred.square().sum(1) / sizes + eps).sqrt().mean((1, 2, 3), keepdim=True)
    deviation = deviation.to(x.dtype).expand(-1, 1, *x.shape[2:])
    deviation = deviation.contiguous(memory_format=format_of(x))
    return hold_layout(torch.cat([x, deviation], 1))
