"""Generators and discriminators.

To add a network: write its module here, add its name to `GeneratorConfig.generator` or
`DiscriminatorConfig.discriminator`, and a builder to the table below. Initial weights come from
torch's default random generator, so the caller seeds it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from realness.trainer.config import DiscriminatorConfig, GeneratorConfig
from realness.trainer.networks.batch_norm import (
    GlobalBatchNorm,
    has_batch_statistics,
    parts_of_one_batch,
)
from realness.trainer.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from realness.trainer.networks.inputs import sampling_inputs, training_inputs
from realness.trainer.networks.layer_norm import LayerNorm
from realness.trainer.networks.layout import ImageNetwork, choose_layout
from realness.trainer.networks.posterior import BatchNormGenerator, PosteriorBatchNorm
from realness.trainer.networks.recompute import recompute_blocks
from realness.trainer.networks.resnet import ResNetDiscriminator, ResNetGenerator
from realness.trainer.networks.sn_resnet import SNResNetDiscriminator, SNResNetGenerator
from realness.trainer.networks.spectral_norm import (
    SpectralConv2d,
    SpectralLinear,
    update_spectral_norm,
)
from realness.trainer.networks.stylegan2_discriminator import StyleGAN2Discriminator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator

__all__ = [
    "BatchNormGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "GlobalBatchNorm",
    "ImageNetwork",
    "LayerNorm",
    "PosteriorBatchNorm",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "SNResNetDiscriminator",
    "SNResNetGenerator",
    "SpectralConv2d",
    "SpectralLinear",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "build_discriminator",
    "build_generator",
    "choose_layout",
    "has_batch_statistics",
    "parts_of_one_batch",
    "recompute_blocks",
    "sampling_inputs",
    "training_inputs",
    "update_spectral_norm",
]


def _dcgan_generator(config: GeneratorConfig, resolution: int, code_dim: int) -> nn.Module:
    return DCGANGenerator(
        z_dim=config.z_dim,
        width=config.g_width,
        resolution=resolution,
        code_dim=code_dim,
        activation=config.g_activation,
        batch_statistics=config.batch_statistics,
    )


def _dcgan_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int
) -> nn.Module:
    return DCGANDiscriminator(
        width=config.d_width,
        resolution=resolution,
        num_outputs=num_outputs,
        norm=config.d_norm,
        activation=config.d_activation,
    )


def _resnet_generator(config: GeneratorConfig, resolution: int, code_dim: int) -> nn.Module:
    if code_dim:
        raise ValueError(
            f"--generator=resnet has no normalisation layers that a posterior code (code_dim="
            f"{code_dim}) could control; use --generator dcgan, sn-resnet or stylegan2"
        )
    return ResNetGenerator(
        z_dim=config.z_dim,
        width=config.g_width,
        max_channels=config.g_max_channels,
        blocks=config.g_blocks,
        resolution=resolution,
    )


def _resnet_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int
) -> nn.Module:
    return ResNetDiscriminator(
        width=config.d_width,
        max_channels=config.d_max_channels,
        blocks=config.d_blocks,
        resolution=resolution,
        num_outputs=num_outputs,
    )


def _sn_resnet_generator(config: GeneratorConfig, resolution: int, code_dim: int) -> nn.Module:
    return SNResNetGenerator(
        z_dim=config.z_dim,
        width=config.g_width,
        resolution=resolution,
        code_dim=code_dim,
        activation=config.g_activation,
        batch_statistics=config.batch_statistics,
    )


def _sn_resnet_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int
) -> nn.Module:
    return SNResNetDiscriminator(
        width=config.d_width,
        resolution=resolution,
        num_outputs=num_outputs,
        norm=config.d_norm,
    )


def _stylegan2_generator(config: GeneratorConfig, resolution: int, code_dim: int) -> nn.Module:
    return StyleGAN2Generator(
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        mapping_layers=config.mapping_layers,
        channel_base=config.g_channel_base,
        max_channels=config.g_max_channels,
        resolution=resolution,
        style_mixing=config.style_mixing,
        code_dim=code_dim,
    )


def _stylegan2_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int
) -> nn.Module:
    return StyleGAN2Discriminator(
        channel_base=config.d_channel_base,
        max_channels=config.d_max_channels,
        resolution=resolution,
        num_outputs=num_outputs,
        group=config.group,
    )


GENERATORS: dict[str, Callable[[GeneratorConfig, int, int], nn.Module]] = {
    "dcgan": _dcgan_generator,
    "resnet": _resnet_generator,
    "sn-resnet": _sn_resnet_generator,
    "stylegan2": _stylegan2_generator,
}
DISCRIMINATORS: dict[str, Callable[[DiscriminatorConfig, int, int], nn.Module]] = {
    "dcgan": _dcgan_discriminator,
    "resnet": _resnet_discriminator,
    "sn-resnet": _sn_resnet_discriminator,
    "stylegan2": _stylegan2_discriminator,
}


def build_generator(config: GeneratorConfig, resolution: int, code_dim: int = 0) -> nn.Module:
    """Build a generator: z [B, z_dim] -> images [B, 3, resolution, resolution] in [-1, 1].

    With the objective's `code_dim` > 0, it also takes a code: see `CodedGenerator`. Any further
    inputs are drawn by `training_inputs` and `sampling_inputs`.

    Raises:
        ValueError: for a resolution that the architecture does not support, or a code that it
            cannot use.
    """
    return GENERATORS[config.generator](config, resolution, code_dim)


def build_discriminator(
    config: DiscriminatorConfig, resolution: int, num_outputs: int
) -> nn.Module:
    """Build a discriminator: images [B, 3, resolution, resolution] -> outputs [B, num_outputs].

    `num_outputs` is set by the objective.

    Raises:
        ValueError: for a resolution that the architecture does not support.
    """
    return DISCRIMINATORS[config.discriminator](config, resolution, num_outputs)
