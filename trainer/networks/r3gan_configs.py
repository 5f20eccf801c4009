"""R3GAN's networks: settings, capabilities, and how they are built.

Nothing here loads torch before a network is built: the command line needs only the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from realness.trainer.config import DiscriminatorConfig, GeneratorConfig, positive, register

if TYPE_CHECKING:
    from torch import nn


@register("r3gan", prefix="")
@dataclass(frozen=True)
class R3GANGeneratorConfig(GeneratorConfig):
    """R3GAN. Settings of `R3GANGenerator`."""

    recompute: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    g_max_channels: int = 768
    """Maximum channels per stage of G."""
    g_channel_base: int = 24576
    """Channels of a stage times its side length in pixels, up to --g-max-channels."""
    g_blocks: Literal[1, 2] = 2
    """Residual blocks per stage of G."""
    g_expansion: int = 2
    """Channels of G's grouped convolutions, as a multiple of those of the stage."""
    g_group_channels: int = 16
    """Channels per group of G's grouped convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_max_channels", "g_channel_base", "g_expansion", "g_group_channels")

    def build(self, resolution: int, code_dim: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.r3gan import R3GANGenerator

        if code_dim:
            raise ValueError(
                f"--generator=r3gan has no normalisation layers that a posterior code (code_dim="
                f"{code_dim}) could control; use --generator dcgan, sn-resnet or stylegan2"
            )
        return R3GANGenerator(
            z_dim=self.z_dim,
            max_channels=self.g_max_channels,
            channel_base=self.g_channel_base,
            blocks=self.g_blocks,
            expansion=self.g_expansion,
            group_channels=self.g_group_channels,
            resolution=resolution,
            num_classes=num_classes,
        )


@register("r3gan", prefix="")
@dataclass(frozen=True)
class R3GANDiscriminatorConfig(DiscriminatorConfig):
    """R3GAN. Settings of `R3GANDiscriminator`."""

    recompute: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    d_max_channels: int = 768
    """Maximum channels per stage of D."""
    d_channel_base: int = 24576
    """Channels of a stage times its side length in pixels, up to --d-max-channels."""
    d_blocks: Literal[1, 2] = 2
    """Residual blocks per stage of D."""
    d_expansion: int = 2
    """Channels of D's grouped convolutions, as a multiple of those of the stage."""
    d_group_channels: int = 16
    """Channels per group of D's grouped convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_max_channels", "d_channel_base", "d_expansion", "d_group_channels")

    def build(self, resolution: int, num_outputs: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.r3gan import R3GANDiscriminator

        return R3GANDiscriminator(
            max_channels=self.d_max_channels,
            channel_base=self.d_channel_base,
            blocks=self.d_blocks,
            expansion=self.d_expansion,
            group_channels=self.d_group_channels,
            resolution=resolution,
            num_classes=num_classes,
            num_outputs=num_outputs,
        )
