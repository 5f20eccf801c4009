"""Real images, and the two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import any_time, not_negative, positive, require


@dataclass(frozen=True)
class DataConfig:
    """Real images."""

    data: str = any_time("")
    """Folder, zip or tar shards of square images (launch/prepare.py packs any collection)."""
    resolution: int = 1024
    """Side of the images in pixels; a power of two from 32 to 1024."""
    mirror: bool = True
    """Flip half of the images left to right."""
    dequantize: bool = False
    """Add uniform noise of one grey level (1/127.5) to real images, as FAR-GAN does."""
    decoder: Literal["auto", "dali", "threads"] = any_time("auto")
    """Who decodes: DALI, our threads, or DALI where it can be imported."""
    decode_threads: int = any_time(4)
    """Decoding threads of each rank."""
    max_bad_images: int = any_time(100)
    """Unreadable images that are replaced (each named once) before the run stops."""

    def __post_init__(self) -> None:
        size = self.resolution
        require(
            32 <= size <= 1024 and size & (size - 1) == 0,
            f"--resolution={size} must be a power of two from 32 to 1024",
        )
        positive(self, "decode_threads")
        not_negative(self, "max_bad_images")


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator G: z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]."""

    generator: Literal["dcgan", "resnet", "sn-resnet"] = "dcgan"
    """DCGAN; FAR-GAN's ResNet without normalisation; or the batch-normalised ResNet of SNGAN."""
    z_dim: int = 128
    """Dimensions of the latent z ~ N(0, I)."""
    g_width: int = 32
    """Channels of G at half the output resolution (dcgan), of the image stage (resnet), or a
    quarter of the channels of every stage (sn-resnet)."""
    g_max_channels: int = 512
    """Most channels of a stage of the resnet."""
    g_blocks: Literal[1, 2] = 1
    """Residual blocks of a stage of the resnet."""
    g_activation: Literal["relu", "lrelu"] = "relu"
    """Activation inside G."""
    batch_statistics: Literal["global", "local"] = "global"
    """Batch normalisation over the batch of all ranks, or over each rank's own."""

    def __post_init__(self) -> None:
        positive(self, "z_dim", "g_width", "g_max_channels")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator D: images [B, 3, R, R] -> outputs [B, K]."""

    discriminator: Literal["dcgan", "resnet", "sn-resnet"] = "dcgan"
    """DCGAN; FAR-GAN's ResNet; or the ResNet of SNGAN."""
    d_width: int = 32
    """Channels of D at half the input resolution (dcgan), of the image stage (resnet), or half of
    the channels of every stage (sn-resnet)."""
    d_norm: Literal["spectral", "layer", "none"] = "spectral"
    """Spectral normalisation of D's weights, layer normalisation of its features, or none."""
    d_max_channels: int = 512
    """Most channels of a stage of the resnet."""
    d_blocks: Literal[1, 2] = 1
    """Residual blocks of a stage of the resnet."""

    def __post_init__(self) -> None:
        positive(self, "d_width", "d_max_channels")
        require(
            self.discriminator != "resnet" or self.d_norm == "none",
            f"--discriminator=resnet has no normalisation, but --d-norm={self.d_norm}; use "
            "--d-norm none, or --discriminator sn-resnet",
        )
