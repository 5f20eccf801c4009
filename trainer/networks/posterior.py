"""P2GAN's generator side (Zhang et al., CVPR 2021): normalisation steered by a posterior code.

The discriminator turns a real image into a distribution over codes. The generator is given a code
of it beside its noise, which sets scale and shift of every batch normalisation, as AdaIN does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.buffers import Float32Buffers
from realness.trainer.networks.layout import ImageNetwork

CODE_MOMENTUM = 0.1


def posterior_module(code_dim: int, num_features: int) -> nn.Linear:
    """A posterior module P_i: code [B, code_dim] -> scale and shift of each feature (eq. 10).

    Equation 11 writes scale and shift as deviation and mean of the module's output over pixels,
    which a linear output does not have; so it predicts them, scale by its first half and shift by
    its second. Its bias starts at scale 1 and shift 0, and its weight at N(0, 0.02): generation
    starts at plain normalisation.
    """
    module = nn.Linear(code_dim, 2 * num_features)
    nn.init.normal_(module.weight, 0.0, 0.02)
    with torch.no_grad():
        scale, shift = module.bias.chunk(2)
        scale.fill_(1.0)
        shift.zero_()
    return module


def scale_and_shift(module: nn.Linear, code: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """What a posterior module gives a code, both [B, num_features], blended in by `share`."""
    scale, shift = module(code).chunk(2, dim=1)
    return 1 + share * (scale - 1), share * shift


class PosteriorBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift come from a code (P2GAN, eq. 10 and 11).

    y = scale * (x - mu_BN) / sigma_BN + shift, for x [B, C, ...], with (scale, shift) of each
    sample from a linear posterior module on its code [B, code_dim] and no other affine part. The
    statistics are `GlobalBatchNorm`'s. `share` in [0, 1] blends the posterior module in: at 0 the
    result is plain normalisation and the module's gradients are exactly zero.

    Differentiable once.
    """

    def __init__(
        self,
        num_features: int,
        code_dim: int,
        *,
        statistics: Literal["global", "local"] = "global",
    ) -> None:
        super().__init__()
        self.normalize = GlobalBatchNorm(num_features, affine=False, statistics=statistics)
        self.posterior = posterior_module(code_dim, num_features)

    def forward(self, x: Tensor, code: Tensor, share: float = 1.0) -> Tensor:
        scale, shift = scale_and_shift(self.posterior, code, share)
        y = self.normalize(x)
        per_pixel = (*scale.shape, *[1] * (x.dim() - 2))
        return torch.addcmul(
            shift.to(y.dtype).view(per_pixel), y, scale.to(y.dtype).view(per_pixel)
        )


class CodedGenerator(ImageNetwork, Float32Buffers):
    """What generators share that take a posterior code [B, code_dim], or none for `code_dim` 0.

    The fp32 buffers `code_mean` and `code_std` [code_dim] follow the codes of real images, for
    sampling without them (section 4.5).
    """

    code_mean: Tensor
    code_std: Tensor
    tracked_buffers: tuple[str, ...] = ("code_mean", "code_std")
    """Moving averages already, which the moving average of the weights is not to average again."""

    def __init__(self, z_dim: int, code_dim: int) -> None:
        super().__init__()
        self.z_dim, self.code_dim = z_dim, code_dim
        if code_dim:
            self.register_buffer("code_mean", torch.zeros(code_dim))
            self.register_buffer("code_std", torch.ones(code_dim))

    def check(self, z: Tensor, code: Tensor | None) -> None:
        """Raise ValueError for latents or codes of other shapes, or a code where none is used."""
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [B, {self.z_dim}]")
        if not self.code_dim:
            if code is not None:
                raise ValueError("a code was given to a generator of code_dim=0; leave it out")
            return
        expected = (z.shape[0], self.code_dim)
        if code is None or tuple(code.shape) != expected:
            shape = "none" if code is None else tuple(code.shape)
            raise ValueError(f"code has shape {shape}, expected {expected}: one a sample of z")

    @torch.no_grad()
    def track_codes(self, mean: Tensor, std: Tensor) -> None:
        """Move `code_mean` and `code_std` by a tenth towards mean, std [code_dim] (section 4.5)."""
        self.code_mean.lerp_(mean.to(self.code_mean), CODE_MOMENTUM)
        self.code_std.lerp_(std.to(self.code_std), CODE_MOMENTUM)


class BatchNormGenerator(CodedGenerator):
    """What batch-normalised generators share: z [B, z_dim] -> images, or with a posterior code.

    With `code_dim` 0 the forward pass is `generator(z)`. Otherwise it is
    `generator(z, code [B, code_dim], share=1.0)`: every batch normalisation is a
    `PosteriorBatchNorm`, and `share=0.0` is the pretraining phase without posterior modules
    (P2GAN, section 4.5).

    A subclass makes its normalisations by `new_norm` and implements `synthesize`, whose
    `*condition` (nothing, or code and share) it hands on to each of them.

    Raises:
        ValueError: for inputs of other shapes, or a code where none is used.
    """

    def __init__(
        self, z_dim: int, code_dim: int, batch_statistics: Literal["global", "local"]
    ) -> None:
        super().__init__(z_dim, code_dim)
        self.batch_statistics: Literal["global", "local"] = batch_statistics

    def new_norm(self, num_features: int) -> nn.Module:
        """A normalisation called as `norm(x, *condition)`."""
        if self.code_dim:
            return PosteriorBatchNorm(num_features, self.code_dim, statistics=self.batch_statistics)
        return GlobalBatchNorm(num_features, statistics=self.batch_statistics)

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        """Images [B, 3, R, R] in [-1, 1] for checked inputs."""
        raise NotImplementedError

    def forward(self, z: Tensor, code: Tensor | None = None, share: float = 1.0) -> Tensor:
        self.check(z, code)
        return self.synthesize(z) if code is None else self.synthesize(z, code, share)
