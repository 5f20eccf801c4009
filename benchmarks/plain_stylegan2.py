"""StyleGAN2's networks in plain PyTorch, for comparison: as one would write them.

Written from the equations of Karras et al., "Analyzing and Improving the Image Quality of
StyleGAN" (CVPR 2020), without anything of this package. Modulation scales activations, the filter
is a convolution with a group per channel, bias and leaky ReLU are PyTorch calls. The parameters
have the names of `realness.trainer.networks`, so that both can have the same weights.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN, LEAK = math.sqrt(2), 0.2


def activated(x: Tensor, bias: Tensor, gain: float = GAIN) -> Tensor:
    """gain * leaky ReLU(x + b), with the bias along dimension 1."""
    shape = (-1, *[1] * (x.dim() - 2))
    return F.leaky_relu(x + bias.to(x.dtype).view(shape), LEAK) * gain


def filtered(x: Tensor, *, padding: int, down: int = 1, gain: float = 1.0) -> Tensor:
    """The binomial filter of 4x4 taps on every channel."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    weight = (gain * torch.outer(taps, taps)).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, weight, stride=down, padding=padding, groups=x.shape[1])


def doubled(image: Tensor) -> Tensor:
    """An image at twice its side: a transposed convolution by the same filter."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=image.device) / 4
    weight = torch.outer(taps, taps).expand(image.shape[1], 1, 4, 4)
    return F.conv_transpose2d(image, weight, stride=2, padding=1, groups=image.shape[1])


class Linear(nn.Module):
    """A fully connected layer with an equalised learning rate."""

    def __init__(self, num_in: int, num_out: int, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in) / multiplier)
        self.bias = nn.Parameter(torch.zeros(num_out))
        self.gain, self.multiplier = multiplier / math.sqrt(num_in), multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.multiplier)


class ActiveLinear(Linear):
    """The same with a leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), LEAK) * GAIN


class Conv(nn.Module):
    """A convolution with an equalised learning rate, at the same or half the size."""

    def __init__(
        self, num_in: int, num_out: int, size: int, *, down: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in, size, size))
        self.bias = nn.Parameter(torch.zeros(num_out)) if bias else None
        self.down = down

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        size = weight.shape[2]
        if not self.down:
            y = F.conv2d(x, weight, padding=size // 2)
        elif size == 3:
            y = F.conv2d(filtered(x, padding=2), weight, stride=2)
        else:
            y = F.conv2d(filtered(x, padding=1, down=2), weight)
        return y * gain if self.bias is None else activated(y, self.bias, gain * GAIN)


class ModulatedConv(nn.Module):
    """Equations 1 to 3: inputs times the style, a convolution, outputs times 1 / norm."""

    def __init__(self, num_in: int, num_out: int, size: int, w_dim: int, *, up: bool) -> None:
        super().__init__()
        self.affine = Linear(w_dim, num_in)
        self.weight = nn.Parameter(torch.randn(num_out, num_in, size, size))
        self.up = up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(self.weight[0].numel())
        y = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            y = F.conv_transpose2d(y, self.weight.transpose(0, 1), stride=2)
            y = filtered(y, padding=1, gain=4.0)
        else:
            y = F.conv2d(y, self.weight, padding=self.weight.shape[2] // 2)
        if self.weight.shape[2] == 1:  # the image is not demodulated
            return y
        energy = self.weight.square().sum((2, 3))
        scale = (style.square() @ energy.t() + 1e-8).rsqrt()
        return y * scale.to(y.dtype)[:, :, None, None]


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, num_in: int, num_out: int, w_dim: int, *, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(num_in, num_out, 3, w_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        y = self.conv(x, w)
        return activated(y + (noise * self.noise_strength).to(y.dtype), self.bias)


class ToImage(nn.Module):
    """A modulated 1x1 convolution to three channels."""

    def __init__(self, num_in: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(num_in, 3, 1, w_dim, up=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = self.conv(x, w)
        return (y + self.bias.to(y.dtype)[:, None, None]).float()


class Block(nn.Module):
    """The layers of one resolution of G."""

    def __init__(self, num_in: int, num_out: int, w_dim: int, *, first: bool) -> None:
        super().__init__()
        pairs = [] if first else [(num_in, num_out, True)]
        self.convs = nn.ModuleList(
            StyledConv(below, above, w_dim, up=up)
            for below, above, up in [*pairs, (num_out, num_out, False)]
        )
        self.to_image = ToImage(num_out, w_dim)


class Generator(nn.Module):
    """The skip generator: latents, noise of every layer and mixed styles to images."""

    def __init__(self, channels: list[int], z_dim: int, w_dim: int, mapping_layers: int) -> None:
        super().__init__()
        layers = (ActiveLinear(w_dim if i else z_dim, w_dim, 0.01) for i in range(mapping_layers))
        self.mapping = nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))
        self.start = nn.Parameter(torch.randn(channels[0], 4, 4))
        self.blocks = nn.ModuleList(
            Block(below, above, w_dim, first=i == 0)
            for i, (below, above) in enumerate(itertools.pairwise([channels[0], *channels]))
        )
        self.z_dim, self.num_styles = z_dim, 2 * len(channels)

    def styles(self, z: Tensor, mixed: Tensor, crossover: Tensor) -> Tensor:
        """[B, styles, w_dim]; from `crossover` [B] on those of `mixed`. fp32 in any case."""
        with torch.autocast(z.device.type, enabled=False):
            z = torch.cat([z, mixed])
            w = self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        first, second = w.chunk(2)
        before = torch.arange(self.num_styles) < crossover[:, None]
        return torch.where(before[:, :, None], first[:, None], second[:, None])

    def forward(self, w: Tensor, noise: list[Tensor], layout: torch.memory_format) -> Tensor:
        x = self.start.expand(len(w), -1, -1, -1).contiguous(memory_format=layout)
        image, layer = None, 0
        for block in cast("list[Block]", self.blocks):
            for conv in block.convs:
                x = conv(x, w[:, layer], noise[layer])
                layer += 1
            own = block.to_image(x, w[:, layer])
            image = own if image is None else own + doubled(image)
        assert image is not None
        return image


class ResidualBlock(nn.Module):
    """Two convolutions beside one, at half the size."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv_0 = Conv(num_in, num_in, 3)
        self.conv_1 = Conv(num_in, num_out, 3, down=True)
        self.skip = Conv(num_in, num_out, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = math.sqrt(0.5)
        return self.skip(x, half) + self.conv_1(self.conv_0(x), half)


class Discriminator(nn.Module):
    """The residual discriminator with the standard deviation of groups of images."""

    def __init__(self, channels: list[int], group: int) -> None:
        super().__init__()
        self.from_image = Conv(3, channels[-1], 1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in itertools.pairwise(channels[::-1]))
        )
        self.conv = Conv(channels[0] + 1, channels[0], 3)
        self.hidden = ActiveLinear(channels[0] * 16, channels[0])
        self.head = Linear(channels[0], 1)
        self.group = group

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.from_image(images))
        groups = x.float().unflatten(0, (-1, self.group))
        spread = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        spread = spread.repeat_interleave(self.group).to(x.dtype)
        x = torch.cat([x, spread[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
        return self.head(self.hidden(self.conv(x).flatten(1)))
