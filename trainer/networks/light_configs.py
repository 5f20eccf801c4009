"""The light networks: settings, capabilities, and how they are built.

Nothing here loads torch before a network is built: the command line needs only the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from realness.trainer.config import DiscriminatorConfig, GeneratorConfig, positive, register

if TYPE_CHECKING:
    from torch import nn


@register("light", prefix="")
@dataclass(frozen=True)
class LightGeneratorConfig(GeneratorConfig):
    """Gated convolutions for few images and short runs. Settings of `LightGenerator`."""

    conditional: ClassVar[bool] = True
    codes: ClassVar[bool] = True

    g_width: int = 32
    """Channels of G at the output resolution."""
    g_max_channels: int = 512
    """Maximum channels per stage of G."""
    g_grey: bool = False
    """G draws without colour, for data without colour."""
    batch_statistics: Literal["global", "local"] = "global"
    """Compute batch normalisation over the batch of all ranks, or over each rank's own share."""

    @property
    def shares_statistics(self) -> bool:
        return self.batch_statistics == "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_width", "g_max_channels")

    def build(self, resolution: int, code_dim: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.light import LightGenerator

        return LightGenerator(
            z_dim=self.z_dim,
            width=self.g_width,
            max_channels=self.g_max_channels,
            resolution=resolution,
            grey=self.g_grey,
            code_dim=code_dim,
            batch_statistics=self.batch_statistics,
            num_classes=num_classes,
        )


@register("light", prefix="")
@dataclass(frozen=True)
class LightDiscriminatorConfig(DiscriminatorConfig):
    """Strided convolutions for few images and short runs. Settings of `LightDiscriminator`."""

    conditional: ClassVar[bool] = True
    recompute: ClassVar[bool] = True

    d_width: int = 32
    """Half of the channels of D at half the input resolution."""
    d_max_channels: int = 512
    """Maximum channels per stage of D."""
    minibatch_group: int = 4
    """Images per group whose standard deviation is an input of D; 1 disables it."""

    @property
    def group(self) -> int:
        return self.minibatch_group

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_width", "d_max_channels", "minibatch_group")

    def build(self, resolution: int, num_outputs: int, num_classes: int = 0) -> nn.Module:
        from realness.trainer.networks.light import LightDiscriminator

        return LightDiscriminator(
            width=self.d_width,
            max_channels=self.d_max_channels,
            resolution=resolution,
            num_outputs=num_outputs,
            group=self.group,
            num_classes=num_classes,
        )
