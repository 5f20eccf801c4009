"""StyleGAN2's networks: settings, capabilities, and how they are built; see `configs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from realness.trainer.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    not_negative,
    positive,
    register,
    require,
)

if TYPE_CHECKING:
    from torch import nn


@register("stylegan2", prefix="")
@dataclass(frozen=True)
class StyleGAN2GeneratorConfig(GeneratorConfig):
    """StyleGAN2, configuration F. Settings of `StyleGAN2Generator`."""

    conditional: ClassVar[bool] = True
    styles: ClassVar[bool] = True
    codes: ClassVar[bool] = True
    recompute: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    g_max_channels: int = 512
    """Maximum channels per stage of G."""
    g_channel_base: int = 32768
    """Channels of a stage times its side length in pixels, up to --g-max-channels."""
    w_dim: int = 512
    """Dimensions of the styles w."""
    mapping_layers: int = 8
    """Fully connected layers from z to w."""
    style_mixing: float = 0.9
    """Fraction of training images whose styles come from two latents."""
    g_clamp: float = 0.0
    """Limit the outputs of G's convolutions to this absolute value, as NVIDIA's code does (256); 0
    for no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "g_max_channels", "g_channel_base", "w_dim", "mapping_layers")
        not_negative(self, "g_clamp")
        require(
            0 <= self.style_mixing <= 1,
            f"--style-mixing={self.style_mixing} is a fraction and must lie in [0, 1]",
        )

    def counterpart(self, name: str, doublings: int) -> str:
        """Blocks count from 4x4, so that all names stay."""
        return name

    def build(
        self, resolution: int, code_dim: int, growing: bool = False, num_classes: int = 0
    ) -> nn.Module:
        from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
        from realness.trainer.networks.stylegan2_layers import set_bound

        network = StyleGAN2Generator(
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
            channel_base=self.g_channel_base,
            max_channels=self.g_max_channels,
            resolution=resolution,
            style_mixing=self.style_mixing,
            code_dim=code_dim,
            num_classes=num_classes,
        )
        set_bound(network, self.g_clamp)
        return network


@register("stylegan2", prefix="")
@dataclass(frozen=True)
class StyleGAN2DiscriminatorConfig(DiscriminatorConfig):
    """StyleGAN2, configuration F. Settings of `StyleGAN2Discriminator`."""

    conditional: ClassVar[bool] = True
    recompute: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    d_max_channels: int = 512
    """Maximum channels per stage of D."""
    d_channel_base: int = 32768
    """Channels of a stage times its side length in pixels, up to --d-max-channels."""
    minibatch_group: int = 4
    """Images per group whose standard deviation is an input of D; 1 disables it."""
    d_clamp: float = 0.0
    """Limit the outputs of D's convolutions to this absolute value, as NVIDIA's code does (256); 0
    for no limit."""

    @property
    def group(self) -> int:
        return self.minibatch_group

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_max_channels", "d_channel_base", "minibatch_group")
        not_negative(self, "d_clamp")

    def counterpart(self, name: str, doublings: int) -> str:
        """Blocks count from the image, and the layer from the image belongs to its resolution."""
        parts = name.split(".")
        if parts[0] == "blocks":
            number = int(parts[1]) + doublings
            return ".".join(["blocks", str(number), *parts[2:]]) if number >= 0 else ""
        return "" if doublings and parts[0] == "from_image" else name

    def build(
        self, resolution: int, num_outputs: int, growing: bool = False, num_classes: int = 0
    ) -> nn.Module:
        from realness.trainer.networks.stylegan2_discriminator import StyleGAN2Discriminator
        from realness.trainer.networks.stylegan2_layers import set_bound

        network = StyleGAN2Discriminator(
            channel_base=self.d_channel_base,
            max_channels=self.d_max_channels,
            resolution=resolution,
            num_outputs=num_outputs,
            growing=growing,
            group=self.group,
            num_classes=num_classes,
        )
        set_bound(network, self.d_clamp)
        return network
