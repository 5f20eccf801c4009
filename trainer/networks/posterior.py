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

CODE_MOMENTUM = 0.1


class PosteriorBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift come from a code (P2GAN, eq. 10 and 11).

    y = scale * (x - mu_BN) / sigma_BN + shift, for x [B, C, ...], with (scale, shift) of each
    sample from a linear posterior module on its code [B, code_dim] and no other affine part. The
    statistics are `GlobalBatchNorm`'s. `share` in [0, 1] blends the posterior module in: at 0 the
    result is plain normalisation and the module's gradients are exactly zero.

    Equation 11 writes scale and shift as deviation and mean of the module's output over pixels,
    which a linear output does not have; so it predicts them, scale by its first half and shift by
    its second. Its bias starts at scale 1 and shift 0, and its weight at N(0, 0.02): generation
    starts at plain batch normalisation, as `GlobalBatchNorm`'s own weights do. Differentiable once.
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
        self.posterior = nn.Linear(code_dim, 2 * num_features)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.posterior.weight, 0.0, 0.02)
        scale, shift = self.posterior.bias.chunk(2)
        scale.fill_(1.0)
        shift.zero_()

    def forward(self, x: Tensor, code: Tensor, share: float = 1.0) -> Tensor:
        scale, shift = self.posterior(code).chunk(2, dim=1)
        scale, shift = 1 + share * (scale - 1), share * shift
        y = self.normalize(x)
        per_pixel = (*scale.shape, *[1] * (x.dim() - 2))
        return torch.addcmul(
            shift.to(y.dtype).view(per_pixel), y, scale.to(y.dtype).view(per_pixel)
        )


class BatchNormGenerator(Float32Buffers):
    """What batch-normalised generators share: z [B, z_dim] -> images, or with a posterior code.

    With `code_dim` 0 the forward pass is `generator(z)`. Otherwise it is
    `generator(z, code [B, code_dim], share=1.0)`: every batch normalisation is a
    `PosteriorBatchNorm`, and `share=0.0` is the pretraining phase without posterior modules
    (P2GAN, section 4.5). The fp32 buffers `code_mean` and `code_std` [code_dim] then follow the
    codes of real images, for sampling without them.

    A subclass makes its normalisations by `new_norm` and implements `synthesize`, whose
    `*condition` (nothing, or code and share) it hands on to each of them.

    Raises:
        ValueError: for inputs of other shapes, or a code where none is used.
    """

    code_mean: Tensor
    code_std: Tensor
    tracked_buffers = ("code_mean", "code_std")
    """Moving averages already, which the moving average of the weights is not to average again."""

    def __init__(
        self, z_dim: int, code_dim: int, batch_statistics: Literal["global", "local"]
    ) -> None:
        super().__init__()
        self.z_dim, self.code_dim = z_dim, code_dim
        self.batch_statistics: Literal["global", "local"] = batch_statistics
        if code_dim:
            self.register_buffer("code_mean", torch.zeros(code_dim))
            self.register_buffer("code_std", torch.ones(code_dim))

    def new_norm(self, num_features: int) -> nn.Module:
        """A normalisation called as `norm(x, *condition)`."""
        if self.code_dim:
            return PosteriorBatchNorm(num_features, self.code_dim, statistics=self.batch_statistics)
        return GlobalBatchNorm(num_features, statistics=self.batch_statistics)

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        """Images [B, 3, R, R] in [-1, 1] for checked inputs."""
        raise NotImplementedError

    def forward(self, z: Tensor, code: Tensor | None = None, share: float = 1.0) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [B, {self.z_dim}]")
        if not self.code_dim:
            if code is not None:
                raise ValueError("a code was given to a generator of code_dim=0; leave it out")
            return self.synthesize(z)
        expected = (z.shape[0], self.code_dim)
        if code is None or tuple(code.shape) != expected:
            shape = "none" if code is None else tuple(code.shape)
            raise ValueError(f"code has shape {shape}, expected {expected}: one a sample of z")
        return self.synthesize(z, code, share)

    @torch.no_grad()
    def track_codes(self, mean: Tensor, std: Tensor) -> None:
        """Move `code_mean` and `code_std` by a tenth towards mean, std [code_dim] (section 4.5)."""
        self.code_mean.lerp_(mean.to(self.code_mean), CODE_MOMENTUM)
        self.code_std.lerp_(std.to(self.code_std), CODE_MOMENTUM)
