"""Generators and discriminators.

To add a network: write its module here, add its name to `GeneratorConfig.generator` or
`DiscriminatorConfig.discriminator`, and a builder to the table below. Initial weights come from
torch's default random generator, so the caller seeds it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from realness import kernels
from realness.trainer.config import DiscriminatorConfig, GeneratorConfig
from realness.trainer.networks.batch_norm import GlobalBatchNorm
from realness.trainer.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from realness.trainer.networks.layer_norm import LayerNorm
from realness.trainer.networks.posterior import BatchNormGenerator, PosteriorBatchNorm
from realness.trainer.networks.spectral_norm import (
    SpectralConv2d,
    SpectralLinear,
    update_spectral_norm,
)

__all__ = [
    "BatchNormGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "GlobalBatchNorm",
    "LayerNorm",
    "PosteriorBatchNorm",
    "SpectralConv2d",
    "SpectralLinear",
    "build_discriminator",
    "build_generator",
    "update_spectral_norm",
]


def _dcgan_generator(
    config: GeneratorConfig, resolution: int, impl: kernels.Impl, code_dim: int
) -> nn.Module:
    return DCGANGenerator(
        z_dim=config.z_dim,
        width=config.g_width,
        resolution=resolution,
        code_dim=code_dim,
        activation=config.g_activation,
        batch_statistics=config.batch_statistics,
    )


def _dcgan_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int, impl: kernels.Impl
) -> nn.Module:
    return DCGANDiscriminator(
        width=config.d_width,
        resolution=resolution,
        num_outputs=num_outputs,
        norm=config.d_norm,
        impl=impl,
    )


GENERATORS: dict[str, Callable[[GeneratorConfig, int, kernels.Impl, int], nn.Module]] = {
    "dcgan": _dcgan_generator,
}
DISCRIMINATORS: dict[str, Callable[[DiscriminatorConfig, int, int, kernels.Impl], nn.Module]] = {
    "dcgan": _dcgan_discriminator,
}


def build_generator(
    config: GeneratorConfig, resolution: int, impl: kernels.Impl = "auto", code_dim: int = 0
) -> nn.Module:
    """A generator: z [B, z_dim] -> images [B, 3, resolution, resolution] in [-1, 1].

    With `code_dim` > 0, the objective's, it is called with a code too: see `BatchNormGenerator`.

    Raises:
        ValueError: for a resolution that the architecture does not have, or a code where it has no
            batch normalisation to steer.
    """
    return GENERATORS[config.generator](config, resolution, impl, code_dim)


def build_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int, impl: kernels.Impl = "auto"
) -> nn.Module:
    """A discriminator: images [B, 3, resolution, resolution] -> outputs [B, num_outputs].

    `num_outputs` is the objective's. Raises:
        ValueError: for a resolution that the architecture does not have.
    """
    return DISCRIMINATORS[config.discriminator](config, resolution, num_outputs, impl)
