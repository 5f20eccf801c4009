"""StyleGAN2's generator, configuration F, at powers of two from 32 to 1024.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020, [2]), with the
mapping network of "A Style-Based Generator Architecture for GANs" (CVPR 2019, [1]).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer.networks.common import (
    LEAK,
    START_SIZE,
    check_noise,
    count_doublings,
)
from realness.trainer.networks.growing import GrowingNetwork, doublings
from realness.trainer.networks.inputs import Mixing
from realness.trainer.networks.posterior import CodedGenerator, posterior_module, scale_and_shift
from realness.trainer.networks.stylegan2_layers import (
    GAIN,
    Bounded,
    ModulatedConv2d,
    ToImage,
    fir_filter,
    limited,
)
from realness.trainer.networks.stylegan2_mapping import MappingNetwork
from realness.trainer.randomness import Draws, Purpose

CENTRE_SAMPLES = 10_000
"""Number of latents whose styles are averaged for truncation; the sampling error is about 1 %."""


def side_channels(channel_base: int, max_channels: int, resolution: int) -> list[int]:
    """Channels at sides 4, 8, ..., resolution: min(max_channels, channel_base / side).

    Configuration F has a base of 32,768: 512 up to 64 pixels, then 256, 128, 64, 32 at 1024.

    Raises:
        ValueError: for a base that leaves no channel at `resolution`, or an invalid resolution.
    """
    sides = [START_SIZE << k for k in range(count_doublings(resolution) + 1)]
    if channel_base < resolution:
        raise ValueError(f"channel_base={channel_base} must be at least the {resolution} pixels")
    return [min(max_channels, channel_base // side) for side in sides]


class StyledConv(Bounded):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: [B, in, H, W] -> [B, out, H', W'].

    `noise` [B, 1, H', W'] is added to all channels, times one learned strength that starts at 0.
    With a code, P2GAN's posterior module controls the layer as in eq. 11 for AdaIN, with
    demodulation instead of batch normalisation: it produces features of unit variance, to which the
    code's scale and shift are applied.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, up: bool, code_dim: int
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, w_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.posterior = posterior_module(code_dim, out_channels) if code_dim else None

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor, code: Tensor | None, share: float
    ) -> Tensor:
        y, scale = self.conv(x, w)
        assert scale is not None
        added = noise * self.noise_strength
        if self.posterior is not None and code is not None:
            code_scale, code_shift = scale_and_shift(self.posterior, code, share)
            scale = scale * code_scale
            added = added + code_shift[:, :, None, None]
        y = torch.addcmul(added.to(y.dtype), y, scale.to(y.dtype)[:, :, None, None])
        return limited(kernels.bias_act(y, self.bias, "lrelu", slope=LEAK, gain=GAIN), self.bound)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: two styled convolutions (one at 4x4) and an image.

    The images of all resolutions are summed, each upsampled by the filter: the skip generator
    ([2], section 4.1). The sum is fp32. Styles w [B, n + 1, w_dim] are those of the block's n
    convolutions and of its image; the latter is also the first style of the next block.
    """

    fir: Tensor

    recomputable = True

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, first: bool, code_dim: int
    ) -> None:
        super().__init__()
        pairs = [(out_channels, out_channels, False)]
        if not first:
            pairs.insert(0, (in_channels, out_channels, True))
        self.convs = nn.ModuleList(
            StyledConv(below, above, w_dim, up=up, code_dim=code_dim) for below, above, up in pairs
        )
        self.to_image = ToImage(out_channels, w_dim)
        self.register_buffer("fir", fir_filter(), persistent=False)

    def forward(
        self,
        x: Tensor,
        image: Tensor | None,
        w: Tensor,
        noise: list[Tensor],
        code: Tensor | None,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        *styles, image_style = w.unbind(1)
        for conv, style, added in zip(self.convs, styles, noise, strict=True):
            x = conv(x, style, added, code, share)
        own = self.to_image(x, image_style)
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        if image is None:
            return x, own
        return x, own + self.filtered(image)

    def filtered(self, image: Tensor) -> Tensor:
        """An image [B, 3, H / 2, W / 2] of the block below at this block's side."""
        return kernels.upfirdn2d(image, self.fir, up=2, padding=(2, 1, 2, 1), gain=4.0)


class StyleGAN2Generator(CodedGenerator, GrowingNetwork):
    """z [B, z_dim] and noise [B, noise_dim] -> images [B, 3, R, R], where real ones are in [-1, 1].

    Further inputs: for style mixing `mixing`, second latents [B, z_dim] and the layer [B] from
    which on each sample uses them ([1], section 3.1); with `code_dim`, a posterior code with its
    `share` (see `CodedGenerator`); with `classes`, which is its `num_classes`, a condition in its
    place, which the mapping network takes. `centre` [w_dim] and `truncation` psi move styles to
    centre + psi (w - centre) ([1], section 2.1 and appendix B). `offset` [B, num_styles, w_dim] is
    added to the styles; path lengths are derivatives with respect to it.

    Only the blocks up to the stage's side run; noise and styles of the others are drawn, and not
    used. There is an image at each side anyway, so growing adds no layers.

    `path_length_mean` is the moving average a of path-length regularisation; see
    `realness.trainer.updates.path_length`.

    Raises:
        ValueError: for inputs of wrong shapes.
    """

    path_length_mean: Tensor
    tracked_buffers = (*CodedGenerator.tracked_buffers, "path_length_mean")

    def __init__(
        self,
        *,
        z_dim: int,
        w_dim: int,
        mapping_layers: int,
        channel_base: int,
        max_channels: int,
        resolution: int,
        style_mixing: float,
        code_dim: int = 0,
        **classes: int,
    ) -> None:
        super().__init__(z_dim, code_dim, **classes)
        self.prepare_to_grow(resolution, growing=True)
        channels = side_channels(channel_base, max_channels, resolution)
        self.w_dim, self.style_mixing = w_dim, style_mixing
        self.mapping = MappingNetwork(z_dim, w_dim, mapping_layers, self.num_classes)
        self.start = nn.Parameter(torch.randn(channels[0], START_SIZE, START_SIZE))
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                channels[max(k - 1, 0)], channels[k], w_dim, first=k == 0, code_dim=code_dim
            )
            for k in range(len(channels))
        )
        sides = [START_SIZE << k for k in range(len(channels))]
        self.noise_sides = [side for k, side in enumerate(sides) for _ in range(2 if k else 1)]
        self.register_buffer("path_length_mean", torch.zeros(()))

    @property
    def num_styles(self) -> int:
        """Styles per image: one per convolution, and one for the last image. 18 at 1024."""
        return len(self.noise_sides) + 1

    @property
    def noise_dim(self) -> int:
        """Noise values per image: one per pixel of every convolution."""
        return sum(side**2 for side in self.noise_sides)

    def draw_noise(self, draws: Draws) -> Tensor:
        """The noise of these samples, [B, noise_dim] fp32: the same on any number of ranks."""
        return draws.normal(Purpose.NOISE, self.noise_dim)

    def draw_mixing(self, draws: Draws) -> Mixing:
        """Second latents [B, z_dim] and crossovers int64 [B], uniform over 1 .. num_styles - 1.

        A fraction 1 - `style_mixing` of the samples gets the crossover num_styles, i.e. no mixing.
        """
        share, place = draws.uniform(Purpose.CROSSOVER, 2).unbind(1)
        crossover = 1 + (place * (self.num_styles - 1)).long()
        crossover = torch.where(share < self.style_mixing, crossover, self.num_styles)
        return draws.normal(Purpose.MIXED_LATENT, self.z_dim), crossover

    @torch.no_grad()
    def centre(self, draws: Draws, condition: Tensor | None = None) -> Tensor:
        """The centre of mass of W, E f(z), [w_dim], over the latents of `draws`."""
        return self.mapping(draws.normal(Purpose.LATENT, self.z_dim), condition).mean(0)

    def forward(
        self,
        z: Tensor,
        noise: Tensor,
        code: Tensor | None = None,
        share: float = 1.0,
        mixing: Mixing | None = None,
        *,
        centre: Tensor | None = None,
        truncation: float = 1.0,
        offset: Tensor | None = None,
    ) -> Tensor:
        self.check(z, code)
        check_noise(noise, z.shape[0], self.noise_dim)
        condition, code = (code, None) if self.num_classes else (None, code)
        w = self.styles(z, mixing, condition)
        if centre is not None:
            w = torch.lerp(centre, w, truncation)
        if offset is not None:
            w = w + offset
        return self.synthesize(w, noise, code, share)

    def styles(
        self, z: Tensor, mixing: Mixing | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """The styles of each sample, [B, num_styles, w_dim], before truncation.

        Both latents of a sample have its class.
        """
        if mixing is None:
            return self.mapping(z, condition)[:, None].repeat(1, self.num_styles, 1)
        mixed, crossover = mixing
        twice = None if condition is None else condition.repeat(2, 1)
        first, second = self.mapping(torch.cat([z, mixed]), twice).chunk(2)
        layers = torch.arange(self.num_styles, device=z.device)
        before = (layers < crossover[:, None])[:, :, None]
        return torch.where(before, first[:, None], second[:, None])

    def synthesize(
        self, w: Tensor, noise: Tensor, code: Tensor | None = None, share: float = 1.0
    ) -> Tensor:
        """Images of styles w [B, num_styles, w_dim]; the code is P2GAN's, not a condition."""
        parts = noise.split([side**2 for side in self.noise_sides], 1)
        sides = zip(parts, self.noise_sides, strict=True)
        maps = [part.unflatten(1, (1, side, side)) for part, side in sides]
        x = self.lay_out(self.start.expand(w.shape[0], -1, -1, -1))
        x, images = x.to(w.dtype), []
        side, alpha = self.stage
        last = doublings(side)
        for number in range(last + 1):
            first, end = max(2 * number - 1, 0), 2 * number + 1
            below = images[-1] if images else None
            x, image = self.blocks[number](
                x, below, w[:, first : end + 1], maps[first:end], code, share
            )
            images.append(image)
        image = images[-1]
        if alpha < 1:
            block = cast(SynthesisBlock, self.blocks[last])
            image = torch.lerp(block.filtered(images[-2]), image, alpha)
        return self.enlarged(image)
