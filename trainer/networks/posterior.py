"""P2GAN's generator side (Zhang et al., CVPR 2021): normalisation controlled by a posterior code.

The discriminator maps a real image to a distribution over codes. The generator takes a code from
it in addition to its noise; the code sets the scale and shift of every normalisation, as in AdaIN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from realness.trainer.config.networks import GeneratorNormalisation
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.buffers import Float32Buffers
from realness.trainer.networks.instance_norm import InstanceNorm
from realness.trainer.networks.layout import ImageNetwork

CODE_MOMENTUM = 0.1


def posterior_module(code_dim: int, num_features: int) -> nn.Linear:
    """A posterior module P_i: code [B, code_dim] -> scale and shift of each feature (eq. 10).

    Equation 11 defines scale and shift as deviation and mean of the module's output over pixels,
    but a linear output has no pixels; so the module predicts the scale in the first half of its
    output and the shift in the second. Its bias is initialised to scale 1 and shift 0, its weight
    to N(0, 0.02), so that generation starts close to plain normalisation.
    """
    module = nn.Linear(code_dim, 2 * num_features)
    nn.init.normal_(module.weight, 0.0, 0.02)
    with torch.no_grad():
        scale, shift = module.bias.chunk(2)
        scale.fill_(1.0)
        shift.zero_()
    return module


def scale_and_shift(module: nn.Linear, code: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of a code, both [B, num_features], blended with 1 and 0 by `share`."""
    scale, shift = module(code).chunk(2, dim=1)
    return 1 + share * (scale - 1), share * shift


class PosteriorNorm(nn.Module):
    """A normalisation whose scale and shift come from a code (P2GAN, eq. 10 and 11).

    y = scale * (x - mu) / sigma + shift, for x [B, C, ...], with (scale, shift) of each sample from
    a linear posterior module on its code [B, code_dim]. `normalize` computes (x - mu) / sigma, so
    it has no affine part. `share` in [0, 1] is the weight of the posterior module: at 0 the result
    is plain normalisation and the module's gradients are exactly zero.
    """

    def __init__(self, normalize: nn.Module, num_features: int, code_dim: int) -> None:
        super().__init__()
        self.normalize = normalize
        self.posterior = posterior_module(code_dim, num_features)

    def forward(self, x: Tensor, code: Tensor, share: float = 1.0) -> Tensor:
        scale, shift = scale_and_shift(self.posterior, code, share)
        y = self.normalize(x)
        per_pixel = (*scale.shape, *[1] * (x.dim() - 2))
        return torch.addcmul(
            shift.to(y.dtype).view(per_pixel), y, scale.to(y.dtype).view(per_pixel)
        )


class PosteriorBatchNorm(PosteriorNorm):
    """Eq. 11: mu and sigma of each channel of the batch, as in `GlobalBatchNorm`.

    x: [B, C] or [B, C, ...]. Differentiable once.
    """

    def __init__(
        self,
        num_features: int,
        code_dim: int,
        *,
        statistics: Literal["global", "local"] = "global",
    ) -> None:
        normalize = GlobalBatchNorm(num_features, affine=False, statistics=statistics)
        super().__init__(normalize, num_features, code_dim)


class PosteriorInstanceNorm(PosteriorNorm):
    """Eq. 2, AdaIN with the posterior module's style: mu and sigma of each sample and channel.

    x: [B, C, H, W] with more than one pixel.
    """

    def __init__(self, num_features: int, code_dim: int) -> None:
        super().__init__(InstanceNorm(num_features, affine=False), num_features, code_dim)


class CodedGenerator(ImageNetwork, Float32Buffers):
    """Base of generators that may take a posterior code [B, code_dim]; none for `code_dim` 0.

    With `num_classes` they take a condition [B, num_classes] (see `networks.classes`) in its place.

    The fp32 buffers `code_mean` and `code_std` [code_dim] are moving averages over the codes of
    real images, for sampling without real images (section 4.5).
    """

    code_mean: Tensor
    code_std: Tensor
    tracked_buffers: tuple[str, ...] = ("code_mean", "code_std")
    """Buffers that are already averages, so the moving average of the weights copies them."""

    def __init__(self, z_dim: int, code_dim: int, num_classes: int = 0) -> None:
        super().__init__()
        if code_dim and num_classes:
            raise ValueError(f"code_dim={code_dim} and num_classes={num_classes}: use one of them")
        self.z_dim, self.code_dim, self.num_classes = z_dim, code_dim, num_classes
        if code_dim:
            self.register_buffer("code_mean", torch.zeros(code_dim))
            self.register_buffer("code_std", torch.ones(code_dim))

    def check(self, z: Tensor, code: Tensor | None) -> None:
        """Raise ValueError for latents or codes of wrong shapes, or an unexpected code."""
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}, expected [B, {self.z_dim}]")
        wanted = self.code_dim or self.num_classes
        if not wanted:
            if code is not None:
                raise ValueError("a generator with code_dim=0 takes no code; leave it out")
            return
        expected = (z.shape[0], wanted)
        if code is None or tuple(code.shape) != expected:
            shape = "none" if code is None else tuple(code.shape)
            raise ValueError(f"code has shape {shape}, expected {expected}: one per sample of z")

    @torch.no_grad()
    def track_codes(self, mean: Tensor, std: Tensor) -> None:
        """Move `code_mean` and `code_std` by a tenth towards mean, std [code_dim] (section 4.5)."""
        self.code_mean.lerp_(mean.to(self.code_mean), CODE_MOMENTUM)
        self.code_std.lerp_(std.to(self.code_std), CODE_MOMENTUM)


class BatchNormGenerator(CodedGenerator):
    """Base of batch-normalised generators: z [B, z_dim] -> images, optionally with a code.

    With `code_dim` 0 the forward pass is `generator(z)`. Otherwise it is
    `generator(z, code [B, code_dim], share=1.0)`: every normalisation is a `PosteriorNorm`, and
    `share=0.0` is the pretraining phase without posterior modules (P2GAN, section 4.5). With the
    norm "instance", instance normalisation takes the place of batch normalisation.

    With `num_classes`, the condition takes the place of the code: every class then has its own
    scale and shift of each normalised feature, which is conditional batch normalisation (de Vries
    et al., "Modulating early visual processing by language", NIPS 2017, in the form for classes of
    Miyato & Koyama, ICLR 2018).

    A subclass creates its normalisations with `new_norm` and implements `synthesize`, which passes
    `*condition` (nothing, or code and share) to each of them.

    Raises:
        ValueError: for inputs of wrong shapes, or an unexpected code.
    """

    def __init__(
        self,
        z_dim: int,
        code_dim: int,
        batch_statistics: Literal["global", "local"],
        norm: GeneratorNormalisation = "batch",
        num_classes: int = 0,
    ) -> None:
        super().__init__(z_dim, code_dim, num_classes)
        self.batch_statistics: Literal["global", "local"] = batch_statistics
        self.norm_type: GeneratorNormalisation = norm

    def new_norm(self, num_features: int) -> nn.Module:
        """A normalisation called as `norm(x, *condition)`."""
        dim = self.code_dim or self.num_classes
        if self.norm_type == "instance":
            return PosteriorInstanceNorm(num_features, dim) if dim else InstanceNorm(num_features)
        if dim:
            return PosteriorBatchNorm(num_features, dim, statistics=self.batch_statistics)
        return GlobalBatchNorm(num_features, statistics=self.batch_statistics)

    def synthesize(self, z: Tensor, *condition: Tensor | float) -> Tensor:
        """Images [B, 3, R, R] in [-1, 1] for checked inputs."""
        raise NotImplementedError

    def forward(self, z: Tensor, code: Tensor | None = None, share: float = 1.0) -> Tensor:
        self.check(z, code)
        return self.synthesize(z) if code is None else self.synthesize(z, code, share)
