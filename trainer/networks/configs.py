"""The networks of this program: settings, capabilities, and how they are built.

Nothing here loads torch before a network is built: the command line needs only the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from realness.trainer.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    positive,
    register,
)
from realness.trainer.config.base import automatic
from realness.trainer.config.networks import GeneratorNormalisation, Normalisation

if TYPE_CHECKING:
    from torch import nn


@register("dcgan", prefix="")
@dataclass(frozen=True)
class DCGANGeneratorConfig(GeneratorConfig):
    """DCGAN. Settings of `DCGANGenerator`."""

    conditional: ClassVar[bool] = True
    codes: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    g_width: int = automatic(32)
    """Channels of G at half the output resolution R; auto is 8,192/R: 1,024 at 4x4 (Radford)."""
    g_activation: Literal["relu", "lrelu"] = "relu"
    """Activation function in G."""
    g_norm: GeneratorNormalisation = "batch"
    """Normalisation in G: batch, or instance, of each image by itself (P2GAN's Table 7)."""
    batch_statistics: Literal["global", "local"] = "global"
    """Compute batch normalisation over the batch of all ranks, or over each rank's own share."""

    @property
    def shares_statistics(self) -> bool:
        return self.batch_statistics == "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_width")

    def build(
        self, resolution: int, code_dim: int, growing: bool = False, num_classes: int = 0
    ) -> nn.Module:
        from realness.trainer.networks.dcgan import DCGANGenerator

        return DCGANGenerator(
            z_dim=self.z_dim,
            width=self.g_width,
            resolution=resolution,
            code_dim=code_dim,
            growing=growing,
            activation=self.g_activation,
            batch_statistics=self.batch_statistics,
            norm=self.g_norm,
            num_classes=num_classes,
        )


@register("dcgan", prefix="")
@dataclass(frozen=True)
class DCGANDiscriminatorConfig(DiscriminatorConfig):
    """DCGAN. Settings of `DCGANDiscriminator`."""

    conditional: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("spectral", "layer", "none")

    d_width: int = automatic(32)
    """Channels of D at half the input resolution R; auto is 8,192/R: 1,024 at 4x4 (Radford)."""
    d_activation: Literal["lrelu", "relu", "silu"] = "lrelu"
    """Activation function in D: LeakyReLU, ReLU, or SiLU (x * sigmoid(x)), which is smooth."""
    d_norm: Normalisation = "spectral"
    """Normalisation in D: spectral for its weights, layer for its features, or none."""

    @property
    def smooth(self) -> bool:
        return self.d_activation == "silu"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_width")

    def build(
        self, resolution: int, num_outputs: int, growing: bool = False, num_classes: int = 0
    ) -> nn.Module:
        from realness.trainer.networks.dcgan import DCGANDiscriminator

        return DCGANDiscriminator(
            width=self.d_width,
            resolution=resolution,
            num_outputs=num_outputs,
            growing=growing,
            norm=self.d_norm,
            activation=self.d_activation,
            num_classes=num_classes,
        )


@register("resnet", prefix="")
@dataclass(frozen=True)
class ResNetGeneratorConfig(GeneratorConfig):
    """FAR-GAN's ResNet without normalisation. Settings of `ResNetGenerator`."""

    conditional: ClassVar[bool] = True
    recompute: ClassVar[bool] = True

    g_width: int = 32
    """Channels of G in the image stage."""
    g_max_channels: int = 512
    """Maximum channels per stage of G."""
    g_blocks: Literal[1, 2] = 1
    """Residual blocks per stage of G."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_width", "g_max_channels")

    def build(self, resolution: int, code_dim: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.resnet import ResNetGenerator

        if code_dim:
            raise ValueError(
                f"--generator=resnet has no normalisation layers that a posterior code (code_dim="
                f"{code_dim}) could control; use --generator dcgan, sn-resnet or stylegan2"
            )
        return ResNetGenerator(
            z_dim=self.z_dim,
            width=self.g_width,
            max_channels=self.g_max_channels,
            blocks=self.g_blocks,
            resolution=resolution,
            num_classes=num_classes,
        )


@register("resnet", prefix="")
@dataclass(frozen=True)
class ResNetDiscriminatorConfig(DiscriminatorConfig):
    """FAR-GAN's ResNet. Settings of `ResNetDiscriminator`."""

    conditional: ClassVar[bool] = True
    recompute: ClassVar[bool] = True

    d_width: int = 32
    """Channels of D in the image stage."""
    d_max_channels: int = 512
    """Maximum channels per stage of D."""
    d_blocks: Literal[1, 2] = 1
    """Residual blocks per stage of D."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_width", "d_max_channels")

    def build(self, resolution: int, num_outputs: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.resnet import ResNetDiscriminator

        return ResNetDiscriminator(
            width=self.d_width,
            max_channels=self.d_max_channels,
            blocks=self.d_blocks,
            resolution=resolution,
            num_outputs=num_outputs,
            num_classes=num_classes,
        )


@register("sn-resnet", prefix="")
@dataclass(frozen=True)
class SNResNetGeneratorConfig(GeneratorConfig):
    """The batch-normalised ResNet of SNGAN. Settings of `SNResNetGenerator`."""

    conditional: ClassVar[bool] = True
    codes: ClassVar[bool] = True

    g_width: int = 32
    """A quarter of the channels of G in every stage."""
    g_activation: Literal["relu", "lrelu"] = "relu"
    """Activation function in G."""
    g_norm: GeneratorNormalisation = "batch"
    """Normalisation in G: batch, or instance, of each image by itself (P2GAN's Table 7)."""
    batch_statistics: Literal["global", "local"] = "global"
    """Compute batch normalisation over the batch of all ranks, or over each rank's own share."""

    @property
    def shares_statistics(self) -> bool:
        return self.batch_statistics == "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_width")

    def build(self, resolution: int, code_dim: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.sn_resnet import SNResNetGenerator

        return SNResNetGenerator(
            z_dim=self.z_dim,
            width=self.g_width,
            resolution=resolution,
            code_dim=code_dim,
            activation=self.g_activation,
            batch_statistics=self.batch_statistics,
            norm=self.g_norm,
            num_classes=num_classes,
        )


@register("sn-resnet", prefix="")
@dataclass(frozen=True)
class SNResNetDiscriminatorConfig(DiscriminatorConfig):
    """The ResNet of SNGAN. Settings of `SNResNetDiscriminator`."""

    conditional: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("spectral", "layer", "none")
    recompute: ClassVar[bool] = True

    d_width: int = 32
    """Half of the channels of D in every stage."""
    d_norm: Normalisation = "spectral"
    """Normalisation in D: spectral for its weights, layer for its features, or none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_width")

    def build(self, resolution: int, num_outputs: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.sn_resnet import SNResNetDiscriminator

        return SNResNetDiscriminator(
            width=self.d_width,
            resolution=resolution,
            num_outputs=num_outputs,
            norm=self.d_norm,
            num_classes=num_classes,
        )
